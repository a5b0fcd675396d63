"""Lattices in pictures: found, drawn, and taken away."""
