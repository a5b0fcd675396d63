import pytest
import torch

from op4ksr_core.diagnostics.latent_view import check_latent, draw_latents, phase_bias, principal_colours, sentences
from op4ksr_core.errors import ImageError


def smooth(channels=16, height=64, width=48):
    return torch.nn.functional.interpolate(torch.randn(1, channels, 8, 6), (height, width), mode="bicubic")[0]


def test_random_latents_have_no_bias():
    for seed in range(5):
        torch.manual_seed(seed)
        bias = phase_bias(torch.randn(16, 64, 64))
        assert bias.errors == pytest.approx(1, abs=0.35) and bias.relative < 0.03


@pytest.mark.parametrize(("down", "across", "place"), [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3)])
def test_a_planted_bias_is_measured_where_it_is(down, across, place):
    z = smooth()
    z[5, down::2, across::2] += 0.2
    bias = phase_bias(z)
    expected = torch.full((4,), -0.05)
    expected[place] = 0.15  # less the token's own mean
    torch.testing.assert_close(bias.means[5], expected, rtol=0, atol=0.01)
    assert bias.errors > 4 and bias.by_place.index(max(bias.by_place)) == place
    assert bias.as_dict()["by_place"]["bottom right"] == bias.by_place[3]


def test_busy_areas_do_not_hide_a_bias_of_the_flat():
    z = smooth()
    z[:, ::2, ::2] += 0.1
    z[:, :, 40:] += 3 * torch.randn(16, 64, 8)
    assert float(phase_bias(z).means[:, 0].mean()) == pytest.approx(0.075, abs=0.01)


def test_colours_are_principal_components():
    base = torch.randn(2, 20 * 30)
    mix = torch.linalg.qr(torch.randn(16, 2)).Q
    z = (mix @ (base * torch.tensor([[5.0], [1.0]]))).reshape(16, 20, 30)
    [rgb], share = principal_colours([z])
    assert rgb.shape == (3, 20, 30) and share == pytest.approx(1, abs=1e-4)
    assert float(rgb.min()) >= 0 and float(rgb.max()) <= 1
    inside = (rgb[0] > 0) & (rgb[0] < 1)
    both = torch.stack([rgb[0][inside], base[0].reshape(20, 30)[inside]])
    assert abs(float(torch.corrcoef(both)[0, 1])) > 0.999


def test_equal_values_get_equal_colours():
    z = smooth()
    (a, b), _ = principal_colours([z, z.flip(-1)])
    torch.testing.assert_close(a, b.flip(-1), rtol=0, atol=1e-5)


def test_a_constant_latent_is_drawn_and_called_unbiased():
    z = torch.full((16, 8, 8), 0.3)
    assert "no bias to speak of" in sentences([z], ["z"])[0]
    assert torch.isfinite(draw_latents([z], ["z"])).all()


@pytest.mark.parametrize("shape", [(16, 256, 128), (16, 4, 64), (4, 64, 64)])
def test_the_view_is_drawn(shape):
    z = torch.randn(shape)
    one, two = draw_latents([z], ["before"]), draw_latents([z, z + 1], ["before", "after"])
    assert one.shape[0] == 3 and two.shape[1] > one.shape[1] and float(two.min()) >= 0 and float(two.max()) <= 1


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.zeros(16, 8, 8), r"got \[16, 8, 8\]"),
        (torch.zeros(1, 16, 7, 8), r"got \[1, 16, 7, 8\]"),
        (torch.zeros(1, 2, 8, 8), r"got \[1, 2, 8, 8\]"),
        (torch.full((1, 16, 8, 8), torch.nan), "NaN or infinite"),
    ],
)
def test_unusable_latents_are_named(z, message):
    with pytest.raises(ImageError, match=message):
        check_latent(z)


def test_sentences_tell_a_bias():
    z = smooth()
    z[:, ::2, ::2] += 0.2
    lines = sentences([smooth(), z], ["before", "after"])
    assert "): a bias." in lines[1] and lines[1].startswith("after:")
