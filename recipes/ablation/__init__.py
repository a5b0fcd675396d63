"""The paper's ablation (OP4KSR, arXiv 2605.13457, table 6) on a model that a CPU trains in minutes."""
