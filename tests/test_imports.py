"""Who may import what, where the contracts in pyproject.toml cannot say it (read from the source, nothing is run)."""

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


@pytest.mark.parametrize("path", LEAF_FILES, ids=lambda p: p.stem)
def test_the_method_knows_torch_einops_and_safetensors(path):
    assert _outside(path) <= {"torch", "einops", "safetensors", "PIL", "triton"}


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda p: str(p.relative_to(CORE)))
def test_nothing_heavy_at_import(path):
    assert not _outside(path, top_level_only=True) & HEAVY
