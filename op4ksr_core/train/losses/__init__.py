"""Training losses, one file each, in float32 (float64 where that comes in)."""
