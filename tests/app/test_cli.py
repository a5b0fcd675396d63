import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import make_transformer, make_vae
from model_files import write_model, write_omgsr_adapters
from PIL import Image
from places import DEMO

from op4ksr_core.app import cli
from op4ksr_core.picture.read import read_picture
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import ATTENTIONS, PASSES


@pytest.fixture
def small(tmp_path):
    """A crop of the bundled photo, 40x30."""
    path = tmp_path / "small.png"
    Image.open(DEMO).crop((200, 100, 240, 130)).save(path)
    return path


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def test_a_picture_to_a_folder_and_a_summary(tmp_path, small, capsys):
    assert run("upscale", small, "-o", tmp_path / "out", "--json", tmp_path / "run.json") == 0
    assert read_picture(tmp_path / "out" / "small.png").rgb.shape[-2:] == (120, 160)
    summary = json.loads((tmp_path / "run.json").read_text())
    [result] = summary["results"]
    assert result["status"] == "done" and result["target_size"] == "160x120" and result["seconds"] > 0
    assert summary["settings"]["upscale"]["rope"]["theta"] == 100.0 and summary["memory_plan"]["peak"] > 0
    assert "1 done, 0 skipped, 0 failed." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--short-side", "60"], (60, 80)),
        (["--megapixels", "0.0048"], (60, 80)),
        (["--exact", "80x80"], (60, 80)),
        (["--exact", "80x80", "--fit", "crop"], (80, 80)),
        (["--exact", "80x80", "--fit", "pad"], (80, 80)),
        (["--scale", "2"], (60, 80)),
        (["--long-side", "100"], (75, 100)),
        (["--scale", "1.1"], (33, 44)),
    ],
)
def test_sizes(tmp_path, small, options, size):
    assert run("upscale", small, "-o", tmp_path / "o.png", *options) == 0
    assert read_picture(tmp_path / "o.png").rgb.shape[-2:] == size


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff"])
def test_formats(tmp_path, small, kind):
    assert run("upscale", small, "-o", tmp_path / "out", "--format", kind, "--scale", "2", "--quality", "80") == 0
    [out] = (tmp_path / "out").iterdir()
    assert Image.open(out).format.lower() == {"jpg": "jpeg"}.get(kind, kind)


@pytest.mark.parametrize(
    "options",
    [
        ["--theta", "10000"],
        ["--sigma", "0.9"],
        ["--steps", "3"],
        ["--posterior-seed", "1"],
        ["--colour", "adain"],
        ["--noise", "1"],
        ["--fidelity", "0.2"],
        ["--scheme", "resonance-yarn", "--theta", "10000"],
        ["--preset", "omgsr"],
    ],
)
def test_every_option_of_the_method_changes_the_picture(tmp_path, small, options):
    assert run("upscale", small, "-o", tmp_path / "a.png", "--fidelity", "0") == 0
    extra = [] if "--fidelity" in options else ["--fidelity", "0"]
    assert run("upscale", small, "-o", tmp_path / "b.png", *options, *extra) == 0
    a, b = (read_picture(tmp_path / f"{n}.png").rgb for n in "ab")
    same = float((a - b).abs().max()) == 0
    assert not same


def test_a_model_folder_with_adapters(tmp_path, small):
    folder = write_model(tmp_path / "model", make_transformer(), make_vae())
    write_omgsr_adapters(tmp_path / "adapters", make_transformer(), make_vae())
    common = ["--model", folder, "--fidelity", "0", "--dtype", "float32", "--device", "cpu"]
    for name, extra in (("a", []), ("b", ["--adapter", tmp_path / "adapters"]), ("c", ["--adapter-scale", "0.5"])):
        adapter = ["--adapter", tmp_path / "adapters"] if name == "c" else []
        assert run("upscale", small, "-o", tmp_path / f"{name}.png", *common, *adapter, *extra) == 0
    a, b, c = (read_picture(tmp_path / f"{n}.png").rgb for n in "abc")
    assert float((a - b).abs().max()) > 0.01 and float((b - c).abs().max()) > 0.005


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--scale", "0"], "0.0"),
        (["--scale", "nan"], "nan"),
        (["--theta", "nan"], "nan"),
        (["--sigma", "0"], "0.0"),
        (["--sigma", "1.2"], "1.2"),
        (["--scheme", "ntk"], "ntk"),
        (["--noise", "2"], "2.0"),
        (["--fidelity", "3"], "3.0"),
        (["--colour", "hsv"], "hsv"),
        (["--strength", "3"], "3.0"),
        (["--window", "100"], "100"),
        (["--exact", "0x9"], "0x9"),
        (["--fit", "crop"], "--exact"),
        (["--short-side", "0"], "0"),
        (["--megapixels", "nan"], "nan"),
        (["--strength-mask", "nowhere.png"], "nowhere.png"),
        (["--preset", "best"], "best"),
        (["--model", "nowhere"], "nowhere"),
        (["--adapter", "nowhere"], "nowhere"),
        (["--quality", "0"], "0"),
        (["--compression", "12"], "12"),
    ],
)
def test_bad_options_name_the_value_and_write_nothing(tmp_path, small, capsys, options, names):
    assert run("upscale", small, "-o", tmp_path / "out" / "o.png", *options) in (1, 2)
    captured = capsys.readouterr()
    assert names in captured.out + captured.err
    assert not (tmp_path / "out" / "o.png").exists()


def test_a_failed_picture_gives_exit_code_1(tmp_path, small, capsys):
    (tmp_path / "bad.png").write_bytes(small.read_bytes()[:200])
    assert run("upscale", small, tmp_path / "bad.png", "-o", tmp_path / "out", "--scale", "1.5") == 1
    assert "1 done, 0 skipped, 1 failed." in capsys.readouterr().out


def test_a_side_of_30000_px_is_refused_with_the_estimate(tmp_path, capsys):
    Image.new("RGB", (30_000, 2000)).save(tmp_path / "wide.png")
    assert run("upscale", tmp_path / "wide.png", "-o", tmp_path / "out") == 1
    out = capsys.readouterr().out
    assert "30000x2000 -> 120000x8000 does not fit" in out and "GB" in out and "--no-memory-check" in out


def test_bfloat16_on_the_cpu_is_close(tmp_path, small):
    for dtype in ("float32", "bfloat16"):
        assert run("upscale", small, "-o", tmp_path / f"{dtype}.png", "--dtype", dtype, "--scale", "2") == 0
    a, b = (read_picture(tmp_path / f"{d}.png").rgb for d in ("float32", "bfloat16"))
    assert 0 < float((a - b).abs().max()) < 0.1 and float((a - b).abs().mean()) < 1 / 255


@pytest.mark.parametrize("has_it", [True, False])
def test_bfloat16_is_chosen_where_the_cpu_has_it(tmp_path, small, monkeypatch, has_it):
    monkeypatch.setattr("op4ksr_core.app.options.half_is_fast", lambda device: has_it)
    assert run("upscale", small, "-o", tmp_path / "o.png", "--device", "cpu", "--json", tmp_path / "s.json") == 0
    assert json.loads((tmp_path / "s.json").read_text())["dtype"] == ("bfloat16" if has_it else "float32")


@pytest.mark.parametrize(
    "options",
    [
        {"vae_pass": "whole"},
        {"vae_pass": "frugal"},
        {"attention": "math"},
        {"plain_layers": True},
        {"fp8": True},
    ],
)
def test_ways_to_run_change_next_to_nothing_and_the_summary_names_them(tmp_path, small, options):
    flags = [f"--{name.replace('_', '-')}" for name in options]
    values = [value for value in options.values() if value is not True]
    flags += ["--dtype", "float32"]
    assert run("upscale", small, "-o", tmp_path / "plain.png", "--dtype", "float32") == 0
    options_too = [*values, *flags] if not values else [*flags[:1], *values, *flags[1:]]
    assert run("upscale", small, "-o", tmp_path / "o.png", *options_too, "--json", tmp_path / "run.json") == 0
    pictures = [read_picture(tmp_path / name).rgb for name in ("plain.png", "o.png")]
    assert 255 * float((pictures[0] - pictures[1]).abs().max()) <= 1.01  # a rounding to the next byte
    told = json.loads((tmp_path / "run.json").read_text())["execution"]
    wanted = {"lean": False} if "plain_layers" in options else options
    assert told | wanted == told


@pytest.mark.parametrize(("option", "choices"), [("attention", ATTENTIONS), ("vae-pass", ("auto", *PASSES))])
def test_a_wrong_word_is_answered_with_the_choices(capsys, option, choices):
    assert run("upscale", "x", f"--{option}", "none of them") == 2
    assert ", ".join(choices) in capsys.readouterr().err


def settings_of(capsys, *options):
    """What `--print-settings` prints under these options."""
    assert run("upscale", "--print-settings", *options) == 0
    return json.loads(capsys.readouterr().out)


def test_printed_settings_are_read_back_and_options_override_them(tmp_path, capsys):
    options = ["--preset", "ultraflux", "--posterior-seed", "7", "--window", "512", "--strength", "0.5"]
    printed = settings_of(capsys, *options)
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(printed))
    assert settings_of(capsys, "--settings", file) == printed
    changed = settings_of(capsys, "--settings", file, "--posterior-seed", "none", "--theta", "30")
    assert changed == printed | {"posterior_seed": None, "rope": printed["rope"] | {"theta": 30.0}}


def test_a_settings_file_may_be_partial(tmp_path, capsys):
    (tmp_path / "s.json").write_text('{"sigma": 0.5}')
    assert settings_of(capsys, "--settings", tmp_path / "s.json") == settings_of(capsys) | {"sigma": 0.5}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"sigm": 7.25}', ["sigm", "7.25", "Did you mean sigma?"]),
        ('{"rope": {"thetas": 7.25}}', ["thetas", "7.25", "Did you mean theta?"]),
        ('{"sigma": 7.25}', ["sigma", "7.25", "at most 1"]),
        ('{"colour": "wavlet"}', ["colour", "wavlet", "Did you mean wavelet?"]),
        ('{"steps": "three"}', ["steps", "three", "whole number"]),
        ("[7.25]", ["7.25"]),
        ("{", ["JSON"]),
    ],
)
def test_a_wrong_settings_file_is_an_error_with_key_value_and_remedy(tmp_path, capsys, text, named):
    (tmp_path / "s.json").write_text(text)
    assert run("upscale", "--print-settings", "--settings", tmp_path / "s.json") == 2
    error = capsys.readouterr().err
    assert all(word in error for word in [*named, "s.json"])


def test_an_upscale_without_pictures_or_a_place_is_an_error(tmp_path, small, capsys):
    assert run("upscale", "-o", tmp_path / "o") == 2
    assert run("upscale", small) == 2
    assert capsys.readouterr().err.count("-o, the output") == 2


def test_a_kernel_that_this_machine_has_not_is_an_error(tmp_path, small, capsys):
    assert run("upscale", small, "-o", tmp_path / "o.png", "--device", "cpu", "--attention", "cudnn") == 1
    assert "'cudnn' cannot run" in capsys.readouterr().out and not (tmp_path / "o.png").exists()


def test_info(capsys):
    assert run("info", "--size", "1024x768") == 0
    out = capsys.readouterr().out
    assert "1024x768 -> 4096x3072, padded 4096x3072, 12288 tokens" in out
    assert "memory plan" in out and "torch" in out and "VAE factor 16" in out
    assert run("info", "--size", "big") == 2


def test_version_and_module():
    command = [sys.executable, "-m", "op4ksr_core", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("op4ksr ")


def test_help_needs_no_torch():
    code = "import sys; from op4ksr_core.app import cli; cli.make_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture
def a_model_that_leaves_a_lattice(monkeypatch):
    """At full strength; at less, the picture as it is."""
    upscale = Upscaler.run

    def with_lattice(self, plan, *rest):
        made = upscale(self, plan, *rest)
        if plan.settings[0].compensation < 1:
            return made
        wave = torch.cos(2 * torch.pi * torch.arange(made.rgb.shape[-1]) / 16)
        return replace(made, rgb=(made.rgb + 6 / 255 * (wave + wave[: made.rgb.shape[-2], None])).clamp(0, 1))

    monkeypatch.setattr(Upscaler, "run", with_lattice)


@pytest.fixture
def larger(tmp_path):
    path = tmp_path / "in" / "larger.png"
    path.parent.mkdir()
    Image.open(DEMO).crop((0, 0, 64, 64)).save(path)
    return path


@pytest.mark.parametrize(
    ("options", "passed", "rerun", "said"),
    [
        ([], False, False, "1 did not pass the check"),
        (["--rerun"], True, True, "1 run again"),
        (["--max-score", "1"], True, False, "0 failed."),
        (["--no-check"], None, False, "0 failed."),
    ],
)
def test_what_does_not_pass_the_check_is_counted_and_run_again_on_demand(
    tmp_path, larger, a_model_that_leaves_a_lattice, capsys, options, passed, rerun, said
):
    assert run("upscale", larger, "-o", tmp_path / "o.png", "--json", tmp_path / "run.json", *options) == 0
    [result] = json.loads((tmp_path / "run.json").read_text())["results"]
    assert (result["passed"], result["rerun"]) == (passed, rerun)
    assert said in capsys.readouterr().out
    if rerun:
        weak = run("upscale", larger, "-o", tmp_path / "weak.png", "--strength", "0.5")
        assert weak == 0 and np.array_equal(*(np.asarray(Image.open(tmp_path / f)) for f in ("o.png", "weak.png")))
        assert "lattice of 16 px" in result["notes"][0]


def test_a_rerun_needs_the_check(tmp_path, small, capsys):
    assert run("upscale", small, "-o", tmp_path / "o.png", "--rerun", "--no-check") == 2
    assert "--no-check" in capsys.readouterr().err
