import pytest
import torch

from op4ksr_core.errors import WeightsError
from op4ksr_core.model.bundled import bundled_weights
from op4ksr_core.paths import DENOISER, FACES, LETTERING


@pytest.mark.parametrize("path", [DENOISER, FACES, LETTERING], ids=lambda p: p.stem)
def test_the_packages_networks_are_there_in_float32(path):
    assert {value.dtype for value in bundled_weights(path).values()} == {torch.float32}


@pytest.mark.parametrize("content", [None, b"", b"no tensors"])
def test_a_missing_or_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "faces.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"faces\.safetensors"):
        bundled_weights(path)
