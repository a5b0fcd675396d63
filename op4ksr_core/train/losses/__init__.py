"""Training losses, one file each: a plain function and a module, in float32 (float64 where that comes in)."""
