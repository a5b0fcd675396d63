"""Every node explains itself: tooltips, a help page with a picture, and names in three languages."""

import json
import re
import urllib.request

import pytest
from places import ROOT
from test_nodes import NODES

PAGES = ROOT / "web" / "docs"


@pytest.fixture(scope="module")
def described(server):
    info = server.get("/object_info")
    return {name: info[name] for name in NODES}


def inputs_of(node):
    declared = node["input"].get("required", {}) | node["input"].get("optional", {})
    return {name: (kind[0], kind[1] if len(kind) > 1 else {}) for name, kind in declared.items()}


def schema_texts(node):
    """A node's texts in the layout of nodeDefs.json."""
    texts = {"display_name": node["display_name"], "description": node["description"]}
    inputs = {n: {"name": n, "tooltip": options["tooltip"]} for n, (_, options) in inputs_of(node).items()}
    outputs = {
        str(i): {"name": name, "tooltip": tooltip}
        for i, (name, tooltip) in enumerate(zip(node["output_name"], node["output_tooltips"], strict=True))
    }
    return texts | ({"inputs": inputs} if inputs else {}) | ({"outputs": outputs} if outputs else {})


@pytest.mark.parametrize("name", NODES)
def test_every_input_and_output_has_a_tooltip(described, name):
    node = described[name]
    assert node["description"] and all(options.get("tooltip") for _, options in inputs_of(node).values())
    assert all(node["output_tooltips"])


def test_english_is_what_the_nodes_say(described):
    english = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text())
    assert english == {name: schema_texts(node) for name, node in described.items()}


WORDS = {
    "OP4KSR_UpscaleTo4K": {"upscale", "restore", "enhance", "sharpen", "denoise", "face"},
    "OP4KSR_Compensate": {"sharpen", "enhance"},
    "OP4KSR_Suppress": {"moire", "grid"},
    "OP4KSR_Inspect": {"moire", "grid"},
}
"""What artists look for -> the nodes that it finds."""


@pytest.mark.parametrize("name", WORDS)
def test_a_search_for_the_task_finds_the_node(described, server, name):
    if server.version == "0.3.64":
        pytest.skip("0.3.64 has no search aliases")
    assert WORDS[name] <= set(described[name]["search_aliases"])


def test_names_are_told_apart_and_stand_in_one_section(server):
    ours = [node for node in server.get("/object_info").values() if "OP4KSR" in (node["display_name"] or "")]
    blueprints = [json.loads(path.read_text()) for path in (ROOT / "subgraphs").glob("*.json")]
    inside = [graph for blueprint in blueprints for graph in blueprint["definitions"]["subgraphs"]]
    names = [node["display_name"] for node in ours] + [graph["name"] for graph in inside]
    assert len(names) > len(NODES) and len({name.lower() for name in names}) == len(names)
    assert {node["category"] for node in ours} | {graph["category"] for graph in inside} == {"OP4KSR"}
    assert not any(node.get("essentials_category") for node in ours)  # those stand among ComfyUI's own


def shape(texts):
    return {key: shape(value) if isinstance(value, dict) else str for key, value in texts.items()}


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_translations_are_whole(language):
    english, other = (json.loads((ROOT / "locales" / code / "nodeDefs.json").read_text()) for code in ("en", language))
    compare = other.pop("ImageCompare")  # for 0.3.64, whose node is ours: as newer frontends call their own
    assert compare["inputs"].keys() == {"image_a", "image_b"}
    assert shape(other) == shape(english)
    for name, texts in other.items():
        assert re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", texts["description"]), name


def template_texts():
    """What artists read in the templates: notes, and the titles of groups and nodes."""
    for path in (ROOT / "workflows").glob("*.json"):
        workflow = json.loads(path.read_text())
        notes = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
        assert all("title" in note for note in notes)  # ComfyUI has their own in English alone
        yield from (titled["title"] for titled in workflow["nodes"] + workflow["groups"] if "title" in titled)
        yield from (note["widgets_values"][0] for note in notes)


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_every_text_of_a_template_is_translated(language):
    """No code spans: a Vue note of 0.33.0 writes them in blue on blue."""
    translated = json.loads((ROOT / "locales" / language / "main.json").read_text())["op4ksrTemplates"]
    assert translated.keys() == set(template_texts()) and all(translated.values())
    assert not any("`" in text for pair in translated.items() for text in pair)


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_texts_call_inputs_as_the_node_shows_them(language):
    for name, node in json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text()).items():
        entries = [*node.get("inputs", {}).values(), *node.get("outputs", {}).values()]
        words = set(
            re.findall(r"[A-Za-z_]+", " ".join([node.get("description", ""), *(e["tooltip"] for e in entries)]))
        )
        translated = {k for k, e in node.get("inputs", {}).items() if k.lower() not in e["name"].lower()}
        assert words & translated == set(), name


TERMS = {
    "zh": {"格纹": ["网格", "格子"], "遮罩": ["蒙版"], "降噪": ["去噪"], "提示词": ["提示语"]},
    "ja": {"格子": ["グリッド"], "ノイズ除去": ["デノイズ"], "アダプター": ["アダプタを", "アダプタの"]},
}
"""The one word for a thing -> what it must not be called beside it: lattice, mask, denoise, prompt, adapter."""


@pytest.mark.parametrize("language", TERMS)
def test_one_thing_has_one_word(language):
    texts = "".join(path.read_text() for path in (ROOT / "locales" / language).glob("*.json"))
    for word, others in TERMS[language].items():
        assert word in texts
        assert [other for other in others if other in texts] == [], word


def test_the_server_serves_the_translations(server):
    served = server.get("/i18n")
    assert served["ja"]["nodeDefs"]["OP4KSR_Upscale"]["display_name"] != "Upscale to 4K (OP4KSR)"
    assert {"en", "zh", "ja"} <= served.keys()


@pytest.mark.parametrize("name", NODES)
def test_help_pages_name_every_input_with_its_range(described, server, name):
    with urllib.request.urlopen(f"{server.url}/extensions/op4ksr/docs/{name}.md", timeout=30) as answer:
        page = answer.read().decode()
    for picture in re.findall(r"!\[.+?\]\((.+?)\)", page):
        assert (PAGES / picture).stat().st_size > 1000
    assert "![" in page
    assert "\n|" not in page  # a table is wider than the side panel
    section = page.partition("## Inputs")[2].partition("\n## ")[0]
    rows = {line.split("**")[1]: line for line in section.splitlines() if line.startswith("- **")}
    for key, (kind, options) in inputs_of(described[name]).items():
        assert options["tooltip"] in rows[key]
        if kind in ("INT", "FLOAT"):
            assert f"{options['min']:g} to " in rows[key] and f"default {options['default']:g}" in rows[key]


@pytest.mark.parametrize("language", ["zh", "ja"])
@pytest.mark.parametrize("name", NODES)
def test_help_pages_in_other_languages_are_as_the_nodes_are_now(name, language):
    """`python -m recipes.help_pages` makes them."""
    from recipes.help_pages import page

    assert (PAGES / name / f"{language}.md").read_text() == page(name, language)
