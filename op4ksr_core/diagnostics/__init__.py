"""What theta, sigma and the transformer do, as numbers and pictures."""
