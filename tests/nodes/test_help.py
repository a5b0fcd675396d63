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


def shape(texts):
    return {key: shape(value) if isinstance(value, dict) else str for key, value in texts.items()}


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_translations_are_whole(language):
    english, other = (json.loads((ROOT / "locales" / code / "nodeDefs.json").read_text()) for code in ("en", language))
    assert shape(other) == shape(english)
    for name, texts in other.items():
        assert re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", texts["description"]), name


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
    rows = {line.split("|")[1].split()[0]: line for line in page.splitlines() if line.startswith("| ")}
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
