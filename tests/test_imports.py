"""Who may import whom (read from the source, nothing is run)."""

import ast
from pathlib import Path

import pytest
from places import ROOT

CORE = ROOT / "op4ksr_core"
HEAVY = {"diffusers", "peft", "transformers"}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else (node.module or "").split(".")[0])
    return found


def _outside(path: Path, **options) -> set[str]:
    import sys

    return imports(path, **options) - set(sys.stdlib_module_names) - {"."}


LEAF_FILES = [
    *(CORE / "model").glob("*.py"),
    *(CORE / "lattice").glob("*.py"),
    *(CORE / "train" / "losses").glob("*.py"),
]
TORCHLESS = ["errors", "geometry", "progress", "paths", "optional", "workers", "settings"]


@pytest.mark.parametrize("path", LEAF_FILES, ids=lambda p: p.stem)
def test_the_method_knows_torch_einops_and_safetensors(path):
    assert _outside(path) <= {"torch", "einops", "safetensors", "PIL"}


@pytest.mark.parametrize("name", TORCHLESS)
def test_the_first_layer_needs_no_torch(name):
    assert (
        _outside(CORE / f"{name}.py", top_level_only=True) <= {"torch"}
        if name == "progress"
        else not _outside(CORE / f"{name}.py", top_level_only=True)
    )


@pytest.mark.parametrize("path", sorted((ROOT / "nodes").glob("*.py")), ids=lambda p: p.stem)
def test_the_nodes_never_import_diffusers(path):
    assert not imports(path) & HEAVY


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda p: str(p.relative_to(CORE)))
def test_nothing_heavy_at_import_and_nothing_of_comfyui(path):
    assert not _outside(path, top_level_only=True) & HEAVY
    assert not imports(path) & {"comfy", "comfy_api", "comfy_extras", "folder_paths", "nodes", "server"}
