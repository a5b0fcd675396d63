import logging

import pytest
import torch
from heads import write_vaes

from op4ksr_core.model import head_choice as h
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.weights.loading import load_vae


@pytest.mark.parametrize("shift", [-2, -1, 0, 1])
def test_a_shift_is_measured(shift):
    picture = h.chart()
    moved = picture.roll((shift, shift), (-2, -1))
    for made in (moved, 0.6 * moved + 0.3):
        assert h.shift_of(made, picture) == pytest.approx(shift, abs=0.1)


def test_what_has_nothing_in_common_has_no_shift():
    assert h.shift_of(torch.rand(h.chart().shape), h.chart()) is None
    assert h.in_register(torch.zeros_like) == ("centered", None)
    assert "could not be measured" in h.register_text("centered", None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_in_register_is_taken_and_said(tmp_path, caplog, dtype):
    """The bundled VAE's config names its head; another's is measured."""
    caplog.set_level(logging.INFO, "op4ksr")
    assert load_vae(EMBEDDED / "vae", dtype).decoder.conv_out.mode == "centered" and not caplog.records
    for head, folder in write_vaes(tmp_path).items():
        taken = load_vae(folder / "vae", dtype)
        assert taken.decoder.conv_out.mode == head and next(taken.parameters()).dtype == dtype
        assert f"F16 head: {head}, 0." in caplog.records[-1].message
        assert load_vae(folder / "vae", dtype, head="centered").decoder.conv_out.mode == "centered"
