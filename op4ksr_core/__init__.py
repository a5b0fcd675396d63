"""OP4KSR: one-step, patch-free 4K super-resolution (method: arXiv 2605.13457)."""

__version__ = "0.1.0"
