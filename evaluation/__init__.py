"""How good a set of synthetic pairs is, measured on real ones."""
