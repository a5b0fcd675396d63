import math
import re

import pytest
import torch

from op4ksr_core.errors import SettingError
from op4ksr_core.model.flow import image_ids
from op4ksr_core.model.rope import RotaryEmbedding, amplitude, effective_pairs, frequencies
from op4ksr_core.settings import RopeSettings

ULTRAFLUX = RopeSettings(theta=10_000.0, scheme="resonance-yarn")

CHANNELS = [16, 24, 30, 36, 40, 44, 50, 60, 72, 80, 86, 90, 94, 100, 110, 126]
# cos then sin of the token (last row, third column from the right) at CHANNELS, computed once with
# UltraFlux's published position embedding for images of (rows, columns) tokens.
PUBLISHED = {
    (128, 128): (
        [0.5940794, -1.0610712, -0.4788148, -0.7642621, 0.3614407, 0.860875, 1.0394986, 1.0681982, -1.0487682]
        + [-0.9755411, -0.349822, -1.0644342, -0.1130167, 0.8671747, 1.0615391, 1.0692744],
        [-0.8891027, -0.1325216, 0.9561226, 0.7478886, 1.006377, 0.6342934, 0.2507522, 0.0488507, -0.2086129]
        + [0.4378969, 1.0104744, -0.1020485, 1.0633255, 0.6256531, 0.1287198, 0.0092862],
    ),
    (100, 72): (
        [-1.0245565, -0.9136632, 0.4251284, -0.7427955, 0.3557527, 0.8418677, 1.0156286, 1.0435429, 0.1973882]
        + [0.3560502, 1.0117071, -1.0111533, -0.075399, 0.8273655, 1.0046929, 1.0117416],
        [0.203797, 0.5064273, 0.9542091, 0.7345093, 0.982186, 0.6184723, 0.2444334, 0.0476178, -0.9923373]
        + [0.9470605, 0.01201, -0.0355585, 1.008965, 0.582376, 0.1195311, 0.0086225],
    ),
    (60, 65): (
        [-0.7710802, -0.9928156, 0.9274784, -0.5879191, 0.4184015, 0.8309407, 0.9759132, 0.9990987, -0.3832768]
        + [0.8150306, 0.9690428, -1.0013446, -0.06694, 0.8206539, 0.9946021, 1.0015144],
        [0.636738, -0.1196546, -0.3738767, 0.8089197, 0.9082622, 0.556361, 0.2181594, 0.0424487, -0.9253119]
        + [-0.5820897, -0.2530994, -0.0203075, 0.9993109, 0.5741345, 0.1177713, 0.0084954],
    ),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_resonance_yarn_equals_ultraflux(size):
    rows, columns = size
    cos, sin = RotaryEmbedding(ULTRAFLUX)(image_ids(2 * rows, 2 * columns))
    token = (rows - 1) * columns + columns - 3
    for ours, published in zip((cos, sin), PUBLISHED[size], strict=True):
        torch.testing.assert_close(ours[token, CHANNELS], torch.tensor(published), rtol=0, atol=1e-7)


@pytest.mark.parametrize("size", [(2, 2), (256, 256), (130, 34)])
def test_plain_equals_diffusers_bit_for_bit(size):
    from diffusers.models.transformers.transformer_flux import FluxPosEmbed

    ids = torch.cat([torch.zeros(7, 3), image_ids(*size)])
    theirs = FluxPosEmbed(10_000, [16, 56, 56])(ids)
    ours = RotaryEmbedding(RopeSettings(theta=10_000.0))(ids)
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))


@pytest.mark.parametrize(
    ("settings", "span", "count"),
    [
        (RopeSettings(theta=10_000.0), 128, 8),
        (RopeSettings(theta=100.0), 128, 15),
        (ULTRAFLUX, 128, 6),
        (RopeSettings(theta=100.0, scheme="resonance-yarn"), 128, 12),
    ],
)
def test_effective_pairs_of_the_paper(settings, span, count):
    assert effective_pairs(settings, span=span) == count


def _slow_yarn(pair, settings, span, resonant):
    """One pair's frequency by scalar arithmetic, from the formulas."""
    d, theta, length = 56, settings.theta, settings.base_tokens
    s = span / length
    f = theta ** (-2 * pair / d)
    turns = length * f / (2 * math.pi)
    if resonant and turns >= 1:
        f = 2 * math.pi * round(turns) / length
    a = -math.log(f) / math.log(theta)

    def ramp(first, second):
        def corr(rho):
            return d * math.log(length / (2 * math.pi * rho)) / (2 * math.log(theta))

        low, high = max(0, math.floor(corr(first))), min(d // 2, math.ceil(corr(second)))
        return 1 - min(1.0, max(0.0, (pair - low) / ((high - low) or 0.001)))

    ntk = (theta * s ** (d / (d - 2))) ** -a
    mixed = f / s * (1 - ramp(1.25, 0.75)) + ntk * ramp(1.25, 0.75)
    return mixed * (1 - ramp(16, 2)) + f * ramp(16, 2)


@pytest.mark.parametrize("scheme", ["yarn", "resonance-yarn"])
@pytest.mark.parametrize(("theta", "base", "span"), [(10_000.0, 64, 128), (100.0, 64, 200), (300.0, 32, 128)])
def test_yarn_against_scalar_formulas(scheme, theta, base, span):
    settings = RopeSettings(theta, scheme, base_tokens=base)
    slow = [_slow_yarn(i, settings, span, scheme == "resonance-yarn") for i in range(28)]
    torch.testing.assert_close(
        frequencies(56, settings, span), torch.tensor(slow, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_yarn_is_plain_within_the_base():
    assert torch.equal(frequencies(56, ULTRAFLUX, 64), frequencies(56, RopeSettings(10_000.0), 64))
    assert amplitude(ULTRAFLUX, 64) == 1.0


def test_mscale_is_independent_of_the_scheme():
    assert amplitude(ULTRAFLUX, 128) == pytest.approx(0.1 * math.log(2) + 1)
    assert amplitude(RopeSettings(scheme="resonance-yarn", mscale=1.0), 128) == 1.0
    cos, sin = RotaryEmbedding(RopeSettings(mscale=1.25))(image_ids(8, 8))
    torch.testing.assert_close(cos[:, 16:] ** 2 + sin[:, 16:] ** 2, torch.full((16, 112), 1.25**2))


def test_text_tokens_are_unrotated():
    ids = torch.cat([torch.zeros(3, 3), image_ids(256, 256)])
    cos, sin = RotaryEmbedding(ULTRAFLUX)(ids)
    assert torch.equal(cos[:3, :16], torch.ones(3, 16)) and torch.equal(sin[:3], torch.zeros(3, 128))


def test_phases_are_float64():
    # At position 1000 a float32 phase of the fastest pair is off by more than float32's own rounding of its cosine.
    ids = torch.tensor([[0.0, 1000.0, 0.0], [0.0, 0.0, 0.0]])
    cos, _ = RotaryEmbedding(RopeSettings(theta=100.0))(ids)
    exact = [math.cos(1000 * 100 ** (-2 * i / 56)) for i in range(28)]
    torch.testing.assert_close(cos[0, 16:72:2].double(), torch.tensor(exact, dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "value"),
    [("theta", float("nan")), ("theta", 1.0), ("theta", -5), ("scheme", "ntk"), ("mscale", 0.0), ("base_tokens", 0)],
)
def test_bad_settings_name_the_value(name, value):
    with pytest.raises(SettingError, match=f"{name}.*{re.escape(str(value))}"):
        RopeSettings(**{name: value})
