"""The shipped weights: do they restore, without a lattice, within their size?"""

import sys

import pytest
import torch
from builders import psnr
from places import ROOT

from op4ksr_core.geometry import Size
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.picture.colour import back_project
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize

sys.path.insert(0, str(ROOT / "benchmarks"))
from metrics import NAMES, all_metrics, lattice_decibels, wins  # noqa: E402


def test_size_and_card():
    assert sum(f.stat().st_size for f in EMBEDDED.rglob("*") if f.is_file()) < 40e6
    card = (EMBEDDED / "MODEL_CARD.md").read_text()
    for word in ("python -m recipes.embedded detail", "CC0", "RealSR", "steps"):
        assert word in card


SHARP = {"ssim", "gmsd", "detail", "right", "niqe"}
"""What the model is made for. A sharp picture that is a little wrong loses PSNR to a blurred one."""


def test_the_held_out_photo_beats_lanczos_and_the_projection_alone(embedded, photo):
    lr = resize(photo, Size(128, 128)).clamp(0, 1)
    ours = all_metrics(embedded(lr), photo)
    for rival in (resize(lr, Size(512, 512)), back_project(resize(lr, Size(512, 512)), lr, 1.0)):
        assert set(wins(ours, all_metrics(rival, photo))) >= {"detail", "right", "niqe"}, ours


def test_no_lattice_and_no_hue_shift(embedded, photo):
    lr = resize(photo, Size(128, 128)).clamp(0, 1)
    shown = embedded(lr)
    assert lattice_decibels(shown, 32) < lattice_decibels(photo, 32) + 3
    assert float((shown.mean((2, 3)) - lr.mean((2, 3))).abs().max()) < 1 / 255


def test_a_flat_picture_stays_flat(embedded):
    grey = torch.full((1, 3, 64, 64), 0.42)
    error = (embedded(grey) - 0.42).abs()
    assert float(error.max()) < 6 / 255 and float(error.mean()) < 1 / 255  # 4.8 near the border


def test_the_whole_equals_its_parts(embedded, photo):
    """No patches means global attention and statistics; a larger frame must not change what is in it much."""
    lr = resize(photo, Size(192, 192)).clamp(0, 1)
    whole, part = embedded(lr)[..., 256:512, 256:512], embedded(lr[..., 48:144, 48:144])[..., 64:320, 64:320]
    assert psnr(whole, part) > 40


@pytest.mark.parametrize("pairs", [range(0, 40, 8)])
def test_real_photos_beat_lanczos(embedded, realsr, pairs):
    """Five of the forty pairs; benchmarks/bench_realsr.py runs them all."""
    ours, lanczos = [], []
    for lr_path, hr_path in (realsr[i] for i in pairs):
        lr, hr = read_picture(lr_path).rgb, read_picture(hr_path).rgb
        ours.append(all_metrics(embedded(lr), hr))
        lanczos.append(all_metrics(resize(lr, Size(*hr.shape[-2:])), hr))
    mine, theirs = ({name: sum(row[name] for row in rows) / len(rows) for name in NAMES} for rows in (ours, lanczos))
    assert set(wins(mine, theirs)) >= SHARP and mine["psnr"] > theirs["psnr"] - 1, (mine, theirs)


def test_the_transformer_earns_its_place(embedded, realsr, monkeypatch):
    """Without it (velocity 0) the picture is less sharp and less right, before the detail network and behind it."""
    from dataclasses import replace

    from op4ksr_core.evaluate.sharpness import detail, right

    for compensation, sharper, righter in ((0.0, 2.0, 0.03), (1.0, 0.5, 0.005)):
        settings = replace(embedded.settings, compensation=compensation)
        found = []
        for off in (False, True):
            with monkeypatch.context() as patch:
                if off:
                    patch.setattr(embedded.host, "transform", lambda z, *_: z)
                rows = []
                for lr_path, hr_path in realsr[::8]:
                    hr = read_picture(hr_path).rgb
                    made = embedded(read_picture(lr_path).rgb, settings=settings, target=Size(*hr.shape[-2:]))
                    rows.append((detail(made, hr), right(made, hr)))
                found.append([sum(column) / len(rows) for column in zip(*rows, strict=True)])
        (sharp, true), (blurred, less) = found
        assert sharp > blurred + sharper and true > less + righter, found
