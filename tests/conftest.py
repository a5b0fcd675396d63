"""Fixtures: small models, pictures, ComfyUI servers and browsers."""

import shutil
import warnings

import pytest
import torch
from browser import browser, desk, desk_server, frontend, newest_frontend, newest_server  # noqa: F401
from builders import make_transformer, make_vae
from comfy_server import comfyui, comfyui_dirs, server  # noqa: F401
from model_files import write_probe_model
from places import DEMO, REALSR

from op4ksr_core.picture.convert import as_picture
from op4ksr_core.picture.read import read_picture

NEEDS = {
    "comfyui": "comfyui",
    "server": "comfyui",
    "newest_server": "comfyui",
    "desk_server": "comfyui",
    "browser": "browser",
    "realsr": "shared",
}
"""Fixtures, and the marks of the tests that use them."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Marks tests by the fixtures they use, and says which belong on one worker (`--dist loadgroup`): those of one
    ComfyUI, whose server is started once, and else those of one file. The servers' come first: they take longest."""
    for item in items:
        for fixture in NEEDS.keys() & set(item.fixturenames):
            item.add_marker(NEEDS[fixture])
        item.add_marker(pytest.mark.xdist_group(_comfyui_of(item) or str(item.path)))
        if _is_browser_test_of_an_older_version(item):
            item.add_marker("slow")
    items.sort(key=lambda item: _comfyui_of(item) is None)


def _is_browser_test_of_an_older_version(item):
    """A page takes ten seconds and more to open. `.ci/run` opens most templates in the last ComfyUI alone, and in every
    one what is marked `each_version`; `make test-all` opens every one in every version."""
    older = [str(folder) for folder in comfyui_dirs()[:-1]]
    is_older = item.get_closest_marker("browser") and _comfyui_of(item) in older
    return is_older and not item.get_closest_marker("each_version")


def _comfyui_of(item):
    """The checkout that a test runs on, None without one."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return str(parameters["comfyui"]) if parameters.get("comfyui") else None


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def transformer():
    return make_transformer()


@pytest.fixture
def vae():
    return make_vae()


@pytest.fixture(scope="session")
def photo():
    """The bundled photo, (1, 3, 512, 512)."""
    return read_picture(DEMO).rgb


@pytest.fixture(scope="session")
def embedded():
    from op4ksr_core.pipeline.upscaler import Upscaler

    return Upscaler.from_embedded()


@pytest.fixture
def realsr():
    """Pairs of the RealSR test photos: ((lr, hr) paths)."""
    pairs = list(zip(sorted((REALSR / "lr").glob("*")), sorted((REALSR / "hr").glob("*")), strict=True))
    if not pairs:
        warnings.warn(f"{REALSR} is not here: the tests on real photo pairs do not run", stacklevel=1)
        pytest.skip(f"NO REAL PHOTO PAIRS at {REALSR}")
    return pairs


@pytest.fixture
def random_weights(server):  # noqa: F811
    """Nodes of a graph: a model that leaves a lattice of 16 px on ramp.png, which is there too, and its prompt."""
    folder = server.base / "models" / "diffusers" / "random"
    if not folder.exists():
        made = write_probe_model(server.base / "temp")
        shutil.copytree(made, folder)
        shutil.copy(made / "prompt.safetensors", server.base / "input" / "random.safetensors")
    ramp = torch.linspace(0.3, 0.6, 64) + 0.2 * torch.linspace(0.3, 0.5, 48)[:, None]
    as_picture(ramp.expand(3, -1, -1)).save(server.base / "input" / "ramp.png")
    return {
        "files": {"class_type": "OP4KSR_LoadDiffusers", "inputs": {"folder": "random"}},
        "prompt": {"class_type": "OP4KSR_LoadPrompt", "inputs": {"file": "random.safetensors"}},
    }
