"""Libraries that only some commands need."""

import importlib.util

from .errors import SettingError

LIBRARIES = {
    "evaluate": ("scipy", "tqdm"),
    "webdataset": ("webdataset",),
    "datasets": ("datasets",),
    "curate": ("pyarrow", "skimage", "imagehash", "scipy", "tqdm"),
}
"""Modules by extra of pyproject.toml."""


def is_installed(library: str) -> bool:
    """Whether a library is there; it is not imported."""
    return importlib.util.find_spec(library) is not None


def require(extra: str) -> None:
    """Raises SettingError, with what to install, unless the extra's libraries are there."""
    missing = [name for name in LIBRARIES[extra] if not is_installed(name)]
    if missing:
        raise SettingError(f"{', '.join(missing)} is not installed: pip install 'op4ksr[{extra}]'.")
