"""What is published: metadata, what the archive holds, and what its code may not do."""

import ast
import subprocess

import pytest
from PIL import Image
from places import ROOT

tomllib = pytest.importorskip("tomllib")  # Python 3.11
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FORBIDDEN_IMPORTS = {
    "subprocess",
    "socket",
    "urllib",
    "http",
    "requests",
    "aiohttp",
    "httpx",
    "ctypes",
    "importlib",
    "pip",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "hf_hub_download", "snapshot_download"}


def listed(*options):
    result = subprocess.run(["git", "ls-files", *options], cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        pytest.skip("not a git checkout")
    return set(result.stdout.splitlines())


@pytest.fixture(scope="module")
def archive():
    """Tracked files less what .comfyignore leaves out, as the registry's publisher packs them."""
    return listed() - listed("-i", "-c", "-X", ".comfyignore")


def test_the_archive_has_what_the_extension_needs_and_no_more(archive):
    tops = {name.split("/")[0] for name in archive}
    assert {"__init__.py", "nodes", "op4ksr_core", "workflows", "web", "locales", "requirements.txt"} <= tops
    assert not tops & {"tests", "benchmarks", "docs", ".ci", "Makefile"}
    assert sum((ROOT / name).stat().st_size for name in archive) < 40e6


def _calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name):
                yield function.id
            elif isinstance(function, ast.Attribute) and function.attr not in ("eval", "compile"):
                yield function.attr  # module.eval() sets a mode, re.compile() a pattern


def _imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_nothing_published_runs_programs_or_reaches_the_network(archive):
    for name in sorted(n for n in archive if n.endswith(".py")):
        tree = ast.parse((ROOT / name).read_text())
        assert not set(_imported(tree)) & FORBIDDEN_IMPORTS, name
        assert not set(_calls(tree)) & FORBIDDEN_CALLS, name


def test_the_scan_would_find_them():
    tree = ast.parse("import urllib.request\nfrom subprocess import run\neval('1')\nos.system('x')\nmodel.eval()")
    assert set(_imported(tree)) & FORBIDDEN_IMPORTS == {"urllib", "subprocess"}
    assert set(_calls(tree)) & FORBIDDEN_CALLS == {"eval", "system"}


def test_requirements_are_loose_and_those_of_the_project():
    lines = (ROOT / "requirements.txt").read_text().split()
    assert lines == PROJECT["project"]["dependencies"]
    assert {line.split(">=")[0] for line in lines} == set(
        "torch diffusers peft safetensors einops numpy pillow".split()
    )
    assert all(">=" in line and "<" not in line.replace(">=", "") and "==" not in line for line in lines)


def test_registry_metadata():
    comfy, project = PROJECT["tool"]["comfy"], PROJECT["project"]
    assert "comfyui" not in project["name"].lower() and len(project["version"].split(".")) == 3
    assert {"PublisherId", "DisplayName", "requires-comfyui"} <= comfy.keys()
    with Image.open(ROOT / comfy["Icon"]) as icon, Image.open(ROOT / comfy["Banner"]) as banner:
        assert icon.size == (400, 400) and banner.width * 9 == banner.height * 21
