"""Pairs from masks and weights without a page: on one GPU, one machine, or a cluster."""
