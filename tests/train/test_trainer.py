"""The training kit on the embedded model: small, but all of it real."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from places import ROOT

from op4ksr_core.app import cli
from op4ksr_core.declared import declarations
from op4ksr_core.errors import OutputError, SettingError, TrainingError, WeightsError
from op4ksr_core.geometry import Size
from op4ksr_core.model.rope import RotaryEmbedding
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.picture.read import Picture
from op4ksr_core.picture.write import write_picture
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS as UPSCALE
from op4ksr_core.settings import RopeSettings
from op4ksr_core.train.checkpoint import checkpoints, load_checkpoint
from op4ksr_core.train.cost import Cost, cost_of, operations_of_a_picture
from op4ksr_core.train.learner import Learner
from op4ksr_core.train.memory import meta_model
from op4ksr_core.train.pace import PACE
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.settings import GROUPS, NESTED, LossWeights, TrainSettings
from op4ksr_core.train.strategies.flow import FlowStrategy
from op4ksr_core.train.trainer import Trainer
from op4ksr_core.weights.sources import Sources

SMALL = replace(
    PRESETS["embedded"], rank=2, alpha=2, steps=4, batch=2, per_device=2, crop=96, learning_rate=1e-3, fidelity=0.5
)
OPTIONS = "--rank 2 --alpha 2 --steps 4 --batch 2 --per-device 2 --crop 96 --learning-rate 1e-3 --fidelity 0.5".split()


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photo):
    """Five pictures cut from the bundled photo."""
    folder = tmp_path_factory.mktemp("photos")
    for n in range(5):
        write_picture(folder / f"{n}.png", Picture(photo[..., 60 * n : 60 * n + 200, 40 * n : 40 * n + 220]))
    return folder


@pytest.fixture(scope="module")
def negative(tmp_path_factory):
    """A prompt file that is not the model's own."""
    from safetensors.torch import load_file, save_file

    path = tmp_path_factory.mktemp("negative") / "negative.safetensors"
    torch.manual_seed(5)
    save_file({k: v + 0.3 * torch.randn_like(v) for k, v in load_file(EMBEDDED / "prompt.safetensors").items()}, path)
    return path


def train(photos, run, settings=SMALL, **options):
    stops = {name: options.pop(name) for name in ("stop_after", "minutes") if name in options}
    trainer = Trainer(settings, Sources.find(EMBEDDED), [photos], run, cpu=True, **options)
    try:
        return trainer.run(**stops)
    finally:
        trainer.close()


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_log(a, b, tolerance=0.0):
    assert [line["step"] for line in a] == [line["step"] for line in b]
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x.keys() - {*PACE}:
            assert x[name] == pytest.approx(y[name], rel=tolerance, abs=1e-12), (x["step"], name)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """A run without a stop."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(photos, run, save_every=1) == 4
    return run


@pytest.mark.long
def test_a_run_learns_and_says_what_it_did(whole):
    log = log_of(whole)
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    assert {"mse", "l1", "wavelet", "periodicity", "refinement", "total", "gradient"} < log[0].keys()
    weights = SMALL.losses
    total = sum(getattr(weights, name) * log[0][name] for name in ("mse", "l1", "wavelet", "periodicity", "refinement"))
    assert log[0]["total"] == pytest.approx(total, rel=1e-5)
    kept = checkpoints(whole)
    assert [path.name for path in kept] == ["step-000002", "step-000003", "step-000004"]
    state, settings = load_checkpoint(kept[-1])
    assert state["step"] == 4 and settings == SMALL
    ups = [value for name, value in state["trainable"].items() if "lora_B" in name]
    assert all(float(value.abs().max()) > 0 for value in ups) and len(ups) > 30  # every LoRA has moved


def test_what_was_trained_is_what_the_upscaler_runs(whole, photo):
    """The exported adapters give, in the pipeline, the picture of the module that was trained."""
    lr = photo[..., 100:124, 200:224]
    settings = replace(UPSCALE["embedded"], fidelity=0.0, colour="none", compensation=0.0)
    state, _ = load_checkpoint(checkpoints(whole)[-1])
    model = FlowStrategy.load(Sources.find(EMBEDDED), SMALL)
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            parameter.copy_(state["trainable"][name])
        expected = model(lr, Size(96, 96))[2].clamp(0, 1)
    plain = Upscaler.from_embedded(settings)(lr)
    for adapter in (checkpoints(whole)[-1], checkpoints(whole)[-1] / "adapters.safetensors"):
        found = Upscaler.from_pretrained(EMBEDDED, adapters=[adapter], settings=settings)(lr)
        assert float((found - expected).abs().max()) < 1e-4
        assert float((found - plain).abs().max()) > 1e-3


@pytest.mark.long
def test_a_stopped_run_goes_on_to_the_same_curve(photos, whole, tmp_path):
    assert train(photos, tmp_path / "run", stop_after=1) == 1
    assert train(photos, tmp_path / "run", stop_after=3) == 3
    assert train(photos, tmp_path / "run") == 4
    assert_same_log(log_of(tmp_path / "run"), log_of(whole))
    ours, theirs = (load_checkpoint(checkpoints(run)[-1])[0]["trainable"] for run in (tmp_path / "run", whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert train(photos, tmp_path / "run") == 4  # nothing is left to do


@pytest.mark.long
def test_accumulated_batches_are_the_batch(photos, whole, tmp_path):
    train(photos, tmp_path / "run", replace(SMALL, per_device=1))
    assert_same_log(log_of(tmp_path / "run"), log_of(whole), 2e-3)


def command(photos, run, *more):
    return [
        sys.executable,
        "-m",
        "op4ksr_core",
        "train",
        str(photos),
        "-o",
        str(run),
        "--device",
        "cpu",
        *OPTIONS,
        *more,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.4])
def test_a_killed_run_goes_on_to_the_same_curve(photos, whole, tmp_path, delay):
    run = tmp_path / "run"
    process = subprocess.Popen(command(photos, run, "--save-every", "1"), cwd=ROOT, stdout=subprocess.DEVNULL)
    end = time.time() + 120
    while not (run / "log.jsonl").exists() and time.time() < end:
        time.sleep(0.05)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / ".step-000009.part").mkdir()  # as a kill while saving leaves it
    subprocess.run(command(photos, run, "--save-every", "1"), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert_same_log(log_of(run), log_of(whole), 1e-6)
    assert not list((run / "checkpoints").glob(".*"))


KILLS = 30


@pytest.mark.slow
def test_a_run_that_is_killed_at_thirty_random_moments_is_the_undisturbed_one(photos, tmp_path):
    """Start, steps and saving alike: log and weights are those of the run without a stop."""
    run, dice, hit = tmp_path / "run", random.Random(3), 0
    words = command(photos, run, "--save-every", "1", "--steps", "200")
    for _ in range(KILLS):
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
        time.sleep(dice.uniform(2, 9))
        hit += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert hit == KILLS, "the training ended before the last kill: give it more steps"
    subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    train(photos, tmp_path / "whole", replace(SMALL, steps=200), save_every=200)
    assert_same_log(log_of(run), log_of(tmp_path / "whole"), 1e-6)
    ours, theirs = (load_checkpoint(checkpoints(place)[-1])[0]["trainable"] for place in (run, tmp_path / "whole"))
    assert all(torch.allclose(ours[name], value, atol=1e-7) for name, value in theirs.items())


def launched(photos, run, *more):
    """The command in two processes with one picture each at once."""
    more = [*more, "--per-device", "1"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "op4ksr_core", *command(photos, run)[3:], *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch + arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 processes" in done.stdout


@pytest.fixture(scope="module")
def with_vsd(photos, negative, tmp_path_factory):
    """One process that trains a regulariser too: its run, and the options that others need for the same."""
    run = tmp_path_factory.mktemp("vsd") / "one"
    settings = replace(SMALL, losses=replace(SMALL.losses, vsd=0.5), negative=str(negative))
    settings = replace(settings, regulariser_learning_rate=1e-2)
    train(photos, run, settings, save_every=1)
    return run, settings, ["--loss-vsd", "0.5", "--negative", str(negative), "--regulariser-learning-rate", "1e-2"]


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(photos, with_vsd, tmp_path):
    """VSD too, whose regulariser is averaged over the processes by hand."""
    one, _, options = with_vsd
    launched(photos, tmp_path / "run", *options)
    assert_same_log(log_of(tmp_path / "run"), log_of(one), 5e-3)


@pytest.mark.slow
def test_fifty_steps_on_two_processes_equal_one_process(photos, tmp_path):
    settings = replace(SMALL, steps=50, learning_rate=1e-4)
    train(photos, tmp_path / "one", settings, save_every=50)
    launched(photos, tmp_path / "two", "--steps", "50", "--learning-rate", "1e-4", "--save-every", "50")
    assert_same_log(log_of(tmp_path / "two"), log_of(tmp_path / "one"), 1e-3)
    assert len(log_of(tmp_path / "two")) == 50


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_stops_all_with_one_message(photos, tmp_path):
    """The second process meets NaN in its first picture; both end, one says why."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).parent.parent / "helpers" / "train_with_nan.py")
    arguments = [script, *command(photos, tmp_path / "run")[4:], "--per-device", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(launch + arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert done.stderr.count("Step 2: the mse loss in process 1 is nan") == 1, done.stderr[-2000:]


@pytest.mark.slow
def test_the_first_process_looks_at_the_photographs_for_all(photos, tmp_path):
    """What is left out is told once, and where nothing is left all processes stop."""
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    said = []
    for crop in ("96", "512"):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        words = command(tmp_path / "photos", tmp_path / f"run{crop}")[3:]
        more = ["--per-device", "1", "--stop-after", "1", "--crop", crop]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command_line = [*launch, "-m", "op4ksr_core", *words, *more]
        said.append(
            subprocess.run(command_line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        )
    assert said[0].returncode == 0 and said[0].stderr.count("broken.png") == 1, said[0].stderr[-2000:]
    assert said[1].returncode != 0 and "None of the 6 pictures can be used" in said[1].stderr


@pytest.mark.slow
def test_two_nodes_are_one_process(photos, whole, tmp_path):
    """Two launchers of one process each, as on two machines, over loopback; neither says that it is on a CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launch += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    words = [word for word in command(photos, tmp_path / "run")[3:] if word not in ("--device", "cpu")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    nodes = [
        subprocess.Popen(
            [*launch, "--node-rank", str(rank), "-m", "op4ksr_core", *words, "--per-device", "1"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "2 processes on cpu" in said[0] and "step 4 of 4" not in said[1]
    assert_same_log(log_of(tmp_path / "run"), log_of(whole), 5e-3)


@pytest.mark.slow
def test_a_preempted_process_ends_the_run_which_resumes_as_one_process(photos, whole, tmp_path):
    """One of two is killed in the middle: the launcher stops the other, and the run goes on from its checkpoint."""
    run, ranks = tmp_path / "run", tmp_path / "ranks"
    words = ["-m", "op4ksr_core", *command(photos, run)[3:], "--per-device", "1", "--save-every", "1"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with ranks.open("w") as file:
        launcher = subprocess.Popen([*launch, *words], cwd=ROOT, env=environment, stdout=file, stderr=file)
        end = time.time() + 200
        while not checkpoints(run) and time.time() < end:
            time.sleep(0.05)
        second = [one for one in psutil.Process(launcher.pid).children() if one.environ().get("RANK") == "1"]
        second[0].kill()
        assert launcher.wait(timeout=200) != 0, ranks.read_text()[-2000:]
    assert load_checkpoint(checkpoints(run)[-1])[0]["step"] < 4
    train(photos, run, replace(SMALL, per_device=1))
    assert_same_log(log_of(run), log_of(whole), 5e-3)


@pytest.mark.slow
def test_a_sharded_transformer_trains_as_a_whole_one(photos, with_vsd, tmp_path):
    """FSDP: the same losses, the same pictures logged, and a checkpoint that one process goes on with."""
    one, settings, options = with_vsd
    run = tmp_path / "run"
    launched(photos, run, *options, "--shard", "--stop-after", "2", "--picture-every", "2")
    settings = replace(settings, per_device=1)
    states = [load_checkpoint(run / "checkpoints" / "step-000002")[0], load_checkpoint(checkpoints(one)[-3])[0]]
    assert states[0]["optimizer"].keys() == states[1]["optimizer"].keys() == states[0]["trainable"].keys()
    for name, value in states[1]["trainable"].items():
        assert torch.allclose(states[0]["trainable"][name], value, atol=2e-3), name
    launched(photos, run, *options, "--shard", "--stop-after", "3")
    train(photos, run, settings)
    assert_same_log(log_of(run), log_of(one), 5e-3)
    Upscaler.from_pretrained(EMBEDDED, adapters=[checkpoints(run)[-1]])


def test_sharding_wants_processes_to_share(photos, tmp_path):
    with pytest.raises(SettingError, match="--shard.*two or more"):
        train(photos, tmp_path / "run", shard=True)


def test_a_loss_that_is_no_number_stops_and_is_named(photos, tmp_path):
    settings = replace(SMALL, learning_rate=1e12, clip=1e12)
    with pytest.raises(TrainingError, match=r"Step \d: the .*(mse|gradient).* is (nan|inf)"):
        train(photos, tmp_path / "run", settings, save_every=1)
    kept = checkpoints(tmp_path / "run")
    assert kept and load_checkpoint(kept[-1])[0]["step"] == len(log_of(tmp_path / "run"))


def test_cudnns_attention_takes_no_part(photos, tmp_path, monkeypatch):
    took_part, advance = [], Learner.advance

    def noted(learner, batch):
        took_part.append(torch.backends.cuda.cudnn_sdp_enabled())
        return advance(learner, batch)

    monkeypatch.setattr(Learner, "advance", noted)
    train(photos, tmp_path / "run", stop_after=1)
    assert took_part == [False] and torch.backends.cuda.cudnn_sdp_enabled()


def test_other_settings_do_not_go_on_with_a_run(photos, whole):
    with pytest.raises(SettingError, match=rf"{re.escape(str(whole))}.*sigma: 0\.3 -> 0\.5"):
        train(photos, whole, replace(SMALL, sigma=0.5))


def test_the_learning_rate_may_change_and_the_change_is_noted(photos, tmp_path):
    run = tmp_path / "run"
    train(photos, run, stop_after=1)
    train(photos, run, replace(SMALL, learning_rate=0.005, per_device=1), stop_after=2)
    noted = json.loads((run / "run.json").read_text())["changed"]
    assert noted == [{"step": 1, "settings": ["learning_rate: 0.001 -> 0.005", "per_device: 2 -> 1"]}]


def test_a_run_resumes_with_its_own_photographs_and_model_alone(photos, tmp_path):
    run = tmp_path / "run"
    train(photos, run, stop_after=1)
    shutil.copytree(photos, tmp_path / "moved")
    train(tmp_path / "moved", run, stop_after=2)  # the same ones elsewhere
    (tmp_path / "moved" / "0.png").unlink()
    with pytest.raises(SettingError, match="photographs: 5.* -> 4"):
        train(tmp_path / "moved", run)
    shutil.copytree(EMBEDDED, tmp_path / "model")
    file = tmp_path / "model" / "prompt.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    trainer = [SMALL, Sources.find(tmp_path / "model"), [photos], run]
    with pytest.raises(SettingError, match=r"\(prompt: [0-9a-f]+ -> [0-9a-f]+\)"):
        Trainer(*trainer, cpu=True)


@pytest.mark.long
def test_progress_is_printed_and_logged(photos, tmp_path):
    lines = []
    train(photos, tmp_path / "run", log_every=3, say=lines.append)
    assert [line.split(":")[0] for line in lines] == ["step 3 of 4", "step 4 of 4"]
    logged = log_of(tmp_path / "run")
    assert f"mse {logged[2]['mse']:.4g}" in lines[0] and "images/s" in lines[0] and lines[1].endswith("0:00:00 left")
    assert all(line["images_per_second"] > 0 and line["memory_gb"] > 0.1 for line in logged)
    assert logged[0]["seconds_left"] > 0 and logged[3]["seconds_left"] == 0


def learned_file(checkpoint: Path) -> Path:
    """The one part of a checkpoint that one process wrote."""
    (found,) = (checkpoint / "learned").iterdir()
    return found


def test_two_trainings_do_not_share_a_folder(photos, tmp_path):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(SettingError, match=f"{re.escape(str(tmp_path / 'run'))}.*-o"),
    ):
        train(photos, tmp_path / "run")


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_good_checkpoint(photos, tmp_path):
    """The shell's file size limit stands for the full disk: the write fails in the middle of the file."""
    run = tmp_path / "run"
    train(photos, run, stop_after=1)
    size = learned_file(checkpoints(run)[-1]).stat().st_size // 1024 // 2
    done = subprocess.run(
        ["bash", "-c", f'ulimit -f {size}; exec "$@"', "-", *command(photos, run, "--save-every", "1")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "The last good checkpoint is" in done.stderr, done.stderr[-2000:]
    assert [path.name for path in checkpoints(run)] == ["step-000001"]
    assert not list((run / "checkpoints").glob(".*"))
    assert train(photos, run) == 4


def test_a_disk_without_room_for_a_checkpoint_is_said_before_the_first_step(photos, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(OutputError, match=rf"\d+ MB.*{re.escape(str(tmp_path / 'run'))} has 0 MB"):
        train(photos, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.long
def test_the_cost_is_counted_and_said():
    sources = Sources.find(EMBEDDED)
    small = replace(SMALL, losses=replace(SMALL.losses, periodicity=0.0))  # whose lags want larger crops
    few = {crop: operations_of_a_picture(meta_model(sources, small), replace(small, crop=crop)) for crop in (64, 128)}
    assert 3.5 < few[128] / few[64] < 6  # convolutions by area, attention by its square
    checkpointed = operations_of_a_picture(meta_model(sources, SMALL), replace(small, crop=64, checkpointing=True))
    assert checkpointed == pytest.approx(1.5 * few[64])
    found = cost_of(meta_model(sources, SMALL), SMALL, torch.device("cpu"), 2)
    assert found.hours > 0 and "over 2 processes" in str(found) and Cost(3.6e15, 1e12, 1).hours == 1


def test_a_damaged_checkpoint_is_named(photos, tmp_path):
    run = tmp_path / "run"
    train(photos, run, stop_after=1)
    kept = checkpoints(run)[-1]
    whole, learned = (kept / "state.pt").read_bytes(), learned_file(kept)
    for damage in (
        lambda: learned.write_bytes(learned.read_bytes()[:-100]),
        learned.unlink,
        lambda: (kept / "state.pt").write_bytes(whole[:-100]),
    ):
        damage()
        with pytest.raises(WeightsError, match="step-000001 cannot be read") as error:
            train(photos, run)
        assert "Traceback" not in str(error.value)


def test_a_checkpoint_of_one_file_still_loads(photos, tmp_path):
    """As versions before 0.3 wrote it."""
    train(photos, tmp_path / "run", stop_after=1)
    kept = checkpoints(tmp_path / "run")[-1]
    state, _ = load_checkpoint(kept)
    shutil.rmtree(kept / "learned")
    torch.save(state, kept / "state.pt")
    torch.testing.assert_close(load_checkpoint(kept)[0], state, rtol=0, atol=0)
    assert train(photos, tmp_path / "run") == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 3, "per_device": 2}, "batch of 3 .*2 pictures"),
        ({"crop": 112}, "crop .*32 px.*got 112"),
        ({"losses": LossWeights(lpips=1.0)}, "vgg16-397923af.pth"),
        ({"losses": LossWeights(adversarial=1.0)}, "--features FOLDER"),
        ({"losses": LossWeights(vsd=1.0)}, "--negative FILE"),
        (
            {"degradation": "blur"},
            "degradation.*'blur'",
        ),
        ({"degradation": "none"}, "none.*scale.*got 4"),
        ({"crop": 512}, "5 .*512 px"),
    ],
)
def test_what_cannot_be_trained_is_said_first(photos, tmp_path, change, message):
    with pytest.raises((SettingError, WeightsError), match=message):
        train(photos, tmp_path / "run", replace(SMALL, **change))
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_folder_that_cannot_be_written_is_named(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=re.escape(str(tmp_path / "file" / "run"))):
        train(photos, tmp_path / "file" / "run")


@pytest.mark.long
def test_the_adversarial_loss_trains_both_sides_and_resumes(photos, tmp_path):
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

    torch.manual_seed(3)
    config = DINOv3ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], image_size=64)
    DINOv3ConvNextModel(config).save_pretrained(tmp_path / "features")
    losses = replace(SMALL.losses, adversarial=0.5)
    settings = replace(SMALL, losses=losses, features=str(tmp_path / "features"), steps=3, gan_learning_rate=1e-3)
    train(photos, tmp_path / "whole", settings)
    train(photos, tmp_path / "parts", settings, stop_after=1)
    train(photos, tmp_path / "parts", settings)
    log = log_of(tmp_path / "whole")
    assert {"adversarial", "critic"} < log[0].keys() and log[0]["critic"] != log[2]["critic"]
    assert_same_log(log_of(tmp_path / "parts"), log, 1e-5)


@pytest.mark.slow
def test_vsd_teaches_model_and_regulariser_and_resumes(photos, whole, negative, tmp_path):
    losses = replace(SMALL.losses, vsd=0.5)
    settings = replace(SMALL, losses=losses, negative=str(negative), steps=3, regulariser_learning_rate=1e-2)
    train(photos, tmp_path / "whole", settings)
    train(photos, tmp_path / "parts", replace(settings, per_device=1), stop_after=1)
    train(photos, tmp_path / "parts", replace(settings, per_device=1))
    log, plain = log_of(tmp_path / "whole"), log_of(whole)
    assert_same_log(log_of(tmp_path / "parts"), log, 5e-3)
    assert log[0]["mse"] == pytest.approx(plain[0]["mse"], rel=1e-5)  # the picture is made as without it,
    assert log[2]["mse"] != pytest.approx(plain[2]["mse"], rel=1e-6)  # and learns from it
    state, _ = load_checkpoint(checkpoints(tmp_path / "whole")[-1])
    ups = [value for name, value in state["regulariser"].items() if "lora_B" in name]
    assert ups and all(float(value.abs().max()) > 0 for value in ups)
    assert not set(state["regulariser"]) & set(state["trainable"])
    adapter = load_checkpoint(checkpoints(whole)[-1])[0]["trainable"]
    assert adapter.keys() == state["trainable"].keys()


def test_wearing_nothing_is_the_prior(photos, negative):
    """The passes of VSD use the transformer as it was, at its own positions, and leave everything as they found it."""
    settings = replace(SMALL, losses=replace(SMALL.losses, vsd=0.5), negative=str(negative))
    settings = replace(settings, rope=RopeSettings(theta=30.0), prior_rope=RopeSettings(theta=1000.0))
    model, z, sigma = FlowStrategy.load(Sources.find(EMBEDDED), settings), torch.randn(1, 64, 6, 6), torch.tensor([0.4])
    prior = Sources.find(EMBEDDED).load_transformer(torch.float32)
    prior.pos_embed = RotaryEmbedding(RopeSettings(theta=1000.0), prior.config.axes_dims_rope)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
        worn = model.velocity(z, sigma, model.prompt, model.pooled)
        with model.distillation.active(None):
            bare = model.velocity(z, sigma, model.prompt, model.pooled)
        with model.distillation.active("regulariser"):
            other = model.velocity(z, sigma, model.prompt, model.pooled)
        again = model.velocity(z, sigma, model.prompt, model.pooled)
        model.transformer = prior
        torch.testing.assert_close(bare, model.velocity(z, sigma, model.prompt, model.pooled))
        prior.pos_embed = RotaryEmbedding(settings.rope, prior.config.axes_dims_rope)
        moved = model.velocity(z, sigma, model.prompt, model.pooled)
    assert float((bare - moved).abs().max()) > 1e-3  # at the student's positions the prior would say something else
    assert torch.equal(worn, again)
    assert float((worn - bare).abs().max()) > 1e-3 and float((worn - other).abs().max()) > 1e-3


def test_gradient_checkpointing_changes_no_number(photos, whole, tmp_path):
    train(photos, tmp_path / "run", replace(SMALL, checkpointing=True), stop_after=2)
    assert_same_log(log_of(tmp_path / "run"), log_of(whole)[:2], 1e-4)


def test_tensorboard_gets_numbers_and_pictures(photos, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(photos, tmp_path / "run", picture_every=1, stop_after=1)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"mse", "total", "gradient", "periodicity score"} <= set(events.Tags()["scalars"])
    assert set(events.Tags()["images"]) == {"LR, restored, HR", "spectrum"}


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_survive_json(preset):
    assert TrainSettings.from_dict(json.loads(json.dumps(PRESETS[preset].as_dict()))) == PRESETS[preset]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sigma", 0.0),
        ("rank", 0),
        ("rank", 2.5),
        ("gan", "wgan"),
        ("precision", "fp8"),
        ("crop", 34),
        ("least_crop", 16),
        ("fidelity", 2.0),
        ("learning_rate", float("nan")),
        ("seed", 2**64),
        ("vsd_range", (0.9, 0.1)),
        ("checkpointing", 1),
    ],
)
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(SettingError) as error:
        replace(PRESETS["embedded"], **{name: value})
    assert name in str(error.value) and str(value) in str(error.value)


@pytest.mark.parametrize(
    ("change", "value"), [({"crop": 64}, 64), ({"crop": 256, "least_crop": 96, "per_device": 1}, 96)]
)
def test_crops_too_small_for_the_lags_are_named_before_the_first_step(change, value):
    """A least crop of 96 px gives rectangles with a side of 64."""
    with pytest.raises(SettingError, match=f"40 px.*got .*{value} px"):
        replace(PRESETS["embedded"], **change)
    losses = replace(PRESETS["embedded"].losses, periodicity=0.0)
    assert replace(PRESETS["embedded"], losses=losses, **change).crop == change["crop"]


def test_the_embedded_preset_trains_at_the_fidelity_that_it_is_run_at():
    assert PRESETS["embedded"].fidelity == UPSCALE["embedded"].fidelity


@pytest.mark.parametrize(
    ("words", "held", "alpha"),
    [
        (["--preset", "osediff", "--rank", "6"], None, 12),
        (["--preset", "osediff", "--rank", "6", "--alpha", "6"], None, 6),
        (["--preset", "osediff"], {"rank": 2}, 4),
        (["--preset", "osediff", "--rank", "6"], {"rank": 2, "alpha": 2}, 6),
    ],
)
def test_alpha_follows_a_rank_that_is_changed_alone(words, held, alpha, tmp_path, capsys):
    if held is not None:
        (tmp_path / "settings.json").write_text(json.dumps(held))
        words = [*words, "--settings", str(tmp_path / "settings.json")]
    assert cli.main(["train", *words, "--print-settings"]) == 0
    assert json.loads(capsys.readouterr().out)["alpha"] == alpha


def test_loss_weights_are_numbers_of_at_least_0_and_not_all_0():
    with pytest.raises(SettingError, match="mse.*-1"):
        LossWeights(mse=-1)
    with pytest.raises(SettingError, match="All loss weights are 0"):
        LossWeights(mse=0, periodicity=0, refinement=0)


def test_every_setting_has_an_option_and_a_place():
    """In exactly one group, or nested with options of its own."""
    placed = [name for names in GROUPS.values() for name in names] + [field for field, _ in NESTED.values()]
    assert sorted(placed) == sorted(one.name for one in declarations(TrainSettings))


def test_a_settings_file_is_what_was_printed(tmp_path, capsys):
    given = [
        "--rank",
        "3",
        "--loss-l1",
        "0.5",
        "--prior-theta",
        "123",
        "--vsd-range",
        "0.1",
        "0.4",
        "--no-checkpointing",
    ]
    assert cli.main(["train", "--preset", "op4ksr", *given, "--print-settings"]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "settings.json").write_text(printed)
    again = ["train", "--settings", str(tmp_path / "settings.json"), "--print-settings"]
    assert cli.main(again) == 0 and capsys.readouterr().out == printed
    assert cli.main([*again, "--steps", "7"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(printed) | {"steps": 7}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"steps": 0}', ("steps", "0")),
        ('{"stps": 5}', ("stps", "5", "steps")),
        ('{"losses": {"mse": "much"}}', ("mse", "much")),
        ('{"vsd_range": [0.1]}', ("vsd_range", "0.1")),
        ("[]", ("[]",)),
        ("{", ("JSON",)),
    ],
)
def test_a_settings_file_with_nonsense_is_named(text, named, tmp_path, capsys):
    path = tmp_path / "settings.json"
    path.write_text(text)
    assert cli.main(["train", "--settings", str(path), "--print-settings"]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in (str(path), *named))


def test_the_papers_preset_is_the_paper():
    paper = PRESETS["op4ksr-paper"]
    assert (paper.rank, paper.learning_rate, paper.batch, paper.steps) == (64, 2.5e-5, 16, 2000)
    assert paper.rope.theta == 100 and paper.sigma == 0.3 and paper.rope.scheme == "plain"


@pytest.mark.long
def test_the_command_prints_settings_and_plan(capsys):
    assert (
        cli.main(["train", "--preset", "op4ksr-paper", "--print-settings", "--loss-lpips", "3", "--theta", "50"]) == 0
    )
    shown = json.loads(capsys.readouterr().out)
    assert shown["losses"]["lpips"] == 3 and shown["rope"]["theta"] == 50 and shown["rank"] == 64
    assert cli.main(["train", "--plan", "8"]) == 0
    out = capsys.readouterr().out
    assert "memory plan per GPU" in out and "on a card of 8 GB: crops up to" in out
    assert cli.main(["train"]) == 2 and "wants pictures" in capsys.readouterr().err
