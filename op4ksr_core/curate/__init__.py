"""Training pictures chosen as OP4KSR (arXiv 2605.13457) chose 4KSR-Train: scores first, decisions from them."""
