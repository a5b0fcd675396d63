"""Stage 2's models from public files: the program is the public network, and blur and noise have gates of their own."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from training_stand_ins import write_curation_models

from op4ksr_core.app.cli import main
from op4ksr_core.curate import models as judges
from op4ksr_core.curate.converters import DegradationEstimator
from op4ksr_core.curate.decide import Rules, decide
from op4ksr_core.curate.models import Models, judge_by_models
from op4ksr_core.errors import SettingError

LAION = {0: (1024, 768), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
"""Layers of sac+logos+ava1-l14-linearMSE.pth; dropout has the numbers between."""


def shape_of_de_net():
    """Every tensor of de_net.pth, as MM-RealSR's code builds it: two networks of 64, 64, 64 and 128 channels."""
    shapes = {}
    for n in range(2):
        shapes[f"conv_first.{n}"] = (64, 3, 3, 3)
        for block in (0, 1, 2, 3, 4, 5, 7, 8):
            width = 128 if block > 6 else 64
            shapes |= {f"body.{n}.{block}.conv{which}": (width, width, 3, 3) for which in (1, 2)}
        shapes[f"body.{n}.6"] = (128, 64, 3, 3)
        shapes |= {f"fc_degree.{n}.0": (512, 128), f"fc_degree.{n}.2": (1, 512)}
    return shapes


def as_state(shapes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        spread = (0.2 if ".conv" in name else 1) * (1 / np.prod(shape[1:])) ** 0.5
        state[f"{name}.weight"] = spread * torch.randn(shape, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return state


def public_degrees(state, x):
    """The public forward pass, step by step from its tensors."""
    said = []
    for n in range(2):

        def conv(y, name, stride=1):
            return F.conv2d(y, state[f"{name}.weight"], state[f"{name}.bias"], stride, 1)

        y = conv(x, f"conv_first.{n}")
        for block in range(9):
            name = f"body.{n}.{block}"
            y = conv(y, name, 2) if block == 6 else y + conv(F.relu(conv(y, f"{name}.conv1")), f"{name}.conv2")
        y = F.adaptive_avg_pool2d(y, 1).flatten(1)
        y = F.relu(F.linear(y, state[f"fc_degree.{n}.0.weight"], state[f"fc_degree.{n}.0.bias"]))
        said.append(torch.sigmoid(F.linear(y, state[f"fc_degree.{n}.2.weight"], state[f"fc_degree.{n}.2.bias"])))
    return torch.cat(said, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The public files with random weights, and what the command makes of them."""
    root = tmp_path_factory.mktemp("judges")
    torch.save(as_state(shape_of_de_net()), root / "de_net.pth")
    torch.save(as_state({f"layers.{n}": shape for n, shape in LAION.items()}), root / "laion.pth")
    assert main(["convert", str(root / "de_net.pth"), "--to", "degradation", "-o", str(root / "deg.pt2")]) == 0
    assert main(["convert", str(root / "laion.pth"), "--to", "aesthetic", "-o", str(root / "laion.safetensors")]) == 0
    return root


@pytest.mark.long
@pytest.mark.parametrize("size", [(64, 80), (97, 51), (200, 16)])
def test_the_program_is_the_public_network(made, size):
    state = torch.load(made / "de_net.pth", weights_only=True)
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))
    program = torch.export.load(made / "deg.pt2").module()
    found = program(x)
    assert found.shape == (1, 2) and torch.allclose(found, public_degrees(state, x), atol=1e-6)
    assert float(found.min()) > 0.02 and float(found.max()) < 0.98 and float(found.std()) > 1e-3
    assert sum(p.numel() for p in DegradationEstimator().parameters()) == sum(v.numel() for v in state.values())


def test_laions_layers_are_written_as_they_are(made):
    """927,969 weights from CLIP ViT-L/14's 768 numbers to one score."""
    before, after = torch.load(made / "laion.pth", weights_only=True), load_file(made / "laion.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert sum(value.numel() for value in after.values()) == 927_969


class Runs:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("held", "form", "named"),
    [
        ({"conv_first.0.weight": torch.zeros(64, 3, 3, 3)}, "degradation", "body.0.0.conv1.bias"),
        ({"layers.0.weight": torch.zeros(3, 4), "layers.0.bias": torch.zeros(3)}, "aesthetic", "3 numbers"),
        ({"head.weight": torch.zeros(1, 4)}, "aesthetic", "head.weight"),
        ({"layers.0.weight": Runs()}, "aesthetic", "foreign.pth"),
    ],
)
def test_another_file_is_named_and_nothing_is_written(held, form, named, tmp_path, capsys):
    torch.save(held, tmp_path / "foreign.pth")
    out = tmp_path / f"out{'.pt2' if form == 'degradation' else '.safetensors'}"
    assert main(["convert", str(tmp_path / "foreign.pth"), "--to", form, "-o", str(out)]) == 2
    said = capsys.readouterr()
    assert named in said.err and "run" not in said.out.split() and not out.exists()


def test_a_wrong_or_taken_name_is_refused(made, tmp_path, capsys):
    source = str(made / "laion.pth")
    assert main(["convert", source, "--to", "aesthetic", "-o", str(tmp_path / "a.pt2")]) == 2
    assert "a.pt2" in capsys.readouterr().err
    assert main(["convert", source, "--to", "aesthetic", "-o", str(made / "laion.safetensors")]) == 2
    assert "laion.safetensors" in capsys.readouterr().err


def test_a_picture_is_judged_by_tiles_blur_and_noise_apart(made, tmp_path, monkeypatch):
    write_curation_models(tmp_path)
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 256, (64, 128, 3), np.uint8)).save(tmp_path / "a.png")
    clip, layers = tmp_path / "clip-vit-l-14", tmp_path / "laion.safetensors"
    models = Models(str(made / "deg.pt2"), str(clip), str(layers))
    monkeypatch.setattr(judges, "_TILE", 64)
    scores = judge_by_models(tmp_path / "a.png", models)
    x = torch.from_numpy(np.asarray(Image.open(tmp_path / "a.png")).copy()).permute(2, 0, 1)[None] / 255
    state = torch.load(made / "de_net.pth", weights_only=True)
    wanted = (public_degrees(state, x[..., :64]) + public_degrees(state, x[..., 64:]))[0] / 2
    assert (scores["blur"], scores["noise"]) == pytest.approx(tuple(wanted.tolist()), abs=1e-6)
    assert scores["degradation"] == pytest.approx(float(wanted.mean()), abs=1e-6)
    one = judge_by_models(tmp_path / "a.png", Models(str(tmp_path / "deg.pt2"), str(clip), str(layers)))
    assert one["blur"] != one["blur"] and one["noise"] != one["noise"] and one["degradation"] < 0


def rows_of(**columns):
    """Listing and scores of stages 1 and 2, all good but for these columns."""
    count = len(next(iter(columns.values())))
    names = [f"/{n}.png" for n in range(count)]
    first = {"error": None, "width": 64, "height": 64, "laplacian": 100.0, "sobel": 9.0}
    first |= {"contrast": 1.0, "correlation": 0.5, "entropy": 5.0}
    one = {name: first | {"phash": f"{n:016x}"} for n, name in enumerate(names)}
    good = {"error": None, "aesthetic": 6.0}
    two = {name: good | {key: values[n] for key, values in columns.items()} for n, name in enumerate(names)}
    return [{"path": name, "licence": ""} for name in names], {1: one, 2: two}


def decided(rules, **columns):
    listing, scores = rows_of(**columns)
    usual = {"keep": (1.0, 0.5), "side": 1, "bits": -1}
    found = decide(listing, scores, Rules(**usual | rules))
    return [reason.split(" (")[0] for reason in found.reasons.values()], found.gates


def test_blur_and_noise_are_two_gates():
    blur, noise = [0.1, 0.2, 0.3, 0.9], [0.1, 0.9, 0.2, 0.3]
    mean = [(a + b) / 2 for a, b in zip(blur, noise, strict=True)]
    columns = {"degradation": mean, "blur": blur, "noise": noise}
    reasons, gates = decided({"blur": 0.5, "noise": 0.5}, **columns)
    assert reasons == ["kept", "too noisy", "kept", "too blurred"]
    assert gates == {"blur": 0.5, "noise": 0.5, "aesthetic": 5.0}
    reasons, gates = decided({}, **columns)
    assert reasons == ["kept", "too noisy", "too blurred", "too blurred"]
    assert gates["blur"] == pytest.approx(0.25) and gates["noise"] == pytest.approx(0.25)
    assert decided({"blur": 1, "noise": 1, "degradation": 0.2}, **columns)[0].count("too degraded") == 3


@pytest.mark.parametrize("missing", [{}, {"blur": [float("nan")] * 2, "noise": [float("nan")] * 2}])
def test_one_number_has_one_gate_and_older_scores_go_on(missing):
    assert decided({}, degradation=[0.2, 0.8], **missing)[0] == ["kept", "too degraded"]
    with pytest.raises(SettingError, match=r"'blur': 0\.3.*--most-degradation"):
        decided({"blur": 0.3}, degradation=[0.2, 0.8], **missing)


def test_a_folder_of_older_scores_and_rules_is_decided_again(tmp_path):
    rng = np.random.default_rng(4)
    (tmp_path / "in").mkdir()
    for n in range(4):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(tmp_path / "in" / f"{n}.png")
    out = tmp_path / "out"
    assert main(["curate", str(tmp_path / "in"), "-o", str(out), "--side", "32", "--keep", "1"]) == 0
    (out / "scores" / "stage2").mkdir()
    paths = [row["path"] for row in pq.read_table(out / "decisions.parquet").to_pylist()]
    old = [
        {"path": path, "bytes": 0, "modified": 0, "error": None, "degradation": 0.1 * n, "aesthetic": 6.0}
        for n, path in enumerate(paths)
    ]
    pq.write_table(pa.Table.from_pylist(old), out / "scores" / "stage2" / "000000.parquet")
    rules = json.loads((out / "rules.json").read_text())
    del rules["blur"], rules["noise"]
    (out / "rules.json").write_text(json.dumps(rules))
    assert main(["curate", "-o", str(out), "--decide-only", "--most-degradation", "0.15"]) == 0
    assert [Path(line).stem for line in (out / "kept.txt").read_text().splitlines()] == ["0", "1"]
