"""What wishes set, on the command line, in files and by themselves; what is given explicitly wins."""

import argparse
import json

import pytest

from op4ksr_core.app.options import add_method_options, add_model_options, upscale_settings
from op4ksr_core.errors import SettingError
from op4ksr_core.settings import PRESETS, with_strength
from op4ksr_core.wishes import CONTENT_KINDS, CONTENTS, DRAWS_NOISE, Wishes, with_wishes

PRESET = PRESETS["embedded"]


def settings_of(*options):
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    add_method_options(parser)
    return upscale_settings(parser.parse_args(options))


def wished(preset="embedded", **wishes):
    return with_wishes(PRESETS[preset], Wishes(**wishes), preset)[0]


def test_without_a_wish_every_preset_stays_as_it_is():
    assert all(with_wishes(settings, Wishes(), name) == (settings, []) for name, settings in PRESETS.items())


def test_each_content_has_a_set():
    assert tuple(CONTENTS) == CONTENT_KINDS
    assert len({wished(content=content) for content in CONTENT_KINDS}) == len(CONTENT_KINDS)


def test_the_option_sets_it_and_the_log_says_so(caplog):
    assert settings_of("--content", "portrait") == wished(content="portrait")
    assert "strength 0.75, protect faces" in caplog.text


def test_what_is_given_wins(tmp_path):
    assert settings_of("--content", "portrait", "--protect", "lettering").protect == "lettering"
    strong = settings_of("--content", "drawing", "--strength", "1.5")
    assert strong == with_strength(PRESET, 1.5)
    assert settings_of("--content", "photo", "--fidelity", "0.9").compensation == PRESET.compensation
    assert settings_of("--creativity", "0.5", "--fidelity", "0.9").fidelity == 0.9
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"content": "noisy", "denoise": 0.25}))
    assert settings_of("--settings", str(file)).denoise == 0.25
    _, told = with_wishes(PRESET, Wishes("noisy"), "embedded", ["denoise"])
    assert told == ["Content noisy: nothing is left to set."]


def test_a_file_may_name_wishes(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"content": "portrait", "creativity": -0.5}))
    assert settings_of("--settings", str(file)) == wished(content="portrait", creativity=-0.5)
    assert settings_of("--settings", str(file), "--content", "any", "--creativity", "0") == PRESET
    file.write_text(json.dumps({"content": "portraits"}))
    with pytest.raises(SettingError, match="portraits"):
        settings_of("--settings", str(file))


@pytest.mark.parametrize(
    ("wishes", "value"),
    [({"content": "landscape"}, "landscape"), ({"creativity": 1.5}, "1.5"), ({"resemblance": -2}, "-2")],
)
def test_a_wish_that_there_is_not(wishes, value):
    with pytest.raises(SettingError, match=value):
        Wishes(**wishes)


def test_creativity_is_strength_and_its_ends_are_enlarging_and_most():
    assert wished(creativity=-1.0) == with_strength(PRESET, 0)
    assert wished(creativity=1.0) == with_strength(PRESET, 2)


@pytest.mark.parametrize("preset", PRESETS)
def test_flow_models_draw_noise_for_it_and_others_do_not(preset):
    before, after = PRESETS[preset], wished(preset, creativity=0.4)
    if preset == "ultraflux":  # which starts from all of the noise
        assert after.noise == before.noise == 1 and after.sigma == pytest.approx(before.sigma * 1.2)
        assert wished(preset, creativity=-0.4).sigma == pytest.approx(before.sigma * 0.8)
    else:
        assert after.noise == (0.4 if preset in DRAWS_NOISE else 0) and after.sigma == before.sigma
        assert wished(preset, creativity=-0.4).noise == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_resemblance_goes_from_what_was_drawn_to_the_picture(preset):
    fidelities = [wished(preset, resemblance=r).fidelity for r in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    assert fidelities[0] == 0 and fidelities[-1] == 1 and fidelities == sorted(fidelities)
    assert fidelities[2] == PRESETS[preset].fidelity


def test_what_they_set_is_said():
    told = with_wishes(PRESET, Wishes(creativity=0.5, resemblance=1.0), "embedded")[1]
    assert told == ["Creativity 0.5: fidelity 0.15, compensation 1.5.", "Resemblance 1: fidelity 1."]
    same = with_wishes(PRESETS["osediff"], Wishes(creativity=0.5), "osediff")[1]
    assert same == ["Creativity 0.5: the preset has nothing to change."]
