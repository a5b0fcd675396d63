"""What each family of models adds to the training loop, one file each."""
