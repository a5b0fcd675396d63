"""What a content sets, on the command line, in files and by itself; what is given explicitly wins."""

import argparse
import json

import pytest

from op4ksr_core.app.options import add_method_options, add_model_options, upscale_settings
from op4ksr_core.errors import SettingError
from op4ksr_core.settings import CONTENT_KINDS, CONTENTS, PRESETS, told_content, with_content, with_strength

PRESET = PRESETS["embedded"]


def settings_of(*options):
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    add_method_options(parser)
    return upscale_settings(parser.parse_args(options))


def test_each_content_has_a_set():
    assert tuple(CONTENTS) == CONTENT_KINDS
    assert with_content(PRESET, "any") == PRESET
    assert len({with_content(PRESET, content) for content in CONTENT_KINDS}) == len(CONTENT_KINDS)


def test_the_option_sets_it_and_the_log_says_so(caplog):
    assert settings_of("--content", "portrait") == with_content(PRESET, "portrait")
    assert "strength 0.75, protect faces" in caplog.text


def test_what_is_given_wins(tmp_path):
    assert settings_of("--content", "portrait", "--protect", "lettering").protect == "lettering"
    strong = settings_of("--content", "drawing", "--strength", "1.5")
    assert strong == with_strength(PRESET, 1.5)
    assert settings_of("--content", "photo", "--fidelity", "0.9").compensation == PRESET.compensation
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"content": "noisy", "denoise": 0.25}))
    assert settings_of("--settings", str(file)).denoise == 0.25
    assert told_content("noisy", ["denoise"]) == ["Content noisy: nothing is left to set."]


def test_a_file_may_name_a_content(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"content": "portrait"}))
    assert settings_of("--settings", str(file)) == with_content(PRESET, "portrait")
    assert settings_of("--settings", str(file), "--content", "any") == PRESET
    file.write_text(json.dumps({"content": "portraits"}))
    with pytest.raises(SettingError, match="portraits"):
        settings_of("--settings", str(file))


def test_a_content_that_there_is_not():
    with pytest.raises(SettingError, match="landscape"):
        with_content(PRESET, "landscape")
