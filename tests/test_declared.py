"""Settings declared once: what derives from a declaration."""

import argparse
import json
import math
from dataclasses import dataclass
from typing import Literal

import pytest

from op4ksr_core.declared import add_options, as_values, check, declarations, find_setting, from_values, given_options
from op4ksr_core.declared import setting as declare
from op4ksr_core.errors import SettingError


@dataclass(frozen=True)
class Inner:
    theta: float = declare(100.0, "Base.", above=1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Example:
    sigma: float = declare(0.3, "The mid-timestep.", above=0, high=1, step=0.005)
    steps: int = declare(1, "Evaluations.", low=1, high=1000)
    window: int = declare(0, "Side.", low=256, high=32_768, or_zero=True, unit="px")
    seed: int | None = declare(None, "Draws.", low=0, high=2**64 - 1)
    colour: Literal["none", "wavelet"] = declare("none", "Colours at 100%.", spellings=("color",))
    shares: tuple[float, float] = declare((0.02, 0.98), "Two shares.", above=0, below=1)
    lean: bool = declare(True, "Short of memory.", option="plain-layers", inverted=True)
    inner: Inner | None = declare(Inner(), "Nested.")

    def __post_init__(self) -> None:
        check(self)


ALLOWED = [
    {"sigma": 1}, {"steps": 1000}, {"window": 0}, {"window": 256}, {"seed": None}, {"seed": 2**64 - 1},
    {"shares": (0.1, 0.2)}, {"inner": None},
]  # fmt: skip
WRONG = [
    ("sigma", 0), ("sigma", 1.01), ("sigma", math.nan), ("sigma", "0.3"), ("sigma", True), ("steps", 0), ("steps", 1.5),
    ("steps", 1001), ("window", 255), ("window", -1), ("seed", -1), ("seed", 2**64), ("colour", "wavlet"),
    ("colour", None), ("shares", (0.1,)), ("shares", 0.5), ("lean", 1), ("inner", 100.0),
]  # fmt: skip


@pytest.mark.parametrize("values", ALLOWED)
def test_what_lies_in_the_range_is_taken(values):
    assert as_values(Example(**values)) | values == as_values(Example(**values))


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_does_not_is_an_error_with_name_and_value(name, value):
    with pytest.raises(SettingError) as error:
        Example(**{name: value})
    assert name in str(error.value)
    assert str(value) in str(error.value)


def test_a_wrong_part_of_a_pair_is_named():
    with pytest.raises(SettingError) as error:
        Example(shares=(0.5, 1.25))
    assert "shares" in str(error.value)
    assert "1.25" in str(error.value)


def parsed(*words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser, Example)
    return given_options(parser.parse_args(words), Example)


def test_options_say_what_was_given_and_nothing_else():
    assert parsed() == {}
    assert parsed("--sigma", "0.5", "--color", "wavelet") == {"sigma": 0.5, "colour": "wavelet"}
    assert parsed("--seed", "none") == {"seed": None}
    assert parsed("--shares", "0.1", "0.9") == {"shares": (0.1, 0.9)}
    assert parsed("--plain-layers") == {"lean": False}
    assert parsed("--no-plain-layers") == {"lean": True}


@pytest.mark.parametrize("words", [["--sigma", "2"], ["--sigma", "x"], ["--steps", "1.5"], ["--colour", "wavlet"]])
def test_a_wrong_option_is_named_with_its_value(words):
    with pytest.raises(argparse.ArgumentError) as error:
        parsed(*words)
    assert words[0] in str(error.value)
    assert words[1] in str(error.value)


def test_help_says_the_range_and_keeps_a_percent_sign():
    parser = argparse.ArgumentParser()
    add_options(parser, Example)
    text = " ".join(parser.format_help().split())
    assert find_setting(Example, "sigma").range in text
    assert "100%" in text


def test_json_goes_there_and_back():
    settings = Example(sigma=0.5, shares=(0.2, 0.3), inner=Inner(7.0))
    assert from_values(Example, json.loads(json.dumps(as_values(settings)))) == settings
    assert from_values(Example, {"inner": None}) == Example(inner=None)


def test_what_is_left_out_stays_as_it_was():
    base = Example(sigma=0.5, inner=Inner(7.0))
    assert from_values(Example, {"steps": 3, "inner": {}}, base) == Example(sigma=0.5, steps=3, inner=Inner(7.0))


@pytest.mark.parametrize(
    ("values", "named"),
    [({"sigm": 7.25}, ("sigm", "7.25", "sigma")), ({"inner": {"theta": 0.5}}, ("theta", "0.5")), ([1], ("[1]",))],
)
def test_a_wrong_file_is_an_error_with_key_and_value(values, named):
    with pytest.raises(SettingError) as error:
        from_values(Example, values)
    assert all(word in str(error.value) for word in named)


def test_every_field_is_declared_in_order():
    assert [one.name for one in declarations(Example)] == list(Example.__dataclass_fields__)
