"""What nodes, training and evaluation share: files, hashes, pictures, lists of pairs."""
