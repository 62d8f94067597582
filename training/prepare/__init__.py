"""Public datasets, as their owners publish them, made into train, val and test pairs."""
