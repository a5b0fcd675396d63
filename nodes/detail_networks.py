"""Detail networks in place of the bundled one: files in models/op4ksr."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..op4ksr_core.errors import WeightsError
from ..op4ksr_core.paths import COMPENSATION
from .inputs import advanced

BUNDLED = "bundled"
FOLDER = "op4ksr"


def folders() -> list[Path]:
    """models/op4ksr, and what extra_model_paths.yaml names op4ksr."""
    named = folder_paths.get_folder_paths(FOLDER) if FOLDER in folder_paths.folder_names_and_paths else []
    return [Path(folder_paths.models_dir) / FOLDER, *map(Path, named)]


def detail_networks() -> dict[str, Path]:
    """Files by name, below the folders."""
    found: dict[str, Path] = {}
    for root in folders():
        for file in sorted(root.rglob("*.safetensors")):
            found.setdefault(str(file.relative_to(root)), file)
    return found


def network_input() -> io.Input:
    """The choice between the bundled network and those that `op4ksr train --stage compensation` wrote."""
    return advanced(
        io.Combo.Input(
            "detail_network",
            options=[BUNDLED, *detail_networks()],
            default=BUNDLED,
            optional=True,
            tooltip="What adds the fine detail: the bundled network, or one from models/op4ksr that was trained on "
            "your model's results.",
        )
    )


def find_network(name: str) -> Path:
    """The file of that name, or of the bundled network. Raises WeightsError."""
    if name == BUNDLED:
        return COMPENSATION
    found = detail_networks()
    if name not in found:
        there = ", ".join(found) or "none"
        raise WeightsError(f"There is no detail network {name} in {folders()[0]}; there are: {there}.")
    return found[name]
