"""Which results pass the check, and the second run of one that does not."""

import pytest
import torch
from places import DEMO

from op4ksr_core.errors import OutputError, SettingError
from op4ksr_core.geometry import Scale, Size
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import lanczos, resize
from op4ksr_core.pipeline.composite import Framed
from op4ksr_core.pipeline.quality_check import RERUN_STRENGTH, Limits, check_made, run_checked
from op4ksr_core.settings import PRESETS, with_strength

PRESET = PRESETS["embedded"]


@pytest.fixture(scope="module")
def small():
    return resize(read_picture(DEMO).rgb[..., :256, :256], Size(96, 96))


def enlarged(small, lattice=0.0, mesh=0.0):
    """The plain enlargement with a woven lattice of 16 px, and texture of about 5 px, of amplitudes in 1/255."""
    frame = Scale(4).frame(Size(*small.shape[-2:]))
    y, x = torch.meshgrid(torch.arange(384.0), torch.arange(384.0), indexing="ij")
    woven = torch.cos(2 * torch.pi * x / 16) + torch.cos(2 * torch.pi * y / 16)
    torch.manual_seed(0)
    frequency = torch.fft.fftfreq(384)[:, None].square() + torch.fft.rfftfreq(384).square()
    ring = (frequency > 0.17**2) & (frequency < 0.25**2)
    texture = torch.fft.irfft2(torch.fft.rfft2(torch.randn(384, 384)) * ring)
    rgb = lanczos(small, frame.target).clamp(0, 1) + (lattice * woven + mesh * texture / texture.std()) / 255
    return Framed(rgb.clamp(0, 1), None, small, frame)


def test_a_clean_result_passes_and_a_lattice_or_a_mesh_does_not(small):
    assert check_made(enlarged(small)).passed
    lattice = check_made(enlarged(small, lattice=3))
    assert not lattice.passed and "lattice of 16 px" in lattice.words
    mesh = check_made(enlarged(small, mesh=8))
    assert not mesh.passed and "texture in soft areas" in mesh.words and float(mesh.maps.max()) > 0.2
    assert check_made(enlarged(small, lattice=3), Limits(max_score=1.0)).passed
    assert check_made(enlarged(small, mesh=8), Limits(max_texture=1000)).passed


def test_one_picture_of_a_batch_is_enough(small):
    made = enlarged(torch.cat([small, small]))
    bad = enlarged(small, lattice=3)
    both = Framed(torch.cat([made.rgb[:1], bad.rgb]), None, made.lr, made.frame)
    assert check_made(made).passed and not check_made(both).passed


def test_a_result_too_small_to_be_checked_passes_and_says_so(small):
    frame = Scale(2).frame(Size(20, 20))
    tiny = Framed(lanczos(small[..., :20, :20], frame.target), None, small[..., :20, :20], frame)
    found = check_made(tiny)
    assert found.passed and "too small" in found.words and found.maps.shape == (1, 40, 40)


def test_what_does_not_pass_is_run_again_at_half_the_strength(small):
    asked = []

    def enlarge(settings):
        asked.append(settings)
        return enlarged(small, lattice=0 if len(asked) == 2 else 3)

    kept = []
    made, check = run_checked(enlarge, PRESET, Limits(), True, kept.append)
    assert len(kept) == 1 and kept[0].rgb is made.rgb  # the second result alone
    assert asked == [PRESET, with_strength(PRESET, RERUN_STRENGTH)]
    assert check.passed and check.rerun and "lattice of 16 px" in made.notes[0]


@pytest.mark.parametrize(("lattice", "rerun"), [(0, True), (3, False)])
def test_there_is_no_second_run_without_need_or_wish(small, lattice, rerun):
    kept = []
    made, check = run_checked(lambda settings: enlarged(small, lattice), PRESET, Limits(), rerun, kept.append)
    assert check.passed == (lattice == 0) and not check.rerun and made.notes == ()
    assert kept == [made]


def test_what_cannot_be_kept_is_said(small):
    def full(made):
        raise OutputError("no space left on /mnt/full")

    with pytest.raises(OutputError, match="/mnt/full"):
        run_checked(lambda settings: enlarged(small), PRESET, Limits(), keep=full)


def test_limits_out_of_range():
    with pytest.raises(SettingError, match=r"max_score.*1\.5"):
        Limits(max_score=1.5)
