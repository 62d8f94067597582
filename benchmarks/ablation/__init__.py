"""The study on real nuclei: which recipe, how many pairs, which sampler settings."""
