"""The method: positions, the one step, the F16 VAE and exact, lighter forms of their layers."""
