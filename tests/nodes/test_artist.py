"""What a new artist does first, in each frontend and renderer, from an empty base directory.

With ARTIST_SHOTS=FOLDER each step leaves screenshots at 1280x720 and 1600x900 there, to be looked at.
"""

import json
import re

import pytest
import torch
from PIL import Image
from places import DEMO, ROOT

from op4ksr_core.picture.read import read_picture
from op4ksr_core.settings import PRESETS

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


def test_portrait_with_protect(desk, shoot, tmp_path):
    """Where the face is, the least is changed, and the mask and the report say so."""
    portrait = tmp_path / "portrait.png"
    Image.open(DEMO).resize((SIDE, SIDE)).save(portrait)
    assert desk.load(QUICKSTART) == []
    make_room(desk)
    load, upscale = bring(desk, portrait), the_one(desk, "OP4KSR_UpscaleTo4K")
    desk.connect(load, "IMAGE", upscale, "image")
    desk.delete("OP4KSR_SamplePhoto")
    desk.set_widgets({"size": SIDE, "protect": "faces"})
    show_mask = desk.add("Convert Mask to Image", 700, 800)
    desk.connect(upscale, "protected", show_mask, "mask")
    preview = desk.add("Preview Image", 1000, 800)
    desk.connect(show_mask, "IMAGE", preview, "images")
    entry = desk.run_and_stay()
    shoot("run")
    report = desk.text_shown(the_one(desk, "PreviewAny"))
    assert re.search(r"faces.*\d+% of the picture", report), report
    mask = read_picture(desk.server.picture(entry, preview)).rgb
    assert mask[0, 0, 55, 112] == 1 and mask[0, 0, 200, 30] == 0
    desk.wait_for_picture(preview, SIDE, SIDE)


(BLUEPRINT,) = (ROOT / "subgraphs").glob("*.json")


def test_blueprint(desk, shoot, tmp_path):
    """Pulled from the node library onto an empty canvas."""
    if is_old(desk):
        pytest.skip("0.3.64 serves no blueprints of extensions: its server has no /global_subgraphs")
    own, page = tmp_path / "for_blueprint.png", desk.page
    Image.open(DEMO).resize((128, 128)).save(own)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => app.graph._nodes.length == 0")
    library = "() => app.extensionManager.command.execute('Workspace.ToggleSidebarTab.node-library')"
    page.evaluate(library)
    page.get_by_placeholder("Search").first.click()
    page.keyboard.type(BLUEPRINT.stem)
    found = page.locator("[role=treeitem][draggable=true]").filter(has_text=BLUEPRINT.stem)
    found.wait_for()
    shoot("library")
    found.hover()
    page.mouse.down()
    page.mouse.move(800, 300, steps=10)
    page.wait_for_timeout(300)
    page.mouse.up()
    page.wait_for_function("() => app.graph._nodes.length == 1")
    page.evaluate(library)
    (blueprint,) = page.evaluate("() => app.graph._nodes.map((n) => String(n.id))")
    knobs = page.evaluate("() => app.graph._nodes[0].widgets.map((w) => [w.name, w.value])")
    preset = PRESETS["embedded"]
    assert dict(knobs) == {
        "long_side": 4096,
        "sigma_mid": preset.sigma,
        "fidelity": preset.fidelity,
        "compensation": preset.compensation,
    }
    load, save = bring(desk, own), desk.add("Save Image", 1300, 300)
    desk.connect(load, "IMAGE", blueprint, "image")
    desk.connect(blueprint, "IMAGE", save, "images")
    desk.set_widgets({"long_side": SIDE})
    shoot("connected")
    entry = desk.run_and_stay()
    shoot("run")
    assert Image.open(desk.server.picture(entry, save)).size == (SIDE, SIDE)
    desk.wait_for_picture(save, SIDE, SIDE)


def test_app(desk, shoot, tmp_path):
    """The template opens as an app: a picture is chosen, and Run shows both."""
    if is_old(desk):
        pytest.skip("the frontend of 0.3.64 has no app mode")
    own, page = tmp_path / "for_app.png", desk.page
    Image.open(DEMO).resize((128, 128)).save(own)
    desk.load(WORKFLOWS / "op4ksr_2_app.json")
    shoot("opened")
    for name in ("image", "size", "strength", "content"):
        assert page.get_by_text(name, exact=True).last.is_visible(), name
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Click to browse").click()
    chooser.value.set_files(own)
    page.locator(f"img[src*='{own.name}']:visible").first.wait_for()
    desk.set_widgets({"size": SIDE})
    shoot("chosen")
    entry = desk.run_and_stay(button=page.get_by_role("button", name="Run", exact=True).last)
    shoot("run")
    for kind in ("PreviewImage", "SaveImage"):
        made = desk.server.picture(entry, the_one(desk, kind))
        shown = page.locator(f"img[src*='{made.name}']:visible").first
        assert shown.evaluate("(i) => [i.naturalWidth, i.naturalHeight]") == [SIDE, SIDE]


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_in_the_artists_language(desk, shoot, language):
    """Titles, notes, names of inputs and outputs, and a tooltip; and the graph counts as unchanged."""
    texts = json.loads((ROOT / "locales" / language / "main.json").read_text())["op4ksrTemplates"]
    nodes = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())
    node, compare = nodes["OP4KSR_UpscaleTo4K"], nodes["ImageCompare"]
    workflow, vue = json.loads(QUICKSTART.read_text()), desk.page.evaluate("() => LiteGraph.vueNodesMode")
    desk.choose_language(language)
    try:
        desk.draw_with_vue(vue)
        assert desk.load(QUICKSTART) == []
        shoot("opened")
        upscale = the_one(desk, "OP4KSR_UpscaleTo4K")
        shown = desk.page.evaluate(
            """() => [...app.graph._groups, ...app.graph._nodes].map((n) => n.title)
                .concat(app.graph._nodes.filter((n) => n.type == 'MarkdownNote').map((n) => n.widgets[0].value))"""
        )
        expected = [titled["title"] for titled in workflow["groups"] + workflow["nodes"] if "title" in titled]
        expected += [n["widgets_values"][0] for n in workflow["nodes"] if n["type"] == "MarkdownNote"]
        assert {texts[text] for text in expected} | {node["display_name"], compare["display_name"]} <= set(shown)
        names = desk.page.evaluate(
            """(id) => {
                const {inputs, outputs} = app.graph.getNodeById(id), name = (slot) => [slot.name, slot.localized_name]
                return [...inputs, ...outputs].map(name)
            }""",
            upscale,
        )
        both = [*node["inputs"].values(), *node["outputs"].values()]
        assert sorted(shown for _, shown in names) == sorted(entry["name"] for entry in both)
        desk.hover(upscale, "strength")  # Vue nodes of the frontend 1.49 find translated tooltips of widgets alone
        desk.page.get_by_text(node["inputs"]["strength"]["tooltip"]).last.wait_for()
        assert not desk.page.evaluate("() => app.extensionManager.workflow.activeWorkflow.isModified")
        desk.set_widgets({"size": SIDE})
        before_and_after(desk, desk.run_and_stay(), (256, 144))
        shoot("run")
    finally:
        desk.choose_language("en")
