"""What is published: metadata, what the archive holds, and what its code may not do."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from itertools import chain
from pathlib import Path, PurePosixPath

import pytest
from comfy_server import running_server
from PIL import Image
from places import DEMO, ROOT

import op4ksr_core
from recipes.release import archive_files, build, check_version, tracked

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


def listed():
    try:
        return tracked()
    except subprocess.CalledProcessError:
        pytest.skip("not a git checkout")


@pytest.fixture(scope="module")
def archive():
    """What the registry's publisher packs."""
    listed()
    return archive_files()


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The wheel and the archive: those of `recipes.release` where it runs the tests, else built here."""
    if "OP4KSR_RELEASE" in os.environ:
        folder = Path(os.environ["OP4KSR_RELEASE"])
        return next(folder.glob("*.whl")), next(folder.glob("*.zip"))
    listed()
    return build(tmp_path_factory.mktemp("release"))


def test_the_version_is_the_same_everywhere(tmp_path):
    check_version(ROOT, op4ksr_core.__version__)
    with pytest.raises(ValueError, match="9.9.9"):
        check_version(ROOT, "9.9.9")


def test_the_tested_versions_cover_what_is_installed():
    """constraints.txt has a line for each dependency but torch, which the Makefile's TORCH names."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    held = {line.split("==")[0].lower() for line in lines}
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {re.split(r"[>=\[]", one)[0].lower() for one in wanted} - {"op4ksr", "torch", "pyiqa"}
    assert names <= held


def test_the_archive_has_what_the_extension_needs_and_no_more(archive):
    tops = {name.split("/")[0] for name in archive}
    assert {"__init__.py", "nodes", "op4ksr_core", "workflows", "web", "locales", "requirements.txt"} <= tops
    assert not tops & {"tests", "benchmarks", "recipes", "docs", "build", ".ci", "Makefile"}
    assert sum((ROOT / name).stat().st_size for name in archive) < 40e6


KIT = ("app", "curate", "evaluate", "testsets", "train")


def test_the_archive_has_no_kit(archive):
    assert not [name for name in archive if name.startswith(tuple(f"op4ksr_core/{part}/" for part in KIT))]
    assert all(any(name.startswith(f"op4ksr_core/{part}/") for name in listed()) for part in KIT)


def _imported_files(path, tree):
    """Files of the project that one of its files imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = PurePosixPath(path).parents[node.level - 1]
            module = folder.joinpath(*node.module.split(".")) if node.module else folder
            for place in (module, *(module / alias.name for alias in node.names)):
                yield from (f for f in (f"{place}.py", f"{place}/__init__.py") if (ROOT / f).is_file())


def test_every_import_in_the_archive_finds_its_file(archive):
    """What a node reaches, at its import or later, is there."""
    for path in sorted(name for name in archive if name.endswith(".py")):
        reached = set(_imported_files(path, ast.parse((ROOT / path).read_text())))
        assert reached <= archive, (path, reached - archive)


def test_imports_of_the_kit_would_be_found(archive):
    tree = ast.parse("def late():\n    from ..op4ksr_core.app import cli")
    reached = set(_imported_files("nodes/a.py", tree))
    assert reached - archive == {"op4ksr_core/app/__init__.py", "op4ksr_core/app/cli.py"}


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
def test_the_wheel_runs_in_an_empty_place(release, tmp_path):
    """Installed without its dependencies into a folder, and run from elsewhere with nothing but that folder."""
    wheel, _ = release
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"op4ksr_core"}
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    (tmp_path / "work").mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    Image.open(DEMO).crop((100, 100, 132, 148)).save(tmp_path / "work" / "a.png")
    command = [sys.executable, "-m", "op4ksr_core", "upscale", "a.png", "-o", "big.png"]
    subprocess.run(command, cwd=tmp_path / "work", env=environment, check=True)
    assert Image.open(tmp_path / "work" / "big.png").size == (128, 192)


@pytest.mark.slow
def test_the_archive_runs_in_comfyui(comfyui, release, tmp_path):
    """What the registry would take, alone in a folder, in each ComfyUI."""
    with zipfile.ZipFile(release[1]) as file:
        file.extractall(tmp_path / "pack")
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
