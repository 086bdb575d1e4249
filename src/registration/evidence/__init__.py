"""What shows that a log is the one that was written: its tree, signed checkpoints, proofs."""
