"""One training run: start, loop, checkpoints, reports."""
