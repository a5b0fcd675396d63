"""What is published: metadata, what the archive holds, and what its code may not do."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from comfy_server import running_server
from PIL import Image
from places import DEMO, ROOT

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
    assert not tops & {"tests", "benchmarks", "recipes", "docs", "build", ".ci", "Makefile"}
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


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_place(tmp_path):
    """Built, installed without its dependencies into a folder, and run from elsewhere with nothing but that folder."""
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path / "wheel", ROOT], check=True)
    [wheel] = (tmp_path / "wheel").glob("op4ksr-*.whl")
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"op4ksr_core"}
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    (tmp_path / "work").mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    Image.open(DEMO).crop((100, 100, 132, 148)).save(tmp_path / "work" / "a.png")
    command = [sys.executable, "-m", "op4ksr_core", "upscale", "a.png", "-o", "big.png"]
    subprocess.run(command, cwd=tmp_path / "work", env=environment, check=True)
    assert Image.open(tmp_path / "work" / "big.png").size == (128, 192)


@pytest.mark.slow
def test_the_archive_runs_in_comfyui(comfyui, archive, tmp_path):
    """What the registry would take, alone in a folder, in each ComfyUI."""
    for name in archive:
        (tmp_path / "pack" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "pack" / name)
    (tmp_path / "base").mkdir()
    with running_server(comfyui, tmp_path / "base", extension=tmp_path / "pack") as server:
        inputs = {"image": ["1", 0], "long_side": 256, "scale": 4.0, "sigma_mid": 0.3, "steps": 1, "guidance": 1.0}
        inputs |= {"theta": 0.0, "colour": "wavelet", "fidelity": 0.8, "noise": 0.0, "seed": 0, "vae_factor": "16"}
        graph = {
            "1": {"class_type": "OP4KSR_SamplePhoto", "inputs": {}},
            "2": {"class_type": "OP4KSR_Upscale", "inputs": inputs | {"compensation": 1.0}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "a"}},
        }
        assert Image.open(server.picture(server.run(graph), "3")).size == (256, 144)
