"""`train --stage compensation`: the detail network learns behind a frozen model, and the command line loads it."""

from dataclasses import replace

import pytest
import torch
from builders import make_transformer, make_vae
from model_files import write_model
from trainings import log_of, run_training

from op4ksr_core.app import cli
from op4ksr_core.errors import SettingError, WeightsError
from op4ksr_core.evaluate.measures import psnr
from op4ksr_core.model.compensation import load_compensation
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.picture.read import Picture, read_picture
from op4ksr_core.picture.write import write_picture
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.train.checkpoint import checkpoints, load_checkpoint
from op4ksr_core.train.data import PairDataset
from op4ksr_core.train.losses.detail import scale_detail
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.weights.sources import Sources

pytestmark = pytest.mark.long

SMALL = replace(PRESETS["compensation"], steps=30, batch=2, per_device=2, crop=128, learning_rate=3e-4)


@pytest.fixture(scope="module")
def made(tmp_path_factory, photo):
    """Photographs to learn from, held-out ones, and a FLUX model of small random weights."""
    root = tmp_path_factory.mktemp("compensation")
    for name, top in (("photos", 0), ("held", 352)):
        (root / name).mkdir()
        for n in range(3):
            write_picture(root / name / f"{n}.png", Picture(photo[..., top : top + 160, 150 * n : 150 * n + 160]))
    write_model(root / "flux", make_transformer(), make_vae())
    return root


@pytest.fixture(scope="module")
def run(made):
    run_training(SMALL, Sources.find(made / "flux"), made / "photos", made / "run")
    return made / "run"


@pytest.mark.slow
def test_it_beats_the_bundled_network_behind_the_model_it_learned_on(made, run):
    data = PairDataset(sorted((made / "held").iterdir()), 128, 4, "omgsr", 5, 3)
    trained = checkpoints(run)[-1] / "compensation.safetensors"
    figures = []
    for file in (None, trained):
        upscaler = Upscaler.from_pretrained(made / "flux", compensation=file)
        settings = replace(upscaler.settings, compensation=1.0)
        samples = [data[n] for n in range(3)]
        pictures = [upscaler(sample["lr"][None], 4, settings) for sample in samples]
        figures.append(sum(psnr(x, s["hr"][None]) for x, s in zip(pictures, samples, strict=True)) / 3)
    assert figures[1] > figures[0] + 0.3, figures
    log = log_of(run)
    assert {"mse", "l1", "colour", "soft", "total"} < log[0].keys() and log[-1]["total"] < log[0]["total"]


def test_the_model_itself_does_not_learn(run):
    state = load_checkpoint(checkpoints(run)[-1])[0]["trainable"]
    assert state.keys() == dict(load_compensation().named_parameters()).keys()


def test_a_stopped_run_resumes_to_the_same_network(made, run, tmp_path):
    settings = replace(SMALL, steps=3)
    for name, stops in (("whole", [None]), ("parts", [1, None])):
        for stop in stops:
            run_training(settings, Sources.find(EMBEDDED), made / "photos", tmp_path / name, stop_after=stop)
    a, b = (checkpoints(tmp_path / name)[-1] / "compensation.safetensors" for name in ("whole", "parts"))
    assert a.read_bytes() == b.read_bytes()


def test_scaling_there_and_back_changes_nothing():
    network = load_compensation()
    lr, picture = torch.rand(1, 3, 24, 24), torch.rand(1, 3, 96, 96)
    before = network(lr, picture)
    scale_detail(network, 2.0, 3.0)
    assert float((network(lr, picture) - before).abs().max()) > 0.01
    scale_detail(network, 1 / 2, 1 / 3)
    assert float((network(lr, picture) - before).abs().max()) < 2e-3


def test_the_command_loads_it(made, run, tmp_path, capsys):
    file = checkpoints(run)[-1] / "compensation.safetensors"
    write_picture(tmp_path / "a.png", Picture(torch.rand(1, 3, 24, 32)))
    for name, options in (("bundled", []), ("own", ["--compensation-weights", str(file)])):
        assert cli.main(["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / f"{name}.png"), *options]) == 0
    bundled, own = (read_picture(tmp_path / f"{name}.png").rgb for name in ("bundled", "own"))
    assert float((bundled - own).abs().max()) > 0.02
    wrong = ["--compensation-weights", str(tmp_path / "a.png")]
    assert cli.main(["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "c.png"), *wrong]) == 2
    assert "a.png holds no compensation network" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.safetensors"):
        Upscaler.from_pretrained(EMBEDDED, compensation=tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    ("change", "named"),
    [({"scale": 2}, "scale.*4, got 2"), ({"losses": PRESETS["embedded"].losses}, "stage compensation.*--loss-")],
)
def test_settings_that_do_not_fit_the_stage(change, named):
    with pytest.raises(SettingError, match=named):
        replace(PRESETS["compensation"], **change)
