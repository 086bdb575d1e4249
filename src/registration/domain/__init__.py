"""What is true about a patient and what may happen to one. Pure: no clock, no I/O, no HTTP."""
