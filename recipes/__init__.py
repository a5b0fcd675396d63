"""How bundled weights were made. Not part of the wheel or of the published archive."""
