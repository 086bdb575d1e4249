"""How events are kept: append, read a stream, read the log."""
