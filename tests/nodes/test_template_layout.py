"""What an artist sees of the templates: boxes that do not cover one another, in their own language."""

import json

import pytest
from browser import Frontend
from places import ROOT
from stand_ins import write_esrgan
from test_workflows import WORKFLOWS

RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
QUICKSTART = ROOT / "workflows" / "op4ksr_1_quickstart.json"
LATTICE_CHECK = ROOT / "workflows" / "op4ksr_any_upscaler_then_lattice_check.json"


@pytest.fixture
def desk(frontend, server) -> Frontend:
    """A frontend on a server that has what the lattice check's template downloads."""
    write_esrgan(server.base / "models" / "upscale_models" / "RealESRGAN_x4plus.safetensors")
    return frontend


def meet(one, other):
    return one[1] < other[3] and other[1] < one[3] and one[2] < other[4] and other[2] < one[4]


def is_inside(one, other):
    return one[1] >= other[1] and one[2] >= other[2] and one[3] <= other[3] and one[4] <= other[4]


def collisions(boxes):
    """Pairs of nodes or groups that overlap, and nodes that are partly in a group. A reroute may lie between groups."""
    for alike in (boxes["nodes"] + boxes["reroutes"], boxes["groups"]):
        for number, one in enumerate(alike):
            yield from ((one, other) for other in alike[number + 1 :] if meet(one, other))
    for node in boxes["nodes"]:
        yield from ((node, group) for group in boxes["groups"] if meet(node, group) and not is_inside(node, group))


@RENDERERS
def test_no_box_covers_another(desk, vue):
    desk.draw_with_vue(vue)
    for path in WORKFLOWS:
        desk.load(path)
        desk.page.wait_for_timeout(500)  # the renderer measures the nodes' texts
        assert list(collisions(desk.boxes())) == [], path.stem


@pytest.mark.parametrize(
    ("path", "vue"),
    [
        (QUICKSTART, True),
        pytest.param(QUICKSTART, False, marks=pytest.mark.slow),
        pytest.param(LATTICE_CHECK, False, marks=pytest.mark.slow),
        pytest.param(LATTICE_CHECK, True, marks=pytest.mark.slow),
    ],
    ids=["quickstart vue", "quickstart classic", "lattice check classic", "lattice check vue"],
)
def test_no_box_covers_another_after_a_run(desk, path, vue):
    """Previews, reports and comparisons grow."""
    desk.draw_with_vue(vue)
    assert desk.load(path) == []
    desk.set_widgets({"size": 256})
    assert desk.run_and_stay(timeout=900)["status"]["status_str"] == "success"
    assert list(collisions(desk.boxes())) == []


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_a_template_opens_in_the_artists_language_and_counts_as_unchanged(desk, language):
    desk.choose_language(language)
    try:
        desk.load(QUICKSTART)
        shown = desk.page.evaluate(
            """() => [...app.graph._groups.map((g) => g.title), ...app.graph._nodes.map((n) => n.title),
                ...app.graph._nodes.filter((n) => n.type == 'MarkdownNote').map((n) => n.widgets[0].value)]"""
        )
        changed = desk.page.evaluate("() => app.extensionManager.workflow.activeWorkflow.isModified")
    finally:
        desk.choose_language("en")
    texts = json.loads((ROOT / "locales" / language / "main.json").read_text())["op4ksrTemplates"]
    workflow = json.loads(QUICKSTART.read_text())
    english = [group["title"] for group in workflow["groups"]] + ["Before", "After", "Report"]
    english += [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    assert {texts[text] for text in english} <= set(shown) and not changed
