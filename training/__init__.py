"""Training: a command line, never imported by the nodes."""
