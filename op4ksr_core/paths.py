"""Where the files that come with the package lie."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
EMBEDDED = ASSETS / "embedded"
"""The bundled model: a diffusers folder with transformer, vae and prompt.safetensors."""
COMPENSATION = ASSETS / "compensation.safetensors"
DENOISER = ASSETS / "denoiser.safetensors"
FACES = ASSETS / "subjects" / "faces.safetensors"
LETTERING = ASSETS / "subjects" / "lettering.safetensors"
DEMO_PHOTO = ASSETS / "demo" / "colosseum.jpg"
"""1024x576, CC0, held out of the bundled model's training."""
