"""OSEDiff, TVT and F2IDiff-SR train at small size: the loss falls, a stopped run resumes, the adapter runs."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from trainings import log_of, run_training
from unet_models import make_d4, make_sd_vae, make_tvt_unet, make_unet, write_dino, write_photos, write_sd_folder

from op4ksr_core.app import cli
from op4ksr_core.errors import SettingError
from op4ksr_core.geometry import Size
from op4ksr_core.model.vae import encode
from op4ksr_core.picture.read import Picture
from op4ksr_core.picture.resample import resize
from op4ksr_core.picture.write import write_picture
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS as UPSCALE
from op4ksr_core.train.checkpoint import checkpoints
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.strategies.protocol import Restored
from op4ksr_core.train.strategies.unet import UNetStrategy
from op4ksr_core.train.trainer import Trainer
from op4ksr_core.weights.unet_sources import UNetSources


@pytest.fixture(scope="module")
def made(tmp_path_factory, photo):
    """A folder with pictures, models of each family, DINOv2 and a negative prompt."""
    root = tmp_path_factory.mktemp("unet-training")
    write_photos(root / "photos", photo)
    write_sd_folder(root / "osediff", make_unet(), make_sd_vae())
    write_sd_folder(root / "tvt", make_tvt_unet(), make_d4())
    write_dino(root / "dino")
    save_file({"prompt_embeds": torch.randn(1, 7, 24)}, root / "negative.safetensors")
    return root


def settings_of(family, made, **changes):
    preset = PRESETS[family]
    small = {"batch": 2, "per_device": 2, "crop": 64, "precision": "no", "checkpointing": False, "steps": 20}
    small |= {"learning_rate": 1e-3, "losses": replace(preset.losses, lpips=0.0, vsd=0.1)}
    return replace(preset, negative=str(made / "negative.safetensors"), **small | changes)


def sources_of(family, made):
    if family == "f2idiff":
        return UNetSources.find(made / "osediff", features=made / "dino")
    return UNetSources.find(made / family)


def train(family, made, run, settings=None, **options):
    settings = settings or settings_of(family, made)
    return run_training(settings, sources_of(family, made), made / "photos", run, **options)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["osediff", "tvt", "f2idiff"])
def test_twenty_steps_lower_the_loss_and_a_stopped_run_resumes(family, made, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(family, made, whole) == 20
    losses = [line["mse"] for line in log_of(whole)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert all({"mse", "vsd", "regulariser"} <= line.keys() for line in log_of(whole))
    assert train(family, made, cut, stop_after=5) == 5
    train(family, made, cut, stop_after=8)
    for a, b in zip(log_of(whole)[:8], log_of(cut)[:8], strict=True):
        assert a["total"] == pytest.approx(b["total"], rel=1e-4)


@pytest.mark.slow
def test_a_stopped_run_resumes(made, tmp_path):
    settings = settings_of("osediff", made, steps=2, batch=1, per_device=1)
    train("osediff", made, tmp_path / "whole", settings)
    train("osediff", made, tmp_path / "cut", settings, stop_after=1)
    train("osediff", made, tmp_path / "cut", settings)
    for a, b in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "cut"), strict=True):
        assert {"mse", "vsd", "regulariser"} <= a.keys() and a["total"] == pytest.approx(b["total"], rel=1e-4)


@pytest.mark.slow
def test_what_was_trained_is_what_the_upscaler_runs(made, tmp_path):
    """The adapter of a checkpoint gives the trainer's own picture."""
    train("osediff", made, tmp_path / "run", settings_of("osediff", made, steps=2))
    adapter = checkpoints(tmp_path / "run")[-1] / "adapters.safetensors"
    settings = replace(UPSCALE["osediff"], colour="none", posterior_seed=None)
    upscaler = Upscaler.from_pretrained(made / "osediff", adapters=[adapter], settings=settings, device="cpu")
    small = torch.rand(1, 3, 16, 16)
    again = settings_of("osediff", made, steps=2)
    trainer = Trainer(again, sources_of("osediff", made), [made / "photos"], tmp_path / "run", cpu=True)
    try:
        with torch.no_grad():
            wanted = trainer.learner.model(small, Size(64, 64))[2].clamp(0, 1)
    finally:
        trainer.close()
    assert float((upscaler(small) - wanted).abs().max()) < 1e-3


@pytest.mark.long
def test_captions_condition_each_picture(made, tmp_path, photo):
    """Each picture's own tokens; a picture without them is named before the first step."""
    settings = settings_of("osediff", made, steps=1, captions=True)
    for n in range(2):
        write_picture(tmp_path / f"{n}.png", Picture(photo[..., :90, 90 * n : 90 * n + 90]))
        with pytest.raises(SettingError, match=rf"1 of {n + 1} .*NAME\.prompt\.safetensors.*{n}\.png.*--captions"):
            Trainer(settings, sources_of("osediff", made), [tmp_path], tmp_path / "run", cpu=True)
        save_file({"prompt_embeds": torch.full((1, 7, 24), float(n))}, tmp_path / f"{n}.prompt.safetensors")
    trainer = Trainer(settings, sources_of("osediff", made), [tmp_path], tmp_path / "run", cpu=True)
    try:
        own = [(int(round(float(trainer.data[n]["prompt"].mean()))), trainer.data._path(n).stem) for n in range(2)]
        assert sorted(own) == [(0, "0"), (1, "1")]
        trainer.run()
        batch = next(iter(trainer.loader))
        assert trainer.learner.model(*trainer.learner.model.inputs(batch)).condition.shape == (2, 7, 24)
    finally:
        trainer.close()


def test_training_samples_the_posterior_as_inference_does(made):
    """OSEDiff's code: vae.encode(x).latent_dist.sample()."""
    assert PRESETS["osediff"].sample_posterior and PRESETS["tvt"].sample_posterior
    batch = {"lr": torch.rand(1, 3, 16, 16), "hr": torch.rand(1, 3, 64, 64), "seed": torch.tensor([5])}
    model = UNetStrategy.load(sources_of("osediff", made), settings_of("osediff", made))
    with torch.no_grad():
        sampled = model(*model.inputs(batch)).z_lr
        assert torch.equal(sampled, encode(model.vae, resize(batch["lr"], Size(64, 64)), 5))
        assert not torch.equal(sampled, model(batch["lr"], Size(64, 64)).z_lr)


def test_the_prior_has_its_own_first_layer_back(made):
    model = UNetStrategy.load(sources_of("osediff", made), settings_of("osediff", made))
    first = model.transformer.conv_in.base_layer.weight
    with torch.no_grad():
        first += 1
    with model.distillation.active(None):
        assert torch.equal(first, model.whole_before["conv_in.weight"]) and not first.requires_grad
    assert torch.allclose(first, model.whole_before["conv_in.weight"] + 1) and first.requires_grad


@pytest.mark.long
def test_vsd_quadrants_are_the_mean_of_the_four(made):
    model = UNetStrategy.load(sources_of("osediff", made), settings_of("osediff", made, vsd_quadrants=True))
    z = torch.randn(1, 4, 16, 16, requires_grad=True)
    restored = Restored(z, z, torch.rand(1, 3, 64, 64), model.prompt)
    loss = model.distillation.loss(restored, torch.tensor([3]))
    loss.backward()
    assert float(loss.detach()) > 0 and all(
        float(z.grad[..., i : i + 8, j : j + 8].abs().sum()) > 0 for i in (0, 8) for j in (0, 8)
    )


@pytest.mark.slow
def test_the_command_trains_a_unet(made, tmp_path, capsys):
    words = ["train", str(made / "photos"), "-o", str(tmp_path / "run"), "--model", str(made / "osediff")]
    words += ["--preset", "osediff", "--crop", "64", "--batch", "1", "--steps", "1", "--precision", "no"]
    words += ["--loss-lpips", "0", "--negative", str(made / "negative.safetensors"), "--device", "cpu"]
    assert cli.main(words) == 0 and "trained from step 0 to 1" in capsys.readouterr().out
    words[words.index("64")] = "96"
    words[3] = str(tmp_path / "other")
    assert cli.main(words) == 2 and "crop is a multiple of 64 px" in capsys.readouterr().err
    assert cli.main([*words[:-2], "--plan", "24"]) == 0 and "on a card of 24 GB: crops up to" in capsys.readouterr().out
