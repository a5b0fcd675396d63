"""How the embedded model is made: scenes, degradation, and the three training stages."""
