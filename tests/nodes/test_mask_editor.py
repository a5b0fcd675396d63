"""MaskEditor in the real frontend: a stroke of the mouse, saved, is what strength_mask gets."""

import pytest
from PIL import Image
from places import DEMO, ROOT

from op4ksr_core.picture.read import read_picture

QUICKSTART = ROOT / "workflows" / "op4ksr_1_quickstart.json"
SOURCE, SIDE = 128, 256
"""px of the picture that is painted on, and of the result."""

BRUSH = 10
"""px of the picture: the radius of MaskEditor's brush as it comes."""


def open_own_picture(frontend):
    """The quickstart with a Load Image in place of its photo, both of whose outputs are connected."""
    Image.open(DEMO).resize((SOURCE, SOURCE)).save(frontend.server.base / "input" / "own.png")
    assert frontend.load(QUICKSTART) == []
    frontend.page.evaluate(
        """() => {
            const load = LiteGraph.createNode('LoadImage')
            app.graph.add(load)
            const [upscale] = app.graph.findNodesByType('OP4KSR_UpscaleTo4K')
            load.connect(0, upscale, 'image')
            load.connect(1, upscale, 'strength_mask')
            load.widgets[0].value = 'own.png'
            load.widgets[0].callback('own.png')
            app.canvas.select(load)
        }"""
    )
    shows = "() => app.graph.findNodesByType('LoadImage')[0].imgs?.[0].src.includes('own.png')"
    frontend.page.wait_for_function(shows)


def paint(page):
    """A vertical stroke at a quarter of the width, over the middle half of the height, then Save."""
    page.evaluate("() => app.extensionManager.command.execute('Comfy.MaskEditor.OpenMaskEditor')")
    canvas = page.locator(f"canvas[width='{SOURCE}'][height='{SOURCE}']").last
    canvas.wait_for()
    page.wait_for_timeout(2000)  # it opens at another zoom
    box = canvas.bounding_box()
    x, top, bottom = box["x"] + box["width"] / 4, box["y"] + box["height"] / 4, box["y"] + box["height"] * 3 / 4
    page.mouse.move(x, top)
    page.mouse.down()
    page.mouse.move(x, bottom, steps=20)
    page.mouse.up()
    page.get_by_text("Save", exact=True).last.click()
    page.wait_for_function("() => app.graph.findNodesByType('LoadImage')[0].widgets[0].value != 'own.png'")


def picture_of(server, graph, entry, kind):
    """What the one node of this type shows."""
    (number,) = (number for number, node in graph.items() if node["class_type"] == kind)
    shown = entry["outputs"][number]["images"][0]
    return read_picture(server.base / shown["type"] / shown["subfolder"] / shown["filename"]).rgb


def change_of(server, graph, painted_means):
    """|after - before| of a run, (SIDE, SIDE), of 255."""
    (upscale,) = (node for node in graph.values() if node["class_type"] == "OP4KSR_UpscaleTo4K")
    upscale["inputs"] |= {"size": SIDE, "painted_means": painted_means}
    entry = server.run(graph, timeout=600)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    after, before = (picture_of(server, graph, entry, kind) for kind in ("SaveImage", "PreviewImage"))
    return (after - before).abs().amax(1)[0] * 255


@pytest.mark.slow
def test_what_is_painted_is_kept_or_restored(desk):
    open_own_picture(desk)
    paint(desk.page)
    graph = desk.page.evaluate("async () => (await app.graphToPrompt()).output")
    desk.page.goto("about:blank")  # its drawing takes a core
    middle, reach, ends = SIDE // 4, BRUSH * SIDE // SOURCE, slice(SIDE // 4, SIDE * 3 // 4)
    inside = slice(middle - reach // 2, middle + reach // 2)
    beside = slice(middle + 2 * reach, SIDE)
    kept, restored = (change_of(desk.server, graph, meaning) for meaning in ("keep there", "restore there"))
    assert float(kept[ends, inside].max()) <= 1 < 8 < float(kept[ends, beside].max())
    assert float(restored[ends, beside].max()) <= 1 < 8 < float(restored[ends, inside].max())
