"""What was added to a small picture: verdicts with a reference, references that do not fit, the mesh, suppression."""

import math

import pytest
import torch
from patterns import marked, scene
from torch.nn.functional import interpolate

from op4ksr_core.errors import ImageError
from op4ksr_core.evaluate.measures import psnr_of_colour
from op4ksr_core.lattice.inspector import SMALLER, inspect, inspect_made
from op4ksr_core.lattice.mesh import find_mesh, mesh_mask
from op4ksr_core.lattice.reference import added_to
from op4ksr_core.lattice.report import in_a_few_words, mesh_map, sentences
from op4ksr_core.lattice.spectrum import luma255
from op4ksr_core.lattice.suppress import DOUBTFUL, MOST, dithered, suppress


def quarter(x):
    return interpolate(x[None], scale_factor=0.25, mode="bicubic", antialias=True)[0].clamp(0, 1)


def louvres(side=512, pitch=16, amplitude=5.0):
    wave = torch.sin(2 * math.pi * torch.arange(side) / pitch) * amplitude / 255
    return scene(side) + wave[:, None]


def lines(x, period, amplitude):
    on = ((torch.arange(x.shape[-1]) + 0.5) % period < 1).float()
    return x + amplitude / 255 * torch.maximum(on[:, None], on)


def crosshatch(x, amplitude=6.0, pitch=5.0):
    """Soft in the small picture, a diagonal mesh of 5 px in the middle."""
    side = x.shape[-1]
    down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    turn = 2 * math.pi / (pitch * math.sqrt(2))
    wave = torch.cos(turn * (down + across)) + torch.cos(turn * (down - across))
    y = x.clone()
    middle = slice(side // 4, 3 * side // 4)
    y[:, middle, middle] += amplitude / 255 * wave[middle, middle]
    return y


def smooth(side=512):
    coarse = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(4))
    return interpolate(coarse, size=(side, side), mode="bicubic")[0] * 0.5 + 0.25


def test_louvres_that_the_small_picture_has_are_no_lattice_and_stay():
    x = louvres()
    found = inspect(x, quarter(x))
    assert found.referenced and found.verdict != "lattice"
    assert torch.equal(suppress(x, found.lattice, quarter(x)), x)


def tiles(x, contrast):
    """Tiles 8 px wide with soft joints: a pattern with harmonics that a small picture cannot hold."""
    place = torch.arange(x.shape[-1]) % 8
    joint = sum(torch.exp(-((place - at) ** 2) / (2 * 0.9**2)) for at in (0, 1, 8, 9)) / (0.9 * math.sqrt(2 * math.pi))
    return x - contrast / 255 * (1 - (1 - joint[:, None]) * (1 - joint))


@pytest.mark.parametrize("contrast", [8.0, 12.0])
def test_the_harmonics_of_what_the_small_picture_has_are_no_lattice(contrast):
    x = smooth() + 0.004 * torch.randn(3, 512, 512, generator=torch.Generator().manual_seed(1))
    drawn = tiles(x, contrast)
    assert inspect(drawn, quarter(drawn)).verdict == "texture"
    assert inspect(drawn, quarter(x)).verdict == "lattice"  # the same tiles, added to a picture without them


@pytest.mark.parametrize("contrast", [6.0, 16.0])
def test_lines_thinner_than_a_px_of_the_small_picture_are_its_own(contrast):
    """Where they stand as these do, less than a tenth of them is explained."""
    x, line = smooth(), (torch.arange(512) % 16 == 15).float()
    drawn = x - contrast / 255 * torch.maximum(line[:, None], line)
    assert inspect(drawn, quarter(drawn)).verdict == "texture"
    assert inspect(drawn, quarter(x)).verdict == "lattice"


@pytest.mark.parametrize("contrast", [5.0, 8.0])
@pytest.mark.parametrize("pitch", [10, 16, 24, 32])
def test_herringbone_is_no_lattice(pitch, contrast):
    """It is like itself in a mirror beside it, but not in one at the diagonal."""
    down, across = (part.float() for part in torch.meshgrid(torch.arange(512), torch.arange(512), indexing="ij"))
    slope = torch.where(torch.floor(across / pitch) % 2 == 0, 1.0, -1.0)
    bones = torch.where((down + slope * across) % pitch < 0.2 * pitch, 1.0, -0.3)
    noise = 0.004 * torch.randn(3, 512, 512, generator=torch.Generator().manual_seed(1))
    assert inspect(smooth() + noise + contrast / 255 * bones).verdict == "texture"


def test_a_turned_fabric_is_no_lattice_where_it_falls_on_a_models_pitch():
    """Threads of 4.9 px, turned by 9 degrees: waves (2, 13) and (13, -2) of 64 px, too fine for the small picture."""
    down, across = torch.meshgrid(torch.arange(512), torch.arange(512), indexing="ij")
    turns = 2 * math.pi / 64
    threads = torch.cos(turns * (2 * down + 13 * across)) + torch.cos(turns * (13 * down - 2 * across))
    noise = 0.004 * torch.randn(3, 512, 512, generator=torch.Generator().manual_seed(1))
    drawn = smooth() + noise + 0.5 / 255 * threads
    assert inspect(drawn, quarter(drawn)).verdict == "texture"


def test_a_screen_keeps_to_one_verdict_in_all_its_harmonics():
    """Of wires 6 px wide every 32 px the small picture loses the harmonics at its Nyquist frequency: they are no
    lattice of 8 px, nor of 24."""
    x, wires = smooth(), (torch.arange(512) % 32 < 6).float()
    drawn = x + 20 / 255 * torch.maximum(wires[:, None], wires)
    assert inspect(drawn, quarter(drawn)).verdict == "texture"


@pytest.mark.parametrize("softness", [1.5, 2.5])
def test_a_harmonic_of_a_strong_pattern_is_no_lattice(softness):
    """Squares of 6 px with soft edges: their third harmonics have 4 px and are faint."""
    wave = torch.tanh(softness * torch.sin(math.pi / 6 * (torch.arange(512) + 0.5)))
    drawn = smooth() + 40 / 255 * wave[:, None] * wave
    assert inspect(drawn).verdict == "texture"


def unpacked(side=512):
    """Sixteen places that differ by 0.7/255, as a network that unpacks by 4 leaves them."""
    return (0.7 / 255 * torch.randn(4, 4, generator=torch.Generator().manual_seed(2))).repeat(side // 4, side // 4)


def test_four_px_are_a_networks_where_its_sixteen_places_differ():
    """A soft weave of that pitch is drawn, though the small picture cannot hold it."""
    x = smooth() + 0.004 * torch.randn(3, 512, 512, generator=torch.Generator().manual_seed(1))
    wave = torch.sin(math.pi / 2 * torch.arange(512))
    for small in (None, quarter(x)):
        found = inspect(x + unpacked(), small)
        assert found.verdict == "lattice" and found.period == 4
        assert inspect(x + 0.8 / 255 * (wave[:, None] + wave), small).verdict == "texture"


@pytest.mark.parametrize("period", [16, 32])
def test_a_lattice_that_was_added_is_found_and_told_so(period):
    x = scene()
    found = inspect(marked(x, period, 2.0), quarter(x))
    assert found.verdict == "lattice" and found.period == period and found.referenced
    assert any("a reference was used" in line for line in sentences(found))
    assert any("without the small picture" in line for line in sentences(inspect(x)))


@pytest.mark.parametrize("period", [16, 24, 32])
def test_lines_have_their_period_and_go(period):
    x = smooth()
    y = lines(x, period, 6.0)
    wave = lines(torch.zeros_like(x), period, 1.0)[0]
    wave = wave - wave.mean()
    for small in (None, quarter(x)):
        found = inspect(y, small)
        assert found.verdict == "lattice" and found.period == period
        before, after = (float(((p - x).mean(0) * wave).sum()) for p in (y, suppress(y, found.lattice, small)))
        assert (after / before) ** 2 < 0.05


def test_a_strong_pattern_with_edges_is_never_certain_without_the_small_picture():
    """Wires 4 px wide on the px grid, as a net has; a woven wave as strong is what a model may leave."""
    x = smooth() + 0.004 * torch.randn(3, 512, 512, generator=torch.Generator().manual_seed(1))
    wires, wave = (torch.arange(512) % 16 < 4).float(), torch.sin(2 * math.pi * torch.arange(512) / 16)
    net = inspect(x + 8 / 255 * torch.maximum(wires[:, None], wires))
    woven = inspect(x + 8 / 255 * wave[:, None] * wave)
    assert net.verdict == woven.verdict == "lattice"
    assert net.amplitude == pytest.approx(woven.amplitude, rel=0.1)
    assert woven.lattice.certain and not net.lattice.certain


def test_a_lattice_that_may_be_drawn_is_hardly_changed_without_the_small_picture():
    """Cells of 20 px, as a fabric has: found, but the picture keeps 50 dB, through the noise and rounding of a file."""
    x = smooth()
    wave = torch.cos(2 * math.pi * torch.arange(512) / 20)
    y = x + 3 / 255 * (wave[:, None] + wave)
    alone, known = inspect(y), inspect(y, quarter(x))
    assert alone.verdict == known.verdict == "lattice" and known.lattice.certain and not alone.lattice.certain
    assert f"{DOUBTFUL:g}/255" in alone.reason and f"{DOUBTFUL:g}/255" not in known.reason
    change = suppress(y, alone.lattice) - y
    assert 255 * float(change.square().mean().sqrt()) == pytest.approx(DOUBTFUL, rel=1e-3)
    written = (dithered(suppress(y, alone.lattice)) * 255).round() / 255
    assert psnr_of_colour(written, y) >= 50
    assert float((suppress(y, known.lattice, quarter(x)) - x).square().mean()) < 0.05 * float((y - x).square().mean())


def test_a_pattern_finer_than_the_small_picture_can_hold_is_not_judged_by_it():
    """4.3 px, as of a fine fabric, cannot be in a quarter; 12 px could have been."""
    for pitch, verdict in ((4.3, "texture"), (12.0, "lattice")):
        wave = torch.cos(2 * math.pi * torch.arange(512) / pitch)
        found = inspect(smooth() + 1.5 / 255 * (wave[:, None] + wave), quarter(smooth()))
        assert found.verdict == verdict and ("so fine" in found.reason) == (verdict == "texture")


def test_a_pitch_of_models_that_the_small_picture_cannot_hold_is_judged_as_without_it():
    """A net of 4 px: too strong for a model's, it is drawn; a faint one may be a model's, and is hardly changed."""
    x, wave = smooth(), torch.cos(2 * math.pi * torch.arange(512) / 4)
    net = wave[:, None] + wave
    strong = inspect((x + 9 / 255 * net).clamp(0, 1), quarter(x))
    assert strong.verdict == "texture" and "drawn in the picture" in strong.reason
    faint = inspect(x + unpacked(), quarter(x))
    assert faint.verdict == "lattice" and not faint.lattice.certain


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_twill_runs_one_way_and_a_woven_lattice_does_not(mirrored):
    down, across = torch.meshgrid(torch.arange(512), torch.arange(512), indexing="ij")
    turn = 2 * math.pi / 24
    wave = torch.cos(turn * (down + across)) + mirrored * torch.cos(turn * (down - across))
    found = inspect(smooth() + 3 / 255 * wave)
    assert (found.verdict == "lattice") == mirrored and ("one way" in found.reason) != mirrored


def test_suppression_is_bounded():
    y = marked(scene(), 16, 6.0)
    change = suppress(y, inspect(y).lattice) - y
    assert 0 < float(change.abs().max()) <= MOST / 255 + 1e-6


def test_a_strong_pattern_is_content():
    x = scene()
    found = inspect((x + 40 * (marked(x, 16, 1.0) - x)).clamp(0, 1))
    assert found.verdict == "texture" and found.lattice is None


def test_a_mesh_in_soft_areas_is_reported_mapped_and_calmed():
    x = smooth()
    y, small = crosshatch(x), quarter(x)
    found = inspect(y, small)
    assert found.mesh.found and found.mesh.pitch == pytest.approx(5, abs=1)
    assert "texture in soft areas" in in_a_few_words(found)
    shown = mesh_map(found.mesh, y.shape[-2:])
    assert float(shown[160:350, 160:350].mean()) > 0.3 > 0.02 > float(shown[:100].mean())
    calmed = suppress(y, None, small, found.mesh)
    inside = mesh_mask(found.mesh, y.shape[-2:]) == 1
    before, after = (float((p - x)[:, inside].square().mean()) for p in (y, calmed))
    assert after < 0.1 * before
    assert torch.equal(calmed[:, :80], y[:, :80])


def test_no_mesh_without_one():
    x = smooth()
    for picture in (x, scene(), interpolate(quarter(x)[None], scale_factor=4, mode="bicubic")[0].clamp(0, 1)):
        assert not inspect(picture, quarter(picture)).mesh.found
    assert not find_mesh(luma255(crosshatch(x))).found  # without the small picture it may be the picture's own


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (lambda x: quarter(scene(seed=7)), "something else"),
        (lambda x: quarter(x).flip(1, 2), "upside down"),
        (lambda x: quarter(x).flip(2), "mirrored left to right"),
        (lambda x: quarter(x)[:, :100], "128x100 px.*512x512 px"),
        (lambda x: x.repeat(1, 2, 2), "1024x1024 px.*512x512 px"),
        (lambda x: torch.full_like(quarter(x), math.nan), "NaN"),
        (lambda x: torch.full_like(quarter(x), math.inf), "infinite"),
        (lambda x: torch.zeros(3, 0, 0), "reference.*0x0 px"),
        (lambda x: torch.full_like(quarter(x), 0.9), "something else"),
        (lambda x: x.flip(1, 2), "upside down"),
        (lambda x: scene(seed=7), "something else"),
        (lambda x: torch.rand(3, 2, 2), "2x2"),
        (lambda x: torch.rand(2, 3, 64, 64), "2, 3, 64, 64"),
    ],
)
def test_references_that_do_not_fit(reference, words):
    x = scene()
    with pytest.raises(ImageError, match=words):
        inspect(x, reference(x))


@pytest.mark.parametrize("search", [True, False])
def test_a_picture_of_one_colour_with_a_reference_of_something_is_refused(search):
    with pytest.raises(ImageError, match="something else"):
        inspect(torch.full((3, 512, 512), 0.5), quarter(scene()), search=search)


def test_the_picture_itself_is_no_reference():
    x = marked(scene(), 16, 2.0)
    found = inspect(x, x)
    assert not found.referenced and "the picture itself" in found.note and found.verdict == "lattice"


def test_a_sharp_reference_of_the_same_size_is_named_and_a_plain_enlargement_is_not():
    x = scene()
    y = marked(x, 16, 2.0)
    assert "as large and nearly as sharp" in inspect(y, x).note
    enlarged = interpolate(quarter(x)[None], size=x.shape[-2:], mode="bicubic")[0].clamp(0, 1)
    assert inspect(y, enlarged).note == "" and inspect(y, enlarged).verdict == "lattice"


def test_grey_references_and_one_colour():
    x = scene()
    assert inspect(marked(x, 16, 2.0), luma255(quarter(x))[None] / 255).period == 16
    plain = torch.full((3, 256, 256), 0.5)
    found = inspect(plain, torch.full((3, 64, 64), 0.5))
    assert found.verdict == "clean" and "one colour" in found.reason and found.score == 0


def test_what_was_just_made_is_judged_alone_where_the_small_picture_cannot_be_used():
    found = inspect_made(scene(), torch.rand(3, 2, 2))
    assert not found.referenced and "judged by itself" in found.note


def test_a_result_smaller_than_its_source_is_judged_alone_and_asks_for_nothing():
    x = scene()
    found = inspect_made(quarter(x), x)
    assert not found.referenced and found.note == SMALLER


def test_a_shifted_and_sharpened_reference_explains_as_much():
    x = luma255(scene())
    small = quarter(scene())
    shifted = interpolate(small[None], scale_factor=4, mode="bicubic")[0].roll(1, 2)
    rest = [float(added_to(x, one).residual.square().mean()) for one in (small, shifted)]
    assert rest[1] < 1.3 * rest[0]


def test_one_thread_is_taken_and_the_others_given_back(monkeypatch):
    before, taken = torch.get_num_threads(), []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    suppress(marked(scene(), 16, 4.0), inspect(marked(scene(), 16, 4.0)).lattice)
    assert taken == [1, 6, 1, 6]
    monkeypatch.undo()
    assert torch.get_num_threads() == before
