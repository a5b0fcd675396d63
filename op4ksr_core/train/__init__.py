"""Training adapters: data, losses, the loop, checkpoints."""
