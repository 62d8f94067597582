"""What nodes, training and evaluation share: files, hashes, images, lists of pairs."""
