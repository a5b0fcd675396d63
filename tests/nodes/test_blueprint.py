"""The blueprint in the node menu: its knobs survive beside other nodes, and its values are the preset's."""

import json

import pytest
from places import ROOT

from op4ksr_core.settings import PRESETS

(BLUEPRINT,) = (ROOT / "subgraphs").glob("*.json")
KNOBS = ["long_side", "sigma_mid", "fidelity", "compensation"]


def test_its_values_are_the_presets_and_its_ids_are_its_own():
    """A graph's first nodes are numbered from 1: an id that is taken is renumbered, and its knob is lost."""
    graph = json.loads(BLUEPRINT.read_text())
    (outside,) = graph["nodes"]
    (inside,) = graph["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in inside["nodes"]}
    assert min([outside["id"], *nodes]) > 1000 and outside["id"] not in nodes
    assert [name for _, name in outside["properties"]["proxyWidgets"]] == KNOBS
    assert all(int(node) in nodes for node, _ in outside["properties"]["proxyWidgets"])
    preset, values = PRESETS["embedded"], {node["type"]: node["widgets_values"] for node in nodes.values()}
    assert values["OP4KSR_Decode"] == [preset.colour, preset.fidelity]
    assert values["OP4KSR_Compensate"] == [preset.compensation, "bundled"]
    assert values["OP4KSR_Sampler"][:2] == [preset.sigma, preset.steps]


@pytest.mark.slow
def test_its_knobs_are_there_beside_other_nodes(newest_frontend):
    page = newest_frontend.page
    newest_frontend.draw_with_vue(False)
    page.evaluate("() => app.extensionManager.setting.set('Comfy.TutorialCompleted', true)")
    page.wait_for_timeout(15_000)  # a new profile opens the templates over a graph of its own
    page.keyboard.press("Escape")
    page.wait_for_timeout(1000)
    page.evaluate(
        """() => {
            app.graph.clear()
            for (let n = 0; n < 6; n++) app.graph.add(LiteGraph.createNode('PreviewImage'))
        }"""
    )
    page.mouse.dblclick(1300, 700)
    page.wait_for_timeout(2500)
    page.keyboard.type(BLUEPRINT.stem)
    page.wait_for_timeout(6000)
    page.keyboard.press("Enter")
    page.wait_for_function("() => app.graph._nodes.length == 7", timeout=30_000)
    page.mouse.click(1100, 800)
    knobs = page.evaluate("() => app.graph._nodes.at(-1).widgets.map((w) => [w.name, w.value])")
    preset = PRESETS["embedded"]
    assert knobs == [
        [n, v] for n, v in zip(KNOBS, [4096, preset.sigma, preset.fidelity, preset.compensation], strict=True)
    ]
