"""What a new artist does first, in each frontend and renderer, from an empty base directory.

With ARTIST_SHOTS=FOLDER each step leaves screenshots at 1280x720 and 1600x900 there, to be looked at.
"""

import pytest
import torch
from PIL import Image
from places import DEMO, ROOT

from op4ksr_core.picture.read import read_picture

pytestmark = pytest.mark.slow

WORKFLOWS = ROOT / "workflows"
QUICKSTART = WORKFLOWS / "op4ksr_1_quickstart.json"
SIDE = 256
"""px of the results."""

FREE = (300, 800)
"""A spot of the window where a zoomed graph leaves room for one more node."""


@pytest.fixture
def shoot(request, desk):
    """Names the screenshots after the test."""
    name = request.node.name.removeprefix("test_").translate(str.maketrans("[", "-", "]"))
    return lambda step: desk.shoot(f"{name}-{step}")


def make_room(desk):
    """Scrolls the view away from the graph, with the mouse at the top right."""
    desk.show_all()
    desk.page.mouse.move(1100, 150)
    for _ in range(3):
        desk.page.mouse.wheel(0, 100)
    desk.page.wait_for_timeout(1000)


def is_old(desk):
    return desk.server.version.startswith("0.3.")


def bring(desk, path):
    """Drops a picture on the canvas; returns the id of its Load Image. 0.3.64 makes none of it: there the node is added
    and the file is chosen."""
    desk.drop(path, *FREE)
    if is_old(desk):
        desk.page.get_by_text("Unable to find workflow").first.wait_for()
        node = desk.add("Load Image", *FREE)
        with desk.page.expect_file_chooser() as chooser:
            desk.page.evaluate(
                "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name == 'upload').callback()", node
            )
        chooser.value.set_files(path)
    desk.page.wait_for_function("() => app.graph.findNodesByType('LoadImage').length")
    node = str(desk.page.evaluate("() => app.graph.findNodesByType('LoadImage')[0].id"))
    shows = "([id, name]) => app.graph.getNodeById(id).widgets[0].value == name"
    desk.page.wait_for_function(shows, arg=[node, path.name])
    desk.wait_for_picture(node, *Image.open(path).size)
    desk.page.wait_for_timeout(1000)  # the node grows with its picture
    return node


def the_one(desk, kind):
    """The id of the one node of this type."""
    (node,) = desk.page.evaluate("(kind) => app.graph.findNodesByType(kind).map((n) => String(n.id))", kind)
    return node


def before_and_after(desk, entry, size):
    """Both pictures of a run of the quickstart, which are shown at this (width, height), as is the report."""
    nodes = [the_one(desk, kind) for kind in ("PreviewImage", "SaveImage", "PreviewAny")]
    before, after = (read_picture(desk.server.picture(entry, node)).rgb for node in nodes[:2])
    for node in nodes[:2]:
        desk.wait_for_picture(node, *size)
    report = desk.text_shown(nodes[2])
    assert report == entry["outputs"][nodes[2]]["text"][0] and f"{size[0]}x{size[1]}" in report
    return before, after, report


def test_own_picture(desk, shoot, tmp_path):
    """In the quickstart, in place of its photo."""
    own = tmp_path / "own.png"
    Image.open(DEMO).resize((160, 200)).save(own)
    assert desk.load(QUICKSTART) == []
    shoot("opened")
    make_room(desk)
    load = bring(desk, own)
    desk.connect(load, "IMAGE", the_one(desk, "OP4KSR_UpscaleTo4K"), "image")
    desk.delete("OP4KSR_SamplePhoto")
    desk.set_widgets({"size": SIDE})
    shoot("connected")
    before, after, _ = before_and_after(desk, desk.run_and_stay(), (205, 256))
    shoot("run")
    shrunk = torch.nn.functional.interpolate(before, (200, 160), mode="area")
    assert float((shrunk - read_picture(own).rgb).abs().mean()) < 0.02 < float((after - before).abs().max())


def test_transparent_logo(desk, shoot, tmp_path):
    """As the template's note says: the saved PNG is transparent where the logo is."""
    logo, alpha = tmp_path / "logo.png", [0, 128, 255]
    picture = Image.new("RGBA", (96, 96))
    for number, value in enumerate(alpha):
        picture.paste((200, 60 * number, 40, value), (32 * number, 0, 32 * number + 32, 96))
    picture.save(logo)
    assert desk.load(WORKFLOWS / "op4ksr_4k_transparent.json") == []
    shoot("opened")
    make_room(desk)
    load, upscale = bring(desk, logo), the_one(desk, "OP4KSR_UpscaleTo4K")
    desk.connect(load, "IMAGE", upscale, "image")
    desk.connect(load, "MASK", upscale, "mask")
    desk.delete("OP4KSR_SamplePhoto", "ImageToMask", "ThresholdMask")
    desk.set_widgets({"size": SIDE})
    entry = desk.run_and_stay()
    shoot("run")
    save = the_one(desk, "SaveImage")
    with Image.open(desk.server.picture(entry, save)) as made:
        middles = [made.getchannel("A").getpixel((SIDE * x // 6, SIDE // 2)) for x in (1, 3, 5)]
        assert made.mode == "RGBA" and made.size == (SIDE, SIDE)
    assert all(abs(value - expected) <= 1 for value, expected in zip(middles, alpha, strict=True)), middles
    desk.wait_for_picture(save, SIDE, SIDE)
