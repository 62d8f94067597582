"""Long use: whether memory or file handles grow, and whether the last result equals the first."""
