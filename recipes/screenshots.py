"""The templates' pictures: a thumbnail beside each graph, and a screenshot of it for the documents.

    python -m recipes.screenshots [NAME ...] [--open-only | --side 1024 | --nodes] [--comfyui ~/ComfyUI-0.33]

Opens the templates in ComfyUI's own frontend with Vue nodes, in a window of 1600x900, runs those that need no download
and writes docs/workflows/NAME.jpg and workflows/NAME.jpg. NAME makes those alone, --side runs them at that long side,
and --open-only runs none and keeps the thumbnails that are results. --nodes makes the pictures of the help pages in
their place, web/docs/pictures/NAME.jpg; NAME is OP4KSR_Suppress, for example. Where ComfyUI and Chromium lie:
tests/README.md.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from playwright.sync_api import sync_playwright

from op4ksr_core.picture.charts import font

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "helpers"))  # how the tests drive a server and a browser

from browser import FLAGS, Frontend, chromium  # noqa: E402
from comfy_server import running_server  # noqa: E402
from places import DEMO  # noqa: E402
from stand_ins import write_stand_ins  # noqa: E402

TEMPLATES, SHOTS = ROOT / "workflows", ROOT / "docs" / "workflows"
NODES = ROOT / "web" / "docs" / "pictures"
WINDOW = {"width": 1600, "height": 900}
TABS = 37
"""px at the top of the window that name the graphs which were open before."""

THUMBNAIL = (600, 450)
"""px."""

EDGE = 12
"""px around a node's picture."""

QUALITY = 80
MINUTES = 30
"""In which a template has to end."""

CARDS = {
    "op4ksr_2k_f2idiff": ("F2IDiff-SR,\nconditioned by\nthe picture", "one step at 2048 px, DINOv2 tokens"),
    "op4ksr_2k_omgsr_flux": ("FLUX.1-dev\n+ OMGSR-F\nadapters", "one step at 2048 px, F8 VAE"),
    "op4ksr_2k_osediff": ("OSEDiff on\nStable Diffusion\n2.1-base", "one step at 2048 px, tiles of 768"),
    "op4ksr_2k_tvt": ("TVT with its\n4x autoencoder", "one step at 2048 px, tiles of 768"),
    "op4ksr_4k_ultraflux_op4ksr": ("UltraFlux\n+ OP4KSR\nadapters", "one step at 4096 px"),
    "op4ksr_4k_ultraflux_refine": ("UltraFlux\nwithout\nadapters", "refined in 8 steps at 4096 px"),
    "op4ksr_any_upscaler_then_lattice_check": (
        "Any upscaler,\nthen a look\nfor a lattice",
        "inspect, suppress, add detail",
    ),
    "op4ksr_generate_then_4k": ("FLUX.1\ntext to image,\nthen 4K", "1024 px to 4096 px"),
    "op4ksr_inspect_and_sweep": ("See the lattice,\ncompare thetas", "inspector, sweep, latents"),
    "op4ksr_keep_what_passed": ("Keep what\npassed the check,\nelse try again", "nothing to download"),
    "op4ksr_seedvr2_then_lattice_check": ("SeedVR2, then\na look for\nits lattice", "inspect, suppress, add detail"),
}
"""Templates whose models do not come with this pack, or whose result is no picture -> title, and what it takes."""


@dataclass(frozen=True)
class Place:
    """Where a thumbnail is cut out of a result, as shares of its width and height: its middle. shrink: so many px of
    the result are one of the thumbnail."""

    x: float
    y: float
    shrink: int = 1

    def cut(self, picture: Image.Image, size: tuple[int, int] = THUMBNAIL) -> Image.Image:
        """A part that is of this size in px when it is shrunk."""
        width, height = (self.shrink * side for side in size)
        left = min(max(0, round(self.x * picture.width - width / 2)), picture.width - width)
        top = min(max(0, round(self.y * picture.height - height / 2)), picture.height - height)
        return picture.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.LANCZOS)


PLACES = {
    "op4ksr_1_quickstart": Place(0.38, 0.55),
    "op4ksr_2_app": Place(0.44, 0.2, shrink=2),
    "op4ksr_4k_step_by_step": Place(0.4, 0.75),
}
"""Templates that show before and after -> where."""

RUN = [*PLACES, "op4ksr_4k_transparent", "op4ksr_three_thetas", "op4ksr_inspect_and_sweep", "op4ksr_keep_what_passed"]
"""Templates that need no download."""


def card(title: str, below: str) -> Image.Image:
    """The icon, a title of at most three lines and one line below."""
    picture = Image.new("RGB", THUMBNAIL, (18, 24, 38))
    icon = Image.open(ROOT / "docs" / "icon.png").convert("RGBA").resize((110, 110), Image.Resampling.LANCZOS)
    picture.paste(icon, (44, 34), icon)
    draw = ImageDraw.Draw(picture)
    draw.multiline_text((44, 170), title, fill=(232, 236, 247), font=font(56), spacing=12)
    draw.text((44, 390), below, fill=(255, 176, 64), font=font(28))
    return picture


def halves(before: Image.Image, after: Image.Image, place: Place) -> Image.Image:
    """The same place of both: its left half before, its right half after, with a line between."""
    picture, right = place.cut(before), place.cut(after)
    width, height = picture.size
    picture.paste(right.crop((width // 2, 0, width, height)), (width // 2, 0))
    ImageDraw.Draw(picture).line([(width // 2, 0), (width // 2, height)], fill="white", width=2)
    return picture


def on_squares(picture: Image.Image, side: int = 25) -> Image.Image:
    """A transparent picture, cut and shrunk to a thumbnail, on the squares that stand for transparency."""
    width, height = THUMBNAIL
    factor = max(width / picture.width, height / picture.height)
    small = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.LANCZOS)
    small = Place(0.35, 0.5).cut(small)
    squares = Image.new("RGB", THUMBNAIL, (255, 255, 255))
    draw = ImageDraw.Draw(squares)
    for row in range(height // side):
        for column in range(row % 2, width // side, 2):
            draw.rectangle((column * side, row * side, (column + 1) * side, (row + 1) * side), fill=(205, 205, 205))
    squares.paste(small, (0, 0), small)
    return squares


def thirds(picture: Image.Image) -> Image.Image:
    """The same place of three pictures that stand side by side, at 1:1."""
    width, height = THUMBNAIL
    sheet, third = Image.new("RGB", THUMBNAIL, "white"), picture.width // 3
    for number in range(3):
        one = picture.crop((number * third, 0, (number + 1) * third, picture.height))
        sheet.paste(Place(0.4, 0.6).cut(one, (width // 3 - 4, height)), (number * width // 3 + 2, 0))
    return sheet


def picture_of(base: Path, workflow: dict[str, Any], entry: dict[str, Any], kind: str) -> Image.Image:
    """The picture of the one node of this type. Raises ValueError where there is not one such node."""
    (number,) = (str(node["id"]) for node in workflow["nodes"] if node["type"] == kind)
    shown = entry["outputs"][number]["images"][0]
    folder = base / {"output": "output", "temp": "temp"}[shown["type"]]
    return Image.open(folder / shown["subfolder"] / shown["filename"])


def thumbnail(name: str, base: Path, workflow: dict[str, Any], entry: dict[str, Any]) -> Image.Image:
    """Of a template that was run."""
    after = picture_of(base, workflow, entry, "SaveImage")
    if name == "op4ksr_4k_transparent":
        return on_squares(after)
    if name == "op4ksr_three_thetas":
        return thirds(after.convert("RGB"))
    before = picture_of(base, workflow, entry, "PreviewImage")
    return halves(before.convert("RGB"), after.convert("RGB"), PLACES[name])


def lay_out(base: Path) -> None:
    """The picture that op4ksr_2_app opens, and small or empty files under the names of what the templates need: those
    are opened, not run, and nothing is marked as missing."""
    (base / "input" / "astronaut.png").write_bytes(DEMO.read_bytes())
    write_stand_ins(base)
    for path in TEMPLATES.glob("*.json"):
        for node in json.loads(path.read_text())["nodes"]:
            for model in node["properties"].get("models", []):
                place = base / "models" / model["directory"] / model["name"]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()


@contextmanager
def opened(comfyui: Path) -> Iterator[Frontend]:
    """A server with an empty base directory, and its frontend with Vue nodes, without what covers a graph."""
    with tempfile.TemporaryDirectory() as folder, running_server(comfyui, Path(folder)) as server:
        lay_out(server.base)
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=chromium(), args=FLAGS).new_page(viewport=WINDOW)
            frontend = Frontend(page, server)
            page.evaluate(
                """async () => {
                    const set = (name, value) => app.extensionManager.setting.set(name, value)
                    await set('Comfy.TutorialCompleted', true)
                    await set('Comfy.Minimap.Visible', false)
                    await set('Comfy.Graph.CanvasInfo', false)
                }"""
            )
            frontend.draw_with_vue(True)
            yield frontend


def make(frontend: Frontend, name: str, run: bool, side: int | None) -> None:
    """The screenshot of one template, and its thumbnail where that is a result at the template's own size."""
    path = TEMPLATES / f"{name}.json"
    workflow = json.loads(path.read_text())
    frontend.load(path)
    frontend.page.wait_for_timeout(1000)
    frontend.page.keyboard.press("Escape")  # an app's tour
    if name == "op4ksr_2_app":
        frontend.set_widgets({"image": "astronaut.png"})
    if side is not None:
        frontend.set_widgets({"size": side, "long_side": side})
    if run and name in RUN:
        entry = frontend.run_and_stay(timeout=60 * MINUTES)
        if entry["status"]["status_str"] != "success":
            raise RuntimeError(f"{name}: {entry['status']['messages'][-1]}")
        if name not in CARDS and side is None:
            save(thumbnail(name, frontend.server.base, workflow, entry), path.with_suffix(".jpg"))
    frontend.show_all()
    SHOTS.mkdir(exist_ok=True)
    shown = {"x": 0, "y": TABS, "width": WINDOW["width"], "height": WINDOW["height"] - TABS}
    frontend.page.screenshot(path=SHOTS / f"{name}.jpg", type="jpeg", quality=QUALITY, clip=shown)


def picture_node(frontend: Frontend, name: str) -> None:
    """The picture of one node for its help page, as it is when it is added."""
    frontend.page.evaluate(
        """(name) => {
            // Not clear(): numbered from 1 again, a node would show the values of the one before.
            for (const other of [...app.graph._nodes]) app.graph.remove(other)
            const node = LiteGraph.createNode(name)
            app.graph.add(node)
            node.pos = [0, 0]
            app.canvas.ds.scale = 1
            app.canvas.ds.offset = [300, 150]
            app.canvas.setDirty(true, true)
        }""",
        name,
    )
    node = frontend.page.locator("[data-node-id]")
    node.wait_for()
    frontend.page.wait_for_timeout(1000)  # it grows to its text
    box = node.bounding_box()
    clip = {"x": box["x"] - EDGE, "y": box["y"] - EDGE, "width": box["width"] + 2 * EDGE}
    clip["height"] = box["height"] + 2 * EDGE
    path = NODES / f"{name.removeprefix('OP4KSR_')}.jpg"
    frontend.page.screenshot(path=path, type="jpeg", quality=QUALITY, clip=clip)


def save(picture: Image.Image, path: Path) -> None:
    picture.save(path, quality=QUALITY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="templates, without .json; all if there is none")
    parser.add_argument("--comfyui", type=Path, default="~/ComfyUI-0.33", help="ComfyUI 0.33 or later")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--open-only", action="store_true", help="run no template")
    how.add_argument("--nodes", action="store_true", help="the nodes, for their help pages")
    how.add_argument("--side", type=int, help="px of the long side, in place of the template's; makes no thumbnails")
    arguments = parser.parse_args()
    folder, ending = (NODES.parent, "*.md") if arguments.nodes else (TEMPLATES, "*.json")
    names = arguments.names or sorted(path.stem for path in folder.glob(ending))
    for name in CARDS.keys() & set(names):
        save(card(*CARDS[name]), TEMPLATES / f"{name}.jpg")
    with opened(arguments.comfyui.expanduser()) as frontend:
        for name in names:
            if arguments.nodes:
                picture_node(frontend, name)
            else:
                make(frontend, name, not arguments.open_only, arguments.side)
            print(name, flush=True)


if __name__ == "__main__":
    main()
