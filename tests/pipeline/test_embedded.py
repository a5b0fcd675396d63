"""The shipped weights: do they restore, without a lattice, within their size?"""

import sys
from dataclasses import replace

import pytest
import torch
from builders import psnr
from places import ROOT

from op4ksr_core.geometry import Size
from op4ksr_core.paths import DEMO_PHOTO, EMBEDDED
from op4ksr_core.picture.colour import back_project
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize

sys.path.insert(0, str(ROOT / "benchmarks"))
from metrics import all_metrics, lattice_decibels, wins  # noqa: E402


def test_size_and_card():
    assert sum(f.stat().st_size for f in EMBEDDED.rglob("*") if f.is_file()) < 40e6
    card = (EMBEDDED / "MODEL_CARD.md").read_text()
    for word in ("python -m recipes.embedded detail", "CC0", "RealSR", "steps"):
        assert word in card


SHARP = ("ssim", "gmsd", "hf_energy_db", "hf_correlation", "niqe")
"""What the model is made for. A sharp picture that is a little wrong loses PSNR to a blurred one."""


@pytest.mark.long
def test_the_held_out_photo_beats_lanczos_and_the_projection_alone(embedded, photo):
    lr = resize(photo, Size(128, 128)).clamp(0, 1)
    names = ("hf_energy_db", "hf_correlation", "niqe")
    ours = all_metrics(embedded(lr), photo, names)
    for rival in (resize(lr, Size(512, 512)), back_project(resize(lr, Size(512, 512)), lr, 1.0)):
        assert set(wins(ours, all_metrics(rival, photo, names))) == set(names), ours


@pytest.mark.long
def test_no_lattice_and_no_hue_shift(embedded, photo):
    lr = resize(photo, Size(128, 128)).clamp(0, 1)
    shown = embedded(lr)
    assert lattice_decibels(shown, 32) < lattice_decibels(photo, 32) + 3
    assert float((shown.mean((2, 3)) - lr.mean((2, 3))).abs().max()) < 1 / 255


def test_a_flat_picture_stays_flat(embedded):
    grey = torch.full((1, 3, 64, 64), 0.42)
    error = (embedded(grey) - 0.42).abs()
    assert float(error.max()) < 6 / 255 and float(error.mean()) < 1 / 255  # 4.8 near the border


@pytest.mark.long
def test_the_whole_equals_its_parts(embedded, photo):
    """No patches means global attention and statistics; a larger frame must not change what is in it much."""
    lr = resize(photo, Size(192, 192)).clamp(0, 1)
    whole, part = embedded(lr)[..., 256:512, 256:512], embedded(lr[..., 48:144, 48:144])[..., 64:320, 64:320]
    assert psnr(whole, part) > 40


@pytest.mark.long
def test_the_decoder_gives_the_same_at_any_size(embedded, realsr):
    """No map has a droplet, which sets a small map's group norms and not a large one's (version 4: 17 dB)."""
    settings = replace(embedded.settings, colour="none", fidelity=0.0, compensation=0.0)
    for lr_path, _ in realsr[::13]:
        (made,) = embedded.variants(read_picture(lr_path).rgb[..., :128, :128], [settings])
        with torch.inference_mode():
            part = embedded.host.decode(made.after[..., 8:24, 8:24].contiguous(), lambda *_: None).clamp(0, 1)
        assert psnr(made.picture[..., 192:320, 192:320], part[..., 64:192, 64:192]) > 27, lr_path


@pytest.mark.long
def test_no_spot_in_a_dark_corner(embedded):
    """Version 4 drew one of 20 px, 11/255 too bright, into the top left corner of this photo."""
    lr = read_picture(DEMO_PHOTO).rgb[..., :256, :256]
    off = (embedded(lr) - resize(lr, Size(1024, 1024)))[..., :64, :64]
    assert float(torch.nn.functional.avg_pool2d(off, 16).abs().max()) < 4 / 255


@pytest.mark.long
@pytest.mark.parametrize("pairs", [range(0, 40, 8)])
def test_real_photos_beat_lanczos(embedded, realsr, pairs):
    """Five of the forty pairs; benchmarks/bench_realsr.py runs them all."""
    ours, lanczos, names = [], [], (*SHARP, "psnr")
    for lr_path, hr_path in (realsr[i] for i in pairs):
        lr, hr = read_picture(lr_path).rgb, read_picture(hr_path).rgb
        ours.append(all_metrics(embedded(lr), hr, names))
        lanczos.append(all_metrics(resize(lr, Size(*hr.shape[-2:])), hr, names))
    mine, theirs = ({name: sum(row[name] for row in rows) / len(rows) for name in names} for rows in (ours, lanczos))
    assert set(wins(mine, theirs)) >= set(SHARP) and mine["psnr"] > theirs["psnr"] - 1, (mine, theirs)


@pytest.mark.long
def test_the_transformer_earns_its_place(embedded, realsr, monkeypatch):
    """Without it (velocity 0) the picture is less sharp and less of it is right, also behind the detail network."""
    from op4ksr_core.evaluate.sharpness import hf_correlation, hf_energy_db

    for compensation, sharper, righter in ((0.0, 2.0, 0.03), (1.0, 1.0, 0.01)):
        settings = replace(embedded.settings, compensation=compensation)
        found = []
        for off in (False, True):
            with monkeypatch.context() as patch:
                if off:
                    patch.setattr(embedded.host, "transform", lambda z, *_: z)
                rows = []
                for lr_path, hr_path in realsr[::8]:
                    hr = read_picture(hr_path).rgb
                    made = embedded(read_picture(lr_path).rgb, Size(*hr.shape[-2:]), settings)
                    rows.append((hf_energy_db(made, hr), hf_correlation(made, hr)))
                found.append([sum(column) / len(rows) for column in zip(*rows, strict=True)])
        (sharp, true), (blurred, less) = found
        assert sharp > blurred + sharper and true > less + righter, found
