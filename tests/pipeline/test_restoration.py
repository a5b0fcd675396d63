"""The one door, with a host whose models do nothing: what is planned, padded, refused and called how often."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from op4ksr_core.errors import ImageError, SettingError
from op4ksr_core.geometry import Frame, Scale, Size
from op4ksr_core.paths import ASSETS
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import lanczos, resize
from op4ksr_core.pipeline.memory import MemoryPlan
from op4ksr_core.pipeline.restoration import OVERRULED, Request, plan, run, transform_latent, variants
from op4ksr_core.settings import UpscaleSettings

BARE = UpscaleSettings(fidelity=0.0, rope=None)
MEMORY = MemoryPlan(1.0, 1.0, 1.0, 1.0, 9.0, "resident", 2.0)


class NullHost:
    """Latents are the mean of 8x8 px, and models give back what they get; it refuses several steps."""

    device, latent_factor, multiple_px = torch.device("cpu"), 8, 64

    def __init__(self):
        self.calls, self.seen, self.prepared, self.parts = Counter(), [], [], []

    def check(self, settings):
        if settings.steps > 1:
            raise SettingError(f"This host takes one step, got {settings.steps} steps.")

    def plan_memory(self, size, count):
        self.calls["plan_memory"] += 1
        return MEMORY

    def prepare(self, memory):
        self.prepared.append(memory)

    def condition_on(self, enlarged):
        self.seen.append(tuple(enlarged.shape[-2:]))

    def look_at(self, top, left, size):
        self.parts.append((top, left, size))

    def encode(self, padded, settings, report):
        self.calls["encode"] += 1
        assert all(side % self.multiple_px == 0 for side in padded.shape[-2:])
        return F.avg_pool2d(padded, self.latent_factor)

    def transform(self, z, settings, report):
        self.calls["transform"] += 1
        assert all(side % 8 == 0 for side in z.shape[-2:])
        self.seen.append(tuple(z.shape[-2:]))
        return z

    def decode(self, z, report):
        return F.interpolate(z, scale_factor=self.latent_factor, mode="bilinear")

    def compensate(self, picture, lr, strength, report):
        return picture


def quiet(*_):
    pass


def planned(host, source, settings=(BARE,), scale=4.0, **changes):
    return plan(host, Request(Scale(scale).frame(source), settings, **changes))


def test_sizes_and_memory_are_planned_once_and_the_core_pads():
    host, picture = NullHost(), torch.rand(2, 3, 37, 53)
    chosen = planned(host, Size(37, 53), count=2)
    assert chosen.size.target == Size(148, 212) and chosen.size.padded == Size(192, 256)
    assert chosen.size.tokens == 12 * 16 and chosen.memory == MEMORY
    made = run(host, chosen, picture, quiet)
    assert made.rgb.shape == (2, 3, 148, 212)
    assert host.calls == {"plan_memory": 1, "encode": 1, "transform": 1} and host.prepared == [MEMORY]
    assert host.seen == [(148, 212), (24, 32)]  # the condition is taken of the picture without padding
    torch.testing.assert_close(made.before, lanczos(picture, Size(148, 212)).clamp(0, 1))


def test_memory_is_not_planned_where_it_is_not_checked():
    host = NullHost()
    run(host, planned(host, Size(16, 16), check_memory=False), torch.rand(1, 3, 16, 16), quiet)
    assert host.calls["plan_memory"] == 0 and host.prepared == [None]


@pytest.mark.parametrize("size", [(7, 40), (40, 7), (1, 1)])
def test_a_picture_below_8_px_runs_no_model_and_needs_no_memory(size):
    host, picture = NullHost(), torch.rand(1, 3, *size)
    chosen = planned(host, Size(*size))
    made = run(host, chosen, picture, quiet)
    assert not host.calls and chosen.memory is None
    torch.testing.assert_close(made.rgb, lanczos(picture, chosen.size.target).clamp(0, 1))


def test_what_the_host_cannot_do_is_refused_before_any_work():
    host = NullHost()
    with pytest.raises(SettingError, match="3 steps"):
        planned(host, Size(16, 16), [BARE, replace(BARE, steps=3)])
    with pytest.raises(SettingError, match="posterior seed.*None"):
        planned(host, Size(16, 16), [BARE, replace(BARE, posterior_seed=1)])
    with pytest.raises(SettingError, match="Settings.*got str"):
        planned(host, Size(16, 16), ["embedded"])
    assert not host.calls


def test_a_plan_is_for_one_size_and_run_for_one_result():
    host = NullHost()
    with pytest.raises(ImageError, match="16x16 px.*20x16 px"):
        run(host, planned(host, Size(16, 16)), torch.rand(1, 3, 16, 20), quiet)
    with pytest.raises(ImageError, match="16x16 px.*20x16 px"):
        next(variants(host, planned(host, Size(16, 16)), torch.rand(1, 3, 16, 20), quiet))
    several = planned(host, Size(16, 16), [BARE, replace(BARE, sigma=0.5)])
    with pytest.raises(SettingError, match="2 settings"):
        run(host, several, torch.rand(1, 3, 16, 16), quiet)
    assert len(list(variants(host, several, torch.rand(1, 3, 16, 16), quiet))) == 2 and host.calls["encode"] == 1


def test_a_latent_of_another_encoder_is_mirrored_and_cropped():
    host, z = NullHost(), torch.rand(1, 4, 13, 21)
    assert torch.equal(transform_latent(host, z, BARE, quiet), z) and host.seen == [(16, 24)]


def test_windows_are_rounded_down_to_what_the_models_divide():
    host, z = NullHost(), torch.rand(1, 4, 64, 64)
    settings = replace(BARE, window=300)
    torch.testing.assert_close(transform_latent(host, z, settings, quiet), z)
    assert set(host.seen) == {(32, 32)}  # 256 px


def test_an_exact_target_may_stretch():
    host = NullHost()
    chosen = plan(host, Request(Frame.whole(Size(16, 16), Size(40, 30)), [BARE]))
    made = run(host, chosen, torch.full((1, 3, 16, 16), 0.5), quiet)
    torch.testing.assert_close(made.rgb, resize(torch.full((1, 3, 16, 16), 0.5), Size(40, 30)))


def test_a_strip_of_millions_of_px_needs_a_memory_plan():
    """Lanczos alone would take gigabytes for it."""
    host = NullHost()
    assert planned(host, Size(3_000_000, 1)).memory == MEMORY and host.calls == {"plan_memory": 1}


def restored(rgb, region=None, **changes):
    host, frame = NullHost(), Scale(2).frame(Size(*rgb.shape[-2:]))
    planned = plan(host, Request(frame, [replace(BARE, **changes)]))
    return run(host, planned, rgb, lambda *_: None, region=region)


@pytest.fixture(scope="module")
def portrait():
    """(1, 3, 160, 160): a face about (80, 70)."""
    return read_picture(ASSETS / "demo" / "astronaut.png").rgb[..., 40:200, 145:305].contiguous()


def test_a_protected_face_is_changed_less_and_the_rest_as_ever(portrait):
    plain, kept = restored(portrait), restored(portrait, protect="faces")
    assert plain.protected is None and kept.protected.shape == (1, 1, 160, 160)
    assert kept.protected[0, 0, 70, 80] == 1 and kept.protected[0, 0, 5, 5] == 0
    face, corner = (..., slice(130, 150), slice(150, 170)), (..., slice(0, 20), slice(0, 20))
    small = lanczos(portrait, Size(320, 320)).clamp(0, 1)
    torch.testing.assert_close(kept.rgb[face], small[face].lerp(plain.rgb[face], 0.4), atol=1e-4, rtol=0)
    assert torch.equal(kept.rgb[corner], plain.rgb[corner])


def test_a_note_says_how_much_was_protected(portrait):
    kept = restored(portrait, protect="faces")
    assert kept.told == (f"Protected faces: {float(kept.protected.mean()):.0%} of the picture.",)
    assert restored(portrait).told == ()


def test_a_note_says_that_nothing_was_found_to_protect():
    grey = torch.full((1, 3, 64, 64), 0.5)
    assert restored(grey, protect="both").told == ("Protect found no faces or lettering: nothing was protected.",)


def test_a_mask_of_ones_own_goes_before_protect(portrait):
    region = torch.ones(1, 1, 10, 10)
    both, alone = restored(portrait, region, protect="faces"), restored(portrait, region)
    assert torch.equal(both.rgb, alone.rgb) and both.protected is None
    assert OVERRULED in both.notes and OVERRULED not in alone.notes


def test_noise_is_taken_out_before_the_encoder(portrait):
    noisy = (portrait + 0.08 * torch.randn(portrait.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    clean = restored(portrait).rgb
    errors = [float((restored(noisy, denoise=amount).rgb - clean).square().mean()) for amount in (0.0, 0.5, 1.0)]
    assert errors[0] > errors[1] > errors[2]


def test_variants_are_denoised_once():
    settings = [replace(BARE, denoise=amount) for amount in (0.0, 0.5)]
    with pytest.raises(SettingError, match=r"denoise.*0\.5"):
        plan(NullHost(), Request(Scale(2).frame(Size(64, 64)), settings))
