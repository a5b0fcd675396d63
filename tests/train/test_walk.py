"""The commands of docs/training.md, run from top to bottom as they stand there, at small size.

The blocks after a `<!-- walk -->` are run in a folder with photographs and small random models of the names that they
use. Large numbers are replaced by small ones (SMALL), and options are added that make a training short (ADDED).
"""

import os
import re
import shlex
import subprocess
import sys

import pytest
import tomllib
from PIL import Image
from places import ROOT, SAMPLE
from training_stand_ins import chat_server, write_curation_models, write_features, write_ultraflux

from op4ksr_core.app import cli
from op4ksr_core.optional import is_installed
from op4ksr_core.train.presets import PRESETS

pytestmark = pytest.mark.long

STEPS = 2
SMALL = {"--side": "96", "--crop": "96", "--workers": "1", "--nproc-per-node": "2"}
SHORT = f"--steps {STEPS} --batch 2 --per-device 1 --crop 96 --least-crop 0 --precision no --rank 2".split()
SHORT += [] if is_installed("lpips") else ["--loss-lpips", "0"]
ADDED = {
    "train": SHORT,
    "pairs": ["--crop", "96"],
    "curate": ["--side", "96"],
    "upscale": ["--scale", "2"],
    "tensorboard": ["--inspect"],
}
BLOCK = re.compile(r"<!-- walk -->\n\n```sh\n(.*?)```", re.S)


def commands():
    """The words of each command, comments left out."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def made_small(words, address):
    """A command as it is run here."""
    out = []
    for before, word in zip(["", *words], words, strict=False):
        word = SMALL.get(before, word).replace("http://localhost:8000/v1", address)
        for preset in ("embedded", "op4ksr"):
            word = word.replace(f"step-{PRESETS[preset].steps:06}", f"step-{STEPS:06}")
        out.append(word)
    return out + next((more for name, more in ADDED.items() if name in words), [])


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Twelve sharp photographs, the models, and nothing else."""
    photo = Image.open(SAMPLE).convert("RGB")
    for name, count in (("photos", 12), ("test", 1), ("held", 1)):
        (tmp_path / name).mkdir()
        for n in range(count):
            left, top = 40 * (n % 4), 40 * (n // 4)
            photo.crop((left, top, left + 120, top + 110)).save(tmp_path / name / f"{n}.png")
    photo.crop((0, 0, 64, 48)).save(tmp_path / "a.jpg")
    (tmp_path / "ComfyUI" / "models" / "loras").mkdir(parents=True)
    write_ultraflux(tmp_path / "UltraFlux-v1")
    write_features(tmp_path / "dinov3-convnext")
    write_curation_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words):
    """One command, in this process where it is ours alone."""
    program, *rest = words
    if program == "op4ksr":
        return cli.main(rest)
    modules = {"torchrun": "torch.distributed.run", "tensorboard": "tensorboard.main"}
    if program in modules:
        words = [sys.executable, "-m", modules[program], *rest]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    print(done.stdout[-3000:], done.stderr[-3000:])
    return done.returncode


def test_no_command_is_left_open():
    assert len(commands()) >= 15
    assert not [words for words in commands() if any("..." in word or "…" in word for word in words)]


def test_the_commands_install_what_there_is():
    held = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [words for words in commands() if words[0] == "pip"]
    extras = {extra for words in named for extra in re.search(r"\[(.*)\]", " ".join(words)).group(1).split(",")}
    assert named and extras <= held.keys()


def test_from_photos_to_an_adapter(work, capsys):
    with chat_server(lambda count: 90) as (address, asked):
        for words in commands():
            if words[0] == "pip":
                continue
            words = made_small(words, address)
            code = run(words)
            said = capsys.readouterr()
            assert code == 0, (words, said.out[-2000:], said.err[-2000:])
            if words[0] == "torchrun":
                assert "2 processes on cpu" in said.out
    assert asked
    for name in ("big.png", "pairs.png", "steps.png", "out/0.png", "ComfyUI/models/loras/op4ksr.safetensors"):
        assert (work / name).is_file(), name
    assert (work / "runs" / "chosen" / "checkpoints" / f"step-{STEPS:06}").is_dir()
