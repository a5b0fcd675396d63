"""Training losses, one file each: a plain function, float32."""
