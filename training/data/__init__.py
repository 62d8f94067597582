"""From files to batches: lists of pairs, checked datasets, cached latents, order."""
