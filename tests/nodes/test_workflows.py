"""The example workflows in the real frontend: opened, queued, and their pictures looked at."""

import json
import os
import urllib.request
from pathlib import Path

import pytest
import torch
from places import ROOT, SAMPLE
from stand_ins import write_seedvr2, write_stand_ins

from op4ksr_core.geometry import LongSide
from op4ksr_core.picture.read import read_picture

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
SMALL = {"long_side": 256, "size": 256, "width": 128, "height": 128, "batch_size": 1}
NEWER = {"op4ksr_keep_what_passed": (0, 33), "op4ksr_seedvr2_then_lattice_check": (0, 33)}
"""Templates on nodes that ComfyUI has from that version on."""
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


@pytest.fixture(scope="module")
def stand_ins(server):
    write_stand_ins(server.base)
    (server.base / "input" / "photo.png").write_bytes((server.base / "input" / "astronaut.png").read_bytes())


def saved(server, entry):
    """The one picture that a run wrote to the output folder."""
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    [node] = [n for n, out in entry["outputs"].items() if any(i["type"] == "output" for i in out.get("images", []))]
    return read_picture(server.picture(entry, node)).rgb


def skip_unless_new_enough(server, path):
    version = tuple(int(part) for part in server.version.split(".")[:2])
    if version < NEWER.get(path.stem, (0, 0)):
        pytest.skip(f"{path.stem} needs ComfyUI {'.'.join(map(str, NEWER[path.stem]))}")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_fit_the_nodes(server, path):
    """Every node exists and names its pack, loaders of single files offer them, every link has both its ends, every
    widget has its value, and there is a thumbnail."""
    skip_unless_new_enough(server, path)
    workflow = json.loads(path.read_text())
    assert path.with_suffix(".jpg").exists()
    info, nodes = server.get("/object_info"), {n["id"]: n for n in workflow["nodes"]}
    for entry in nodes.values():
        if entry["type"] in ("MarkdownNote", "Reroute"):
            continue
        ours = entry["type"].startswith("OP4KSR")
        assert entry["properties"]["cnr_id"] == ("op4ksr" if ours else "comfy-core")
        if entry["type"] in ("UNETLoader", "VAELoader", "DualCLIPLoader", "UpscaleModelLoader"):
            offered = [model["name"] for model in entry["properties"]["models"]]
            assert offered == [v for v in entry["widgets_values"] if v.endswith(".safetensors")]
            assert all(model["url"].endswith(f"/{model['name']}") for model in entry["properties"]["models"])
        inputs = info[entry["type"]]["input"]
        declared = inputs.get("required", {}) | inputs.get("optional", {})
        assert {slot["name"] for slot in entry["inputs"]} <= declared.keys()
        if entry["type"].startswith("OP4KSR"):
            widgets = [n for n, kind in declared.items() if isinstance(kind[0], list) or kind[0] in WIDGETS]
            assert len(entry["widgets_values"]) == len(widgets)
    for _, source, out, target, into, kind in workflow["links"]:
        assert nodes[source]["outputs"][out]["type"] == kind
        assert nodes[target]["inputs"][into]["type"] in (kind, "*")


FORMER = {
    "4k_quickstart": "op4ksr_1_quickstart",
    "op4ksr_4k_quickstart": "op4ksr_1_quickstart",
    "inspect_and_sweep": "op4ksr_inspect_and_sweep",
}


@pytest.mark.parametrize(("former", "name"), FORMER.items())
def test_links_under_former_names_open(server, former, name):
    found = server.get(f"/api/workflow_templates/op4ksr/{former}.json")
    assert found == json.loads((ROOT / "workflows" / f"{name}.json").read_text())
    listed = server.get("/api/workflow_templates")["op4ksr"]
    assert not FORMER.keys() & set(listed)


def test_the_first_template_is_listed_first(server):
    """ComfyUI lists a folder in the file system's order, and its frontend shows them so."""
    listed = server.get("/api/workflow_templates")["op4ksr"]
    assert listed == sorted(listed) and listed[0] == "op4ksr_1_quickstart"


def test_thumbnails_are_served(server):
    """By a route of ours: newer servers serve the graphs of a folder alone."""
    for path in WORKFLOWS:
        address = f"{server.url}/api/workflow_templates/op4ksr/{path.stem}.jpg"
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.headers["Content-Type"] == "image/jpeg"
            assert answer.read() == path.with_suffix(".jpg").read_bytes()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_report_stays_and_a_comparison_shows_in_every_renderer(path):
    """The line under a node is cleared when a run ends, and Compare Images draws with Vue nodes alone."""
    workflow = json.loads(path.read_text())
    types = {node["id"]: node["type"] for node in workflow["nodes"]}
    fed = {(source, out): set() for _, source, out, *_ in workflow["links"]}
    for _, source, out, target, into, _ in workflow["links"]:
        fed[source, out].add((types[target], into))
    for number, kind in types.items():
        if kind in ("OP4KSR_UpscaleTo4K", "OP4KSR_Upscale"):
            assert {("PreviewAny", 0), ("ComfySwitchNode", 0), ("ComfySwitchNode", 1)} & fed[number, 3]
    assert all(("PreviewImage", 0) in targets for targets in fed.values() if ("ImageCompare", 0) in targets)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_boxes_do_not_overlap(path):
    workflow = json.loads(path.read_text())
    nodes = [node for node in workflow["nodes"] if node["type"] != "Reroute"]
    title = 30
    boxes = [(n["pos"][0], n["pos"][1] - title, *map(sum, zip(n["pos"], n["size"], strict=True))) for n in nodes]
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            assert one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]


FREE_PX = (1190, 610)
"""Of a window of 1280x720, beside the menus."""

READABLE = 8 / 14
"""The smallest scale at which classic nodes have text: ComfyUI leaves out what is below 8 px."""


@pytest.mark.parametrize("name", ["op4ksr_1_quickstart", "op4ksr_2_app", "op4ksr_4k_transparent"])
def test_a_first_template_can_be_read_whole_on_a_small_screen(name):
    groups = [group["bounding"] for group in json.loads((ROOT / "workflows" / f"{name}.json").read_text())["groups"]]
    for side, free in enumerate(FREE_PX):
        first, last = min(g[side] for g in groups), max(g[side] + g[side + 2] for g in groups)
        assert free / (last - first) > READABLE


@pytest.mark.parametrize("name", ["op4ksr_1_quickstart", "op4ksr_2_app"])
def test_an_app_shows_widgets_and_outputs_of_its_graph(server, name):
    """Newer frontends drop what they do not find without a word; the size, the strength and both pictures are there."""
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text())
    types = {node["id"]: node["type"] for node in workflow["nodes"]}
    shown, info = workflow["extra"]["linearData"], server.get("/object_info")
    for number, widget in shown["inputs"]:
        inputs = info[types[number]]["input"]
        assert widget in inputs.get("required", {}) | inputs.get("optional", {})
    assert {"size", "strength"} <= {widget for _, widget in shown["inputs"]}
    assert [types[number] for number in shown["outputs"]] == ["PreviewImage", "SaveImage"]


NEED_WEIGHTS = {"UNETLoader", "VAELoader", "DualCLIPLoader", "UpscaleModelLoader"}
NEED_WEIGHTS |= {"OP4KSR_LoadPrompt", "OP4KSR_LoadDiffusers", "OP4KSR_LoadUNetAdapter", "CLIPVisionLoader"}


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_templates_open_without_a_warning(newest_frontend, path, vue):
    """In the newest frontend, on a base directory without pictures or weights: only missing weights may be marked."""
    newest_frontend.draw_with_vue(vue)
    marked = {entry["node"] for entry in newest_frontend.load(path)}
    newest_frontend.page.wait_for_timeout(1000)  # notices come a moment after the graph
    assert marked <= NEED_WEIGHTS and not any("edia" in text for text in newest_frontend.warnings())


# OP4KSR_SIDE=4096 runs the quickstart as it is shipped.
@pytest.mark.each_version
@pytest.mark.parametrize(
    ("name", "long_side"),
    [("op4ksr_1_quickstart", int(os.environ.get("OP4KSR_SIDE", "1024"))), ("op4ksr_4k_step_by_step", 1024)],
)
def test_through_the_frontend_equals_headless(embedded, frontend, server, name, long_side):
    assert frontend.load(ROOT / "workflows" / f"{name}.json") == []
    frontend.set_widgets({"long_side": long_side, "size": long_side})
    shown = saved(server, frontend.run())
    expected = embedded(read_picture(SAMPLE).rgb, LongSide(long_side))
    assert shown.shape == expected.shape and max(shown.shape[-2:]) == long_side
    assert float((shown - expected).abs().max()) * 255 <= 2


OTHER_SIDES = {"op4ksr_any_upscaler_then_lattice_check": 4 * 1024, "op4ksr_three_thetas": 3 * 256 + 2 * 8}


RUN_BY_THEMSELVES = ("op4ksr_1_quickstart", *NEWER)
MINUTES = {"op4ksr_generate_then_4k"}
"""Templates that take two minutes on two cores: run by `make test-all` alone."""
RUN = [pytest.param(path, marks=pytest.mark.slow if path.stem in MINUTES else ()) for path in WORKFLOWS]


@pytest.mark.parametrize("path", [p for p in RUN if p.values[0].stem not in RUN_BY_THEMSELVES], ids=lambda p: p.stem)
def test_every_workflow_opens_and_runs(frontend, server, stand_ins, path):
    assert frontend.load(path) == []
    frontend.set_widgets(SMALL | {"image": "astronaut.png"})
    steps = json.loads(path.read_text())
    if any(node["type"] == "KSampler" for node in steps["nodes"]):
        frontend.set_widgets({"steps": 1})
    shown = saved(server, frontend.run())
    side = OTHER_SIDES.get(path.stem, 256)
    assert max(shown.shape[-2:]) == side and torch.isfinite(shown).all() and float(shown.std()) > 0.01


SEEDVR2 = ROOT / "workflows" / "op4ksr_seedvr2_then_lattice_check.json"


@pytest.fixture(scope="module")
def seedvr2(server, tmp_path_factory):
    skip_unless_new_enough(server, SEEDVR2)
    write_seedvr2(server, tmp_path_factory.mktemp("seedvr2"))


@pytest.mark.slow
def test_behind_seedvr2_at_its_full_size(seedvr2, server, frontend):
    """Of zeros: 7 GB, and two minutes on two cores. SeedVR2's colour correction gives the picture its colours."""
    assert frontend.load(SEEDVR2) == []
    frontend.set_widgets({"scale_by": 0.25, "tile_size": 256, "overlap": 64})
    shown = saved(server, frontend.run(timeout=900))
    assert shown.shape[-2:] == (144, 256) and torch.isfinite(shown).all() and float(shown.std()) > 0.01


KEEP = ROOT / "workflows" / "op4ksr_keep_what_passed.json"


@pytest.fixture
def first_and_second_try(server, frontend):
    """The template's graph as the server takes it, small, and the numbers of both tries."""
    skip_unless_new_enough(server, KEEP)
    assert frontend.load(KEEP) == []
    graph = frontend.page.evaluate("async () => (await app.graphToPrompt()).output")
    first, second = (n for n, entry in graph.items() if entry["class_type"] == "OP4KSR_UpscaleTo4K")
    assert graph[first]["inputs"]["strength"] > graph[second]["inputs"]["strength"]
    for number in (first, second):
        graph[number]["inputs"]["size"] = 256
    return graph, graph[first]["inputs"], graph[second]["inputs"]


def test_a_picture_that_passed_is_kept_and_nothing_else_runs(server, first_and_second_try):
    graph, _, second = first_and_second_try
    second["size_mode"] = "fit"  # of no width and no height: an error, were it run
    shown = saved(server, server.run(graph))
    assert shown.shape[-2:] == (144, 256) and float(shown.std()) > 0.01


def test_a_picture_that_did_not_pass_is_made_again(server, first_and_second_try, random_weights):
    graph, first, second = first_and_second_try
    ramp = {"class_type": "LoadImage", "inputs": {"image": "ramp.png"}}
    first |= {"model": ["files", 0], "vae": ["files", 1], "conditioning": ["prompt", 0], "preset": "op4ksr"}
    first["image"] = ["ramp", 0]
    entry = server.run(graph | random_weights | {"ramp": ramp})
    (report,) = [out["text"][0] for out in entry["outputs"].values() if "text" in out]
    assert saved(server, entry).shape[-2:] == (144, 256) and "Preset embedded" in report


FIRST = sorted((Path(__file__).parent / "first_release").glob("*.json"))


@pytest.mark.each_version
@pytest.mark.parametrize("path", FIRST, ids=lambda p: p.stem)
def test_graphs_of_the_first_release_open_and_run(frontend, server, path):
    """Their widgets' values stand where they stood, and what was added since has its default."""
    marked = {entry["node"] for entry in frontend.load(path)}
    assert marked <= {"LoadImage"}  # the first quickstart's spare one names a picture that is not there
    saved_nodes = {n["id"]: n for n in json.loads(path.read_text())["nodes"] if n["type"].startswith("OP4KSR")}
    shown = frontend.page.evaluate(
        "() => Object.fromEntries(app.graph._nodes.map((n) => [n.id, (n.widgets ?? []).map((w) => w.value)]))"
    )
    for number, node in saved_nodes.items():
        values = node.get("widgets_values", [])
        assert shown[str(number)][: len(values)] == values
    frontend.set_widgets(SMALL | {"image": "astronaut.png"})
    assert max(saved(server, frontend.run()).shape[-2:]) == 256
