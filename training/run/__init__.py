"""One training run: start, loop, checkpoints, pictures."""
