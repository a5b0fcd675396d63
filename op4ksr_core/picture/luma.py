"""Weights of red, green and blue in BT.601's luma. No torch, so that numpy code can take them too."""

FULL_RANGE = (0.299, 0.587, 0.114)
"""Y of RGB, both in the same range."""

LIMITED_RANGE = (65.481, 128.553, 24.966)
"""Y - 16 of RGB in [0, 1]; Y is then in 16 to 235."""
