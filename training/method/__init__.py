"""What the paper says: networks, objective, noise schedule, sampling, and the bundle."""
