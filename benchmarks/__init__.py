"""Speed and memory, side by side in one run with the published training procedure."""
