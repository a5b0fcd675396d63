"""A part of a picture, enlarged alone: where it lies, and that it is that part of the whole."""

from dataclasses import replace

import pytest
import torch

from op4ksr_core.errors import SettingError
from op4ksr_core.geometry import Box, LongSide, Part, Scale, Size
from op4ksr_core.picture.framing import cut
from op4ksr_core.picture.resample import lanczos, resize
from op4ksr_core.pipeline.composite import restore_framed
from op4ksr_core.pipeline.trial import MARGIN, middle_of, plan_trial, without_margin

PART = Part(200, 150, 90, 70)


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "0,0,0,9", "-1,0,9,9", ""])
def test_a_bad_region_is_named(text):
    with pytest.raises(SettingError, match=rf"got '?{text}'?\.$"):
        Part.parse(text)


@pytest.mark.parametrize("part", [Part(500, 0, 13, 9), Part(0, 508, 9, 9)])
def test_outside_the_picture(part):
    with pytest.raises(SettingError, match=f"{part}.*512x512"):
        plan_trial(Scale().frame(Size(512, 512)), part, 32)


def test_outside_what_a_crop_keeps():
    frame = Box(Size(512, 2048), "crop").frame(Size(512, 512))
    with pytest.raises(SettingError, match="0,0,50,50.*512x128"):
        plan_trial(frame, Part(0, 0, 50, 50), 32)
    assert plan_trial(frame, middle_of(frame), 32).shown.size.width == 512


@pytest.mark.parametrize("target", [Scale(4), LongSide(4096), LongSide(2560)])
@pytest.mark.parametrize("part", [PART, Part(0, 0, 1, 1), Part(400, 500, 112, 12)])
def test_on_the_grid_with_a_margin(target, part):
    whole = target.frame(Size(512, 512))
    trial = plan_trial(whole, part, 32)
    frame, scale = trial.frame, whole.target.width / 512
    assert frame.left * scale % 32 == frame.top * scale % 32 == 0
    assert frame.left <= max(0, part.left - MARGIN)
    assert frame.left + frame.used.width >= min(512, part.left + part.width + MARGIN)
    assert frame.top + frame.used.height >= min(512, part.top + part.height + MARGIN)
    assert trial.shown.left == pytest.approx((part.left - frame.left) * scale, abs=0.5)
    assert trial.shown.width == pytest.approx(part.width * scale, abs=1)


@pytest.mark.long
@pytest.mark.parametrize("target", [Scale(4), LongSide(4096), LongSide(2560)])
def test_what_is_local_is_that_part_of_the_whole(photo, target):
    """Enlarging alone, with transparency and a strength mask."""
    whole = target.frame(Size(512, 512))
    alpha, region = photo[:, :1], photo[:, 1:2].round()
    trial = plan_trial(whole, PART, 32)
    full = restore_framed(photo, whole, lambda lr: resize(lr, whole.target), alpha, region)
    made = restore_framed(photo, trial.frame, lambda lr: resize(lr, trial.frame.target), alpha, region)
    shown = without_margin(made, trial)
    scale = whole.target.width / 512
    top, left = (int(px * scale + 0.5) for px in (PART.top, PART.left))
    rows, columns = slice(top, top + shown.rgb.shape[-2]), slice(left, left + shown.rgb.shape[-1])
    assert shown.rgb.shape[-2:] == (trial.shown.height, trial.shown.width)
    assert float((shown.rgb - full.rgb[..., rows, columns]).abs().max()) * 255 <= 1
    assert float((shown.alpha - full.alpha[..., rows, columns]).abs().max()) * 255 <= 1
    assert torch.equal(shown.lr, full.lr[..., 150:220, 200:290])
    assert shown.frame.target == trial.shown.size and str(PART) in shown.notes[0]


def test_what_is_said_of_protection_is_of_the_part_without_its_margin(photo):
    trial = plan_trial(Scale(4).frame(Size(512, 512)), PART, 32)
    made = restore_framed(photo, trial.frame, lambda lr: resize(lr, trial.frame.target))
    protected, top = photo.new_zeros(1, 1, *made.lr.shape[-2:]), PART.top - trial.frame.top
    protected[..., top : top + PART.height // 2, :] = 1  # the upper half of the part, and the margin beside it
    shown = without_margin(replace(made, protected=protected, protect="faces"), trial)
    assert shown.told[-1] == "Protected faces: 50% of the part."


def test_an_uneven_scale_is_less_than_a_px_off(photo):
    """427 px to 2733: no px of the small picture lies on the grid."""
    small = photo[..., :427, :]
    whole = LongSide(3277).frame(Size(427, 512))
    trial = plan_trial(whole, PART, 32)
    made = resize(cut(small, trial.frame), trial.frame.target)
    top, left = (round(px * whole.target.width / 512) for px in (trial.frame.top, trial.frame.left))
    full = resize(small, whole.target)
    part = full[..., top : top + made.shape[-2], left : left + made.shape[-1]]
    assert float((made - part).abs().mean()) * 255 < 2


@pytest.mark.long
def test_the_model_sees_less(photo, embedded):
    """Whole and part differ by far less than what the model does."""
    small = lanczos(photo, Size(160, 160)).clamp(0, 1)
    whole = Scale(4).frame(Size(160, 160))
    trial = plan_trial(whole, Part(56, 56, 48, 48), embedded.host.multiple_px)
    made = without_margin(embedded.run(embedded.plan(trial.frame), small), trial)
    full = embedded.run(embedded.plan(whole), small)
    part = full.rgb[..., 224:416, 224:416]
    act = float((part - full.before[..., 224:416, 224:416]).abs().mean())
    assert float((made.rgb - part).abs().mean()) < act / 2
