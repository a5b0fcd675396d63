"""Settings that go with a model by themselves: from what its adapter says, else from its parts."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from unet_models import make_d4, make_sd_vae, make_tvt_unet, make_unet, put_loras, write_sd_folder

from op4ksr_core.app import cli
from op4ksr_core.app.options import upscale_settings
from op4ksr_core.errors import WeightsError
from op4ksr_core.settings import OMGSR_SIGMA, PRESETS, RopeSettings
from op4ksr_core.train.presets import PRESETS as TRAINING
from op4ksr_core.train.strategies.unet import UNetStrategy
from op4ksr_core.weights.adapters import Adapter, save_adapter_folders, save_adapters
from op4ksr_core.weights.convert import convert
from op4ksr_core.weights.trained_for import METADATA, TrainedFor, read_trained_for
from op4ksr_core.weights.unet_adapters import from_pickle, save_unet_adapter
from op4ksr_core.weights.usual_settings import Facts, choose, contradictions

OMGSR = TrainedFor("omgsr", 8, OMGSR_SIGMA, RopeSettings(theta=10_000.0), prompt_tokens=512)
SAID = TrainedFor("op4ksr", 16, 0.4, RopeSettings(theta=50.0), prompt_tokens=512)


@pytest.mark.parametrize(
    ("facts", "preset"),
    [
        (Facts(bundled=True), "embedded"),
        (Facts(), "ultraflux"),
        (Facts(adapted=True), "op4ksr"),
        (Facts(latent_factor=8, adapted=True), "omgsr"),
        (Facts(unet_levels=4, latent_factor=8), "osediff"),
        (Facts(unet_levels=4, latent_factor=8, features=True), "f2idiff"),
        (Facts(unet_levels=5, latent_factor=4), "tvt"),
        (Facts(unet_levels=5, latent_factor=8), "tvt"),
        (Facts(latent_factor=8, adapted=True, trained_for=OMGSR), "omgsr"),
    ],
)
def test_the_models_tell_the_preset(facts, preset):
    choice = choose(facts)
    assert choice.preset == preset and choice.settings == PRESETS[preset]
    assert choice.reason.startswith(f"Preset {preset}: ") and choice.reason.endswith(".")


def test_published_numbers_come_by_themselves():
    """OMGSR-F's index 244 of 999 under its shift is sigma 0.5051; TVT takes its step at timestep 1."""
    assert choose(Facts(latent_factor=8, adapted=True)).settings.sigma == pytest.approx(0.50511, abs=1e-5)
    assert choose(Facts(unet_levels=5, latent_factor=4)).settings.timestep == 1


def test_what_the_adapter_says_goes_before_the_preset():
    settings = choose(Facts(adapted=True, trained_for=SAID)).settings
    assert (settings.sigma, settings.rope) == (0.4, RopeSettings(theta=50.0))
    assert settings.colour == PRESETS["op4ksr"].colour


def test_contradictions_are_named():
    facts = Facts(latent_factor=8, adapted=True, trained_for=SAID, prompt_tokens=256)
    used = replace(PRESETS["op4ksr"], sigma=0.3, rope=RopeSettings(theta=100.0))
    sentences = contradictions(facts, used)
    for words in ("sigma is 0.3", "theta is 100.0", "factor is 8", "length is 256"):
        assert any(words in sentence for sentence in sentences), words
    assert len(sentences) == 4
    same = Facts(adapted=True, trained_for=SAID, prompt_tokens=512)
    assert not contradictions(same, SAID.applied_to(PRESETS["op4ksr"]))


def lora():
    state = {"proj_out.lora_A.weight": torch.randn(2, 4), "proj_out.lora_B.weight": torch.randn(4, 2)}
    return {"transformer": Adapter("test", {"r": 2, "lora_alpha": 2}, state)}


def test_every_form_of_an_adapter_carries_its_settings(tmp_path):
    save_adapters(tmp_path / "one.safetensors", lora(), SAID.as_metadata())
    save_adapter_folders(tmp_path / "folders", lora(), SAID.as_metadata())
    for form, name in (("file", "b.safetensors"), ("folder", "b"), ("kohya", "k.safetensors")):
        convert(tmp_path / "one.safetensors", tmp_path / name, form)
    for name in ("one.safetensors", "folders", "b.safetensors", "b", "k.safetensors"):
        assert read_trained_for(tmp_path / name) == SAID, name
    save_adapters(tmp_path / "old.safetensors", lora())
    assert read_trained_for(tmp_path / "old.safetensors") is None


@pytest.mark.parametrize("said", ["{", '{"sigma": 2.0}', '{"preset": "best"}', '{"theta": 3}', "[]"])
def test_a_record_that_cannot_be_is_refused(tmp_path, said):
    path = tmp_path / "one.safetensors"
    save_adapters(path, lora(), {METADATA: said})
    with pytest.raises(WeightsError, match=r"one\.safetensors"):
        read_trained_for(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    write_sd_folder(root / "sd", make_unet(), make_sd_vae())
    write_sd_folder(root / "tvt", make_tvt_unet(), make_d4())
    torch.save(put_loras(make_unet(), make_sd_vae()), root / "osediff.pkl")
    save_unet_adapter(root / "osediff.safetensors", from_pickle(root / "osediff.pkl"))
    model = UNetStrategy(make_tvt_unet(), make_d4(), torch.zeros(1, 7, 24), small_tvt())
    model.export()(root)
    return root


def small_tvt():
    losses = replace(TRAINING["tvt"].losses, vsd=0.0, lpips=0.0)
    return replace(TRAINING["tvt"], losses=losses, timestep=3, precision="no", checkpointing=False)


def settings_of(*words):
    line = ["upscale", "a.png", "-o", "b.png", *map(str, words)]
    return upscale_settings(cli.make_parser(line).parse_args(line))


@pytest.mark.long
def test_training_writes_what_inference_takes(folders, caplog):
    with safe_open(folders / "adapters.safetensors", "pt") as file:
        said = json.loads(file.metadata()[METADATA])
    assert (said["preset"], said["latent_factor"], said["timestep"], said["prompt_tokens"]) == ("tvt", 4, 3, 7)
    with caplog.at_level(logging.WARNING, "op4ksr"):
        settings = settings_of("--model", folders / "tvt", "--adapter", folders / "adapters.safetensors")
    assert settings == replace(PRESETS["tvt"], timestep=3)
    assert "Preset tvt: the weights say" in caplog.text


def test_the_command_line_tells_the_models_apart(folders):
    assert settings_of() == PRESETS["embedded"]
    assert settings_of("--model", folders / "sd") == PRESETS["osediff"]
    assert settings_of("--model", folders / "tvt") == PRESETS["tvt"]
    adapter = folders / "osediff.safetensors"
    assert settings_of("--model", folders / "sd", "--adapter", adapter) == PRESETS["osediff"]


def test_the_command_line_warns_of_a_contradiction(folders, caplog):
    words = ("--model", folders / "tvt", "--adapter", folders / "adapters.safetensors")
    assert settings_of(*words, "--timestep", 5).timestep == 5
    assert "timestep is 5, but the adapter was trained with 3" in caplog.text
    caplog.clear()
    assert settings_of(*words, "--preset", "osediff").timestep == 999
    assert "timestep is 999" in caplog.text
