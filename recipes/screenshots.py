"""The templates' thumbnails: a card that says what a template does.

    python -m recipes.screenshots
"""

from pathlib import Path

from PIL import Image, ImageDraw

from op4ksr_core.picture.charts import font

ROOT = Path(__file__).parent.parent
TEMPLATES = ROOT / "workflows"
CARD = (600, 450)
"""px of a thumbnail."""

CARDS = {
    "op4ksr_2k_f2idiff": ("F2IDiff-SR,\nconditioned by\nthe picture", "one step at 2048 px, DINOv2 tokens"),
    "op4ksr_2k_omgsr_flux": ("FLUX.1-dev\n+ OMGSR-F\nadapters", "one step at 2048 px, F8 VAE"),
    "op4ksr_2k_osediff": ("OSEDiff on\nStable Diffusion\n2.1-base", "one step at 2048 px, tiles of 768"),
    "op4ksr_2k_tvt": ("TVT with its\n4x autoencoder", "one step at 2048 px, tiles of 768"),
    "op4ksr_4k_ultraflux_op4ksr": ("UltraFlux\n+ OP4KSR\nadapters", "one step at 4096 px"),
    "op4ksr_4k_ultraflux_refine": ("UltraFlux\nwithout\nadapters", "refined in 8 steps at 4096 px"),
    "op4ksr_any_upscaler_then_lattice_check": ("Any upscaler,\nthen a look\nfor a lattice", "inspect, suppress, add detail"),
    "op4ksr_generate_then_4k": ("FLUX.1\ntext to image,\nthen 4K", "1024 px to 4096 px"),
    "op4ksr_inspect_and_sweep": ("See the lattice,\ncompare thetas", "inspector, sweep, latents"),
    "op4ksr_keep_what_passed": ("Keep what\npassed the check,\nelse try again", "nothing to download"),
    "op4ksr_seedvr2_then_lattice_check": ("SeedVR2, then\na look for\nits lattice", "inspect, suppress, add detail"),
}
"""Templates whose models do not come with this pack, or whose result is no picture -> title, and what it takes."""


def card(title: str, below: str) -> Image.Image:
    """The icon, a title of at most three lines and one line below."""
    picture = Image.new("RGB", CARD, (18, 24, 38))
    icon = Image.open(ROOT / "docs" / "icon.png").convert("RGBA").resize((110, 110), Image.Resampling.LANCZOS)
    picture.paste(icon, (44, 34), icon)
    draw = ImageDraw.Draw(picture)
    draw.multiline_text((44, 170), title, fill=(232, 236, 247), font=font(56), spacing=12)
    draw.text((44, 390), below, fill=(255, 176, 64), font=font(28))
    return picture


def main() -> None:
    for name, (title, below) in CARDS.items():
        card(title, below).save(TEMPLATES / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
