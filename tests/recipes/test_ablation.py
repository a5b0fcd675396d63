"""The ablation: its world, its measures, and the whole of it in a few steps."""

import json
from functools import partial

import pytest
import torch

from recipes.ablation import document, measuring, training
from recipes.ablation.training import ARMS, fine_tune, losses, texture_loss, train_prior, trained
from recipes.ablation.world import TOKEN, Model, decode, encode, enlarged, pictures


def test_latents_are_the_picture_and_pictures_are_seeded():
    x = pictures(2, 64, 3)
    assert float((decode(encode(x)) - x).abs().max()) < 1e-5 and encode(x).shape == (2, 16, 16, 16)
    assert torch.equal(x, pictures(2, 64, 3)) and not torch.equal(x, pictures(2, 64, 4))
    assert 0.3 < float(encode(x)[:, 1:].std()) < 2  # about white


def test_the_small_picture_cannot_hold_the_texture():
    x = pictures(4, 128, 1)
    from op4ksr_core.lattice.autocorrelation import highpass

    assert float(highpass(enlarged(x, 0)).square().mean()) < 0.02 * float(highpass(x).square().mean())


def test_a_lattice_is_measured_and_texture_without_one_is_not():
    x = pictures(4, 128, 2)
    cell = torch.randn(TOKEN, TOKEN, generator=torch.Generator().manual_seed(0)).repeat(16, 16)
    assert abs(measuring.lattice_db(x)) < 3 and measuring.lattice_db(x + 0.02 * cell) > 15
    assert measuring.psnr_of_colour(x + 0.1, x) == pytest.approx(20, abs=0.01)


def test_the_texture_loss_asks_for_energy_wherever_it_lies():
    x = pictures(4, 128, 5)
    assert float(texture_loss(x.roll((3, 5), (2, 3)), x)) < 0.2 * float(texture_loss(enlarged(x, 0), x))


def test_every_arm_gives_a_gradient_and_theta_has_no_weights():
    x = pictures(1, 128, 0)
    model = Model(10_000.0)
    for arm in ARMS.values():
        model.set_theta(arm.theta)
        model.zero_grad()
        losses(arm, model.restore(enlarged(x, 0)), x).backward()
        assert float(model.dit.proj_out.weight.grad.abs().sum()) > 0
    assert {p.numel() for p in Model(100.0).parameters()} == {p.numel() for p in model.parameters()}


@pytest.mark.slow
def test_the_whole_of_it_in_two_steps(tmp_path, monkeypatch):
    """Trainings, figures, table, document and pictures; what is there is not made again."""
    monkeypatch.setattr(measuring, "SIZES", {"trained": (128, 9), "4x": (288, 1)})
    monkeypatch.setattr(document, "SIZES", measuring.SIZES)
    monkeypatch.setattr(measuring, "fine_tune", partial(fine_tune, steps=1))
    monkeypatch.setattr(training, "BATCH", 1)
    train_prior(tmp_path / "prior.pt", steps=2)
    few = {name: ARMS[name] for name in ("plain", "texture+lap-literal")}
    for module in (measuring, document):
        monkeypatch.setattr(module, "ARMS", few)
    for name in few:
        for seed in range(2):
            measuring.train_and_judge(tmp_path, name, seed)
    before = (tmp_path / "plain-0.pt").stat().st_mtime_ns
    measuring.train_and_judge(tmp_path, "plain", 0)
    assert (tmp_path / "plain-0.pt").stat().st_mtime_ns == before
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "ablation.md").write_text(f"above\n{document.BEGIN}\nold\n{document.END}\nbelow\n")
    document.write(tmp_path, docs, 2)
    rows = json.loads((docs / "ablation.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == list(few)
    assert {"seeds", "lattice_db_mean", "lattice_db_sd", "psnr_4x_mean", "psnr_4x_sd"} <= rows[0].keys()
    page = (docs / "ablation.md").read_text()
    assert page.startswith("above") and page.endswith("below\n") and "old" not in page and "| plain |" in page
    assert (docs / "ablation_spectra.png").stat().st_size > 5000 and (docs / "ablation_crops.png").stat().st_size > 5000
    model = trained(few["plain"], tmp_path / "plain-0.pt")
    assert not any(p.requires_grad for p in model.parameters())
