import io
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from op4ksr_core.train.degradation import EMBEDDED, OMGSR, blur, degrade, jpeg
from recipes.pictures import HELD_OUT, PHOTOS, PicturePool, photo
from recipes.scenes import render
from recipes.version2 import embedded


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_scenes_are_pictures_and_repeat():
    a, again, other = render(96, 3), render(96, 3), render(96, 4)
    assert a.shape == (3, 96, 96) and float(a.min()) >= 0 and float(a.max()) <= 1
    assert torch.equal(a, again) and not torch.equal(a, other)


def test_scenes_vary_and_hold_edges():
    scenes = torch.stack([render(128, s) for s in range(24)])
    assert float(scenes.mean((1, 2, 3)).std()) > 0.05
    gradients = (scenes[..., 1:] - scenes[..., :-1]).abs()
    assert float((gradients > 0.2).float().mean()) > 0.005
    assert float((gradients < 0.01).float().mean()) > 0.2  # and flat areas


def test_photos_are_the_free_ones_and_the_held_out_one_is_not_among_them():
    assert HELD_OUT not in PHOTOS
    assert all(photo(name).shape[0] == 3 for name in PHOTOS)


def test_crops_are_seeded():
    pool = PicturePool.make(3, 64)
    a, b, c = pool.crops(6, 48, 1), pool.crops(6, 48, 1), pool.crops(6, 48, 2)
    assert a.shape == (6, 3, 48, 48) and torch.equal(a, b) and not torch.equal(a, c)
    assert float(a.min()) >= 0 and float(a.max()) <= 1


@pytest.mark.parametrize("settings", [OMGSR, EMBEDDED], ids=["omgsr", "embedded"])
def test_degradation_is_seeded_and_milder_where_it_says_so(settings):
    hr = render(128, 1)
    a, b, c = (
        degrade(hr, generator(1), settings),
        degrade(hr, generator(1), settings),
        degrade(hr, generator(2), settings),
    )
    assert a.shape == (3, 32, 32) and torch.equal(a, b) and not torch.equal(a, c)
    assert float(a.min()) >= 0 and float(a.max()) <= 1


def test_the_embedded_degradation_is_the_milder_one():
    def error(settings):
        errors = []
        for seed in range(12):
            hr = render(128, seed)
            clean = torch.nn.functional.interpolate(hr[None], size=(32, 32), mode="bicubic", antialias=True)[0]
            errors.append(float((degrade(hr, generator(seed), settings) - clean).pow(2).mean()))
        return np.mean(errors)

    assert error(EMBEDDED) < 0.6 * error(OMGSR)


@pytest.mark.parametrize("quality", [30, 60, 75, 95])
def test_jpeg_loses_what_a_real_encoder_loses(quality):
    x = render(128, 2)
    file = io.BytesIO()
    Image.fromarray((x.permute(1, 2, 0) * 255).round().byte().numpy()).save(file, "JPEG", quality=quality)
    real = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
    ours = jpeg(x[None], quality)[0]
    assert float((ours - real).abs().mean()) < 0.5 * float((real - x).abs().mean())


def test_jpeg_of_odd_sides():
    assert jpeg(torch.rand(1, 3, 19, 33), 80).shape == (1, 3, 19, 33)


def test_blur_keeps_the_mean_and_a_constant():
    kernel = torch.rand(7, 7)
    kernel /= kernel.sum()
    torch.testing.assert_close(blur(torch.full((1, 3, 20, 20), 0.3), kernel), torch.full((1, 3, 20, 20), 0.3))


def test_learning_rate_warms_up_and_falls():
    recipe = replace(embedded.RECIPES["vae"], steps=1000, learning_rate=1.0)
    rates = [embedded.learning_rate(s, recipe) for s in (0, 50, 99, 500, 1000)]
    assert rates[0] == pytest.approx(0.01, rel=0.01) and rates[2] > rates[1] > rates[0]
    assert rates[3] < rates[2] and rates[4] == pytest.approx(0.05, rel=0.01)


@pytest.mark.parametrize(
    ("stage", "moved", "kept"),
    [
        ("vae", "vae.decoder.conv_in.weight", "dit.x_embedder.weight"),
        ("flow", "dit.x_embedder.weight", "vae.encoder.conv_in.weight"),
        ("onestep", "vae.encoder.conv_in.weight", "vae.decoder.conv_in.weight"),
    ],
)
def test_each_stage_moves_its_parts_alone(stage, moved, kept):
    model = embedded.EmbeddedModel(100.0)
    embedded.trainable(model, stage, replace(embedded.RECIPES[stage], train_decoder=False))
    grads = {name for name, p in model.named_parameters() if p.requires_grad}
    assert moved in grads and kept not in grads and not any(name.startswith("hr_encoder") for name in grads)


def test_the_model_is_the_published_architecture_made_small():
    model = embedded.EmbeddedModel(100.0)
    assert model.dit.config.axes_dims_rope == [16, 56, 56] and model.dit.config.in_channels == 64
    assert model.vae.encoder.conv_in.stride == (2, 2)
    hr = torch.rand(1, 3, 96, 64)
    assert model.encode_hr(hr).shape == (1, 16, 6, 4)
    with torch.no_grad():
        z, raw = model.restore(torch.rand(1, 3, 24, 16), embedded.Size(96, 64), 0.3)
    assert z.shape == (1, 16, 6, 4) and raw.shape == hr.shape


SMALLEST = ["--device", "cpu", "--scenes", "2", "--batch", "1", "--crop", "128"]


def _stage(stage, run, *options):
    embedded.main([stage, "--run", str(run), *SMALLEST, *options])


def _state(path):
    return torch.load(path, weights_only=True)


@pytest.mark.slow
def test_three_stages_and_export_by_command_then_upscale(tmp_path, capsys):
    """The whole recipe at its smallest; what it exports is a model that the pipeline runs."""
    from op4ksr_core.pipeline.upscaler import Upscaler
    from op4ksr_core.settings import PRESETS

    command = [sys.executable, "-m", "recipes.version2.embedded", "onestep", "--run", str(tmp_path), *SMALLEST]
    missing = subprocess.run([*command, "--steps", "1"], capture_output=True, text=True, timeout=500)
    assert missing.returncode != 0 and "run the flow stage first" in missing.stderr
    for stage in ("vae", "flow", "onestep"):
        _stage(stage, tmp_path, "--steps", "2")
        said = capsys.readouterr().out
        assert f"{stage} 2/2" in said and "nan" not in said
    _stage("export", tmp_path, "--to", str(tmp_path / "model"))
    upscaler = Upscaler.from_pretrained(tmp_path / "model", settings=PRESETS["embedded"], device="cpu")
    trained = _state(tmp_path / "onestep.pt")["ema"]
    image = torch.rand(1, 3, 16, 16)
    raw = upscaler(image, settings=replace(PRESETS["embedded"], fidelity=0.0, colour="none", compensation=0.0))
    model = embedded.EmbeddedModel(100.0)
    model.load_state_dict(trained)
    model.apply_latent_statistics()
    with torch.no_grad():
        _, expected = model.restore(image, embedded.Size(64, 64), 0.3)
    torch.testing.assert_close(raw, expected.clamp(0, 1), atol=0.01, rtol=0)  # the export is float16
    assert math.isfinite(float(trained["latent_scale"])) and float(trained["latent_scale"]) != 1.0


@pytest.mark.slow
def test_a_cut_run_goes_on_to_the_same_weights(tmp_path):
    """Two steps, then two more from the checkpoint, equal four in one go."""
    for name, pieces in (("whole", ["4"]), ("cut", ["2", "4"])):
        for steps in pieces:
            # The schedule is of the recipe's full length in both runs; --minutes 0 would stop before a step.
            _stage("vae", tmp_path / name, "--steps", "4", "--stop-after", steps)
    whole, cut = (_state(tmp_path / name / "vae.pt") for name in ("whole", "cut"))
    assert whole["step"] == cut["step"] == 4
    for key in whole["model"]:
        torch.testing.assert_close(whole["model"][key], cut["model"][key], rtol=1e-4, atol=1e-6)
