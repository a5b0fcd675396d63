import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from training_stand_ins import Blur, chat_server, write_curation_models

from op4ksr_core.app.cli import main
from op4ksr_core.curate import listing, shards
from op4ksr_core.curate.decide import Originals, Rules, aggregate, decide
from op4ksr_core.curate.features import SCORES, measure
from op4ksr_core.curate.listing import list_pictures
from op4ksr_core.curate.models import clip_input, native_crops, score_in
from op4ksr_core.errors import SettingError, WeightsError
from op4ksr_core.files import find_pictures


def picture(path, seed, blur=1, side=(64, 80)):
    """Noise of grains of `blur` px, another one for each seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (side[0] // blur, side[1] // blur, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize(side[::-1], Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def folder(tmp_path):
    """Eight pictures, finer ones first by name."""
    for n, blur in enumerate((1, 1, 2, 2, 8, 8, 16, 16)):
        picture(tmp_path / "in" / f"{n}.png", n, blur)
    return tmp_path


def curate(folder, *options, inputs=("in",)):
    places = [str(folder / name) for name in inputs]
    gates = ["--least-laplacian", "0", "--least-sobel", "0"]
    return main(["curate", *places, "-o", str(folder / "out"), "--side", "32", *gates, *options])


def kept(folder):
    return [Path(line).stem for line in (folder / "out" / "kept.txt").read_text().splitlines()]


def test_the_sharper_half_is_kept_and_everything_is_told(folder, capsys):
    assert curate(folder) == 0
    assert kept(folder) == ["0", "1", "2", "3"]
    table = pq.read_table(folder / "out" / "decisions.parquet").to_pylist()
    assert [row["kept"] for row in table] == [True] * 4 + [False] * 4
    assert all(row["decision"] == "below the cut of stage 1" for row in table[4:])
    assert all(isinstance(row[name], float) for row in table for name in SCORES)
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["pictures"] == 8 and summary["reasons"] == {"kept": 4, "below the cut of stage 1": 4}
    page = (folder / "out" / "report.html").read_text()
    assert page.count("<svg") == 6 and page.count("data:image/jpeg") == 8 and "http" not in page
    assert "8 scored now" in capsys.readouterr().out


def test_blurred_and_flat_pictures_are_eliminated_before_the_ranking(folder):
    rows = {row["path"]: row for row in ({"path": f"{n}.png"} | measure(folder / "in" / f"{n}.png") for n in range(8))}
    cut = sorted(row["laplacian"] for row in rows.values())[2] + 1e-6
    assert curate(folder, "--keep", "1", "--least-laplacian", str(cut)) == 0
    decisions = pq.read_table(folder / "out" / "decisions.parquet").to_pylist()
    blurred = {Path(row["path"]).name for row in decisions if row["decision"].startswith("blurred (Laplacian")}
    assert blurred == {name for name, row in rows.items() if row["laplacian"] < cut} and len(blurred) == 3
    assert len(kept(folder)) == 5


def test_rules_that_leave_nothing_are_named_and_change_nothing(folder, capsys):
    assert curate(folder, "--keep", "1") == 0
    before = {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.is_file()}
    assert curate(folder, "--decide-only", "--least-sobel", "1e9", inputs=()) == 2
    message = capsys.readouterr().err
    assert "8 of 8" in message and "--least-sobel 1000000000.0" in message and "kept.txt" in message
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.is_file()} == before


def test_a_later_call_goes_on_with_the_rules_of_the_last(folder, capsys):
    def again(*options):
        assert main(["curate", "-o", str(folder / "out"), "--decide-only", *options]) == 0
        return capsys.readouterr().out

    (folder / "in" / "some.txt").write_text("".join(f"{n}.png\n" for n in range(6)))
    assert curate(folder, "--keep", "0.25", "--allowed", str(folder / "in" / "some.txt")) == 0
    assert kept(folder) == ["0", "1"]
    assert "keep [0.25, 0.5]" in again() and kept(folder) == ["0", "1"]
    assert "allowed" in again("--keep", "1") and len(kept(folder)) == 6
    again("--allowed", "")
    assert len(kept(folder)) == 8
    assert main(["curate", "-o", str(folder / "out"), "--decide-only", "--usual-rules"]) == 2
    assert "--side 1024" in capsys.readouterr().err and len(kept(folder)) == 8


def test_the_kept_list_can_be_read_from_anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["curate", "in", "-o", "out", "--side", "32", "--least-laplacian", "0", "--least-sobel", "0"]) == 0
    monkeypatch.chdir(folder / "in")
    found = find_pictures([folder / "out" / "kept.txt"])
    assert [one.path for one in found] == [folder / "in" / f"{n}.png" for n in range(4)]
    assert main(["curate", "-o", "../out", "--decide-only", "--keep", "0.25"]) == 0
    assert [one.path for one in find_pictures([folder / "out" / "kept.txt"])] == [
        folder / "in" / f"{n}.png" for n in (0, 1)
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"kept": 1}', '{"side": "much"}'])
def test_rules_that_are_none_are_refused(folder, capsys, text):
    assert curate(folder) == 0
    (folder / "out" / "rules.json").write_text(text)
    assert main(["curate", "-o", str(folder / "out"), "--decide-only"]) == 2
    assert capsys.readouterr().err and kept(folder) == ["0", "1", "2", "3"]


def test_decisions_are_made_anew_from_the_scores(folder, capsys, monkeypatch):
    curate(folder)
    monkeypatch.setattr(shards, "measure", lambda path: pytest.fail("measured again"))
    assert curate(folder, "--keep", "0.25") == 0 and kept(folder) == ["0", "1"]
    assert "8 pictures, 0 scored now" in capsys.readouterr().out
    assert curate(folder, "--decide-only", "--keep", "1", inputs=()) == 0 and len(kept(folder)) == 8


@pytest.mark.slow
def test_processes_and_ray_give_the_same_scores(folder):
    pytest.importorskip("ray")
    tables = []
    for options in ((), ("--workers", "2"), ("--engine", "ray", "--workers", "2")):
        curate(folder, "--shard-size", "3", *options)
        files = sorted((folder / "out" / "scores" / "stage1").glob("*.parquet"))
        assert len(files) == 3
        tables.append(pa.concat_tables([pq.read_table(file) for file in files]))
        (folder / "out").rename(folder / f"out{len(tables)}")
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])


def test_what_is_damaged_small_or_double_is_told(folder):
    place = folder / "in"
    (place / "broken.png").write_bytes(b"no")
    picture(place / "small.png", 30, side=(20, 80))
    picture(place / "one.png", 31, side=(1, 1))
    Image.open(place / "0.png").resize((160, 128), Image.Resampling.LANCZOS).save(place / "larger.png")
    Image.open(place / "0.png").save(place / "again.webp", lossless=True)
    deep = np.asarray(Image.open(place / "1.png").convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(place / "deep.png")
    assert curate(folder, "--keep", "1", "--duplicate-bits", "2") == 0
    rows = pq.read_table(folder / "out" / "decisions.parquet").to_pylist()
    why = {Path(row["path"]).name: row["decision"] for row in rows}
    assert why["broken.png"].startswith("unreadable") and why["small.png"] == "below the least side (80x20 px)"
    assert why["one.png"].startswith("below the least side") and why["deep.png"].startswith("duplicate")
    assert why["larger.png"] == "kept" and "larger.png" in why["0.png"] and "larger.png" in why["again.webp"]
    assert len(why) == 14 and sum(why == "kept" for why in why.values()) == 8
    curate(folder, "--keep", "1", "--duplicate-bits", "-1", "--decide-only", inputs=())
    assert len(kept(folder)) == 11


def test_licences_and_lists(folder):
    place = folder / "in"
    table = folder / "in" / "list.csv"
    table.write_text("path,licence,source\n0.png,CC0,a\n1.png,CC-BY,b\n4.png,CC0,c\n5.png,,d\n")
    allowed = place / "clean.txt"
    allowed.write_text("0.png\n1.png\n")
    assert (
        curate(folder, "--keep", "1", "--licences", "CC0,CC-BY", "--allowed", str(allowed), inputs=("in/list.csv",))
        == 0
    )
    rows = pq.read_table(folder / "out" / "decisions.parquet").to_pylist()
    assert [(row["licence"], row["source"], row["decision"]) for row in rows] == [
        ("CC0", "a", "kept"),
        ("CC-BY", "b", "kept"),
        ("CC0", "c", "not in the list of allowed pictures"),
        ("", "d", "licence (none)"),
    ]
    for suffix, write in (
        (".jsonl", lambda path: path.write_text('{"path": "0.png", "licence": "CC0"}\n')),
        (".parquet", lambda path: pq.write_table(pa.table({"path": ["0.png"], "licence": ["CC0"]}), path)),
    ):
        other = place / f"list{suffix}"
        write(other)
        assert list_pictures([str(other)]).to_pylist() == [{"path": str(place / "0.png"), "licence": "CC0"}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stage", "2"), "--degradation"),
        (("--stage", "3", "--vision", "nowhere"), "nowhere"),
        (("--keep", "0"), "share"),
        (("--duplicate-bits", "40"), "40"),
        (("--shard-size", "0"), "shard"),
        (("--allowed", "gone.txt"), "gone.txt"),
        (("--vision-prompt", "gone.txt"), "--vision-prompt"),
    ],
)
def test_wrong_settings_are_errors_before_any_work(folder, capsys, options, words):
    assert curate(folder, *options) == 2
    assert words in capsys.readouterr().err and not (folder / "out" / "scores").exists()


@pytest.mark.parametrize("name", ["list.jsonl", "list.parquet"])
def test_a_damaged_table_is_an_error_that_names_it(folder, capsys, name):
    (folder / "in" / name).write_text('{"path": "0.png"')
    assert curate(folder, inputs=(f"in/{name}",)) == 2 and f"{name} cannot be read" in capsys.readouterr().err


def test_six_new_pictures_cost_six_scores(folder, capsys):
    curate(folder, "--shard-size", "3")
    for n in range(6):
        picture(folder / "in" / f"1{n}.png", 20 + n)
    (folder / "in" / "7.png").unlink()
    capsys.readouterr()
    assert curate(folder, "--keep", "1", "--shard-size", "5") == 0
    said = capsys.readouterr().out
    assert "6 pictures are new in the listing, 1 are gone" in said and "13 pictures, 6 scored now" in said
    assert len(kept(folder)) == 13


def test_another_listing_and_no_listing_are_errors(folder, capsys):
    curate(folder)
    picture(folder / "other" / "new.png", 9)
    assert curate(folder, inputs=("other",)) == 2 and "other pictures" in capsys.readouterr().err
    assert len(kept(folder)) == 4
    (folder / "empty").mkdir()
    assert main(["curate", "-o", str(folder / "empty")]) == 2 and "no listing" in capsys.readouterr().err
    assert main(["curate", str(folder / "empty"), "-o", str(folder / "e2")]) == 2


def test_a_picture_that_is_listed_twice_counts_once(folder, caplog):
    (folder / "in" / "list.csv").write_text("path,licence\n0.png,\n1.png,CC0\n0.png,CC-BY\n")
    with caplog.at_level(logging.WARNING, "op4ksr"):
        table = list_pictures([str(folder / "in" / "list.csv")])
    assert [(Path(row["path"]).name, row["licence"]) for row in table.to_pylist()] == [
        ("0.png", "CC-BY"),
        ("1.png", "CC0"),
    ]
    assert "1 pictures are listed more than once" in caplog.text and "0.png" in caplog.text
    (folder / "in" / "list.csv").write_text("path,licence\n0.png,CC0\n0.png,CC-BY\n")
    with pytest.raises(SettingError, match=r"0\.png.*CC0.*CC-BY"):
        list_pictures([str(folder / "in" / "list.csv")])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_killed_at_half_goes_on(folder):
    for n in range(200):
        picture(folder / "in" / f"x{n:03}.png", 100 + n, side=(200, 200))
    command = [sys.executable, "-m", "op4ksr_core", "curate", str(folder / "in"), "-o", str(folder / "out")]
    command += ["--shard-size", "10", "--side", "32"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    place = folder / "out" / "scores" / "stage1"
    while process.poll() is None and len(list(place.glob("*.parquet"))) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(place.glob("*.parquet")))
    assert 3 <= done < 21 and not (folder / "out" / "kept.txt").exists()
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"208 pictures, {208 - 10 * done} scored now" in second.stdout


def test_a_changed_picture_is_scored_again(folder, capsys):
    curate(folder)
    picture(folder / "in" / "7.png", 70, 1)
    capsys.readouterr()
    curate(folder, "--keep", "1")
    assert "8 pictures, 1 scored now" in capsys.readouterr().out


def test_stage_1_by_slow_twins(tmp_path):
    picture(tmp_path / "a.png", 5, 2, (24, 30))
    found = measure(tmp_path / "a.png")
    luma = np.asarray(Image.open(tmp_path / "a.png")) @ np.array([0.299, 0.587, 0.114])
    padded = np.pad(luma, 1, mode="symmetric")
    around = [padded[1 + dy : 25 + dy, 1 + dx : 31 + dx] for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    assert found["laplacian"] == pytest.approx(np.var(4 * luma - sum(around)))
    counts = np.bincount(luma.round().astype(int).ravel(), minlength=256) / luma.size
    assert found["entropy"] == pytest.approx(-sum(p * np.log2(p) for p in counts if p))
    greys = (luma * 64 / 256).astype(int)
    pairs = [(greys[:, :-1], greys[:, 1:]), (greys[:-1], greys[1:])]
    contrast = [np.mean((a - b) ** 2) for a, b in pairs]
    assert found["contrast"] == pytest.approx(np.mean(contrast))


def test_rank_aggregate():
    rows = [{"a": 1.0, "b": 9.0}, {"a": 2.0, "b": 5.0}, {"a": 3.0, "b": 5.0}]
    assert aggregate(rows, {"a": 1.0, "b": -1.0}).tolist() == [0.0, 0.625, 0.875]
    assert aggregate(rows[:1], {"a": 1.0}).tolist() == [0.0]


def row(name, phash, side=100):
    scores = dict.fromkeys(SCORES, 1.0)
    return name, {"error": None, "width": side, "height": side, "phash": f"{phash:016x}"} | scores


@pytest.mark.parametrize("bits", [0, 3, 8])
def test_duplicates_are_found_as_by_comparing_all(bits):
    rng = np.random.default_rng(0)
    hashes = [int(v) for v in rng.integers(0, 2**63, 20)]
    near = [h ^ sum(1 << int(b) for b in rng.choice(64, k, replace=False)) for h in hashes for k in (0, 2, 3, 6, 9)]
    scores = dict(row(f"{n:03}", value) for n, value in enumerate(hashes + near))
    listing = [{"path": path, "licence": ""} for path in scores]
    found = decide(listing, {1: scores}, Rules((1.0, 1.0), 0, 0, side=1, bits=bits))
    originals: list[int] = []
    for path in scores:
        value = int(scores[path]["phash"], 16)
        double = any((value ^ other).bit_count() <= bits for other in originals)
        assert found.reasons[path].startswith("duplicate") == double
        originals += [] if double else [value]


def made_up(count, seed=0):
    """(listing, scores of stage 1) of pictures that were never there; one in ten is near another."""
    rng = np.random.default_rng(seed)
    hashes = [int(value) for value in rng.integers(0, 2**64, count, np.uint64)]
    for n in range(9, count, 10):
        hashes[n] = hashes[n - 9] ^ 5
    rows = dict(row(f"{n:06}", value) for n, value in enumerate(hashes))
    return [{"path": path, "licence": ""} for path in rows], rows


def test_duplicates_of_many_pictures_are_found_without_comparing_all_pairs():
    """Twice the pictures, hardly more comparisons than twice; all pairs would be 8 million."""
    compared = []
    for count in (2000, 4000):
        listing, rows = made_up(count)
        seen = Originals(4)
        near = 0
        for name, scores in rows.items():
            value = int(scores["phash"], 16)
            if seen.near(value) is None:
                seen.add(value, name)
            else:
                near += 1
        assert near == count // 10
        assert decide(listing, {1: rows}, Rules((1.0, 1.0), 0, 0, side=1)).counts["duplicate"] == near
        compared.append(seen.compared)
    assert compared[0] >= 200 and compared[1] < 1.2 * 4000


def test_a_long_list_is_gone_through_once():
    """Each path is hashed a few times, and never compared with all before it."""
    count, looked = 3000, 0

    class Counted(str):
        __slots__ = ()

        def __eq__(self, other):
            nonlocal looked
            looked += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    rows = [{"path": Counted(f"{n % (count - 1)}.png")} for n in range(count)]
    assert len(listing._joined(rows)) == count - 1
    assert looked < 3 * count


@pytest.fixture
def models(tmp_path):
    write_curation_models(tmp_path)
    names = (("--degradation", "deg.pt2"), ("--clip", "clip-vit-l-14"), ("--aesthetic", "laion.safetensors"))
    return [part for option, name in names for part in (option, str(tmp_path / name))]


def test_stage_2_scores_what_stage_1_let_through(folder, models, capsys):
    gates = ["--least-aesthetic", "0", "--most-degradation", "1e9"]
    assert curate(folder, "--stage", "1", "2", "--keep", "0.5", *models, *gates) == 0
    assert "stage 2: 4 pictures, 4 scored now" in capsys.readouterr().out
    rows = pq.read_table(folder / "out" / "decisions.parquet").to_pylist()
    first = rows[0]
    x = torch.from_numpy(np.asarray(Image.open(first["path"]))).permute(2, 0, 1)[None] / 255
    assert first["degradation"] == pytest.approx(float(Blur()(x)), abs=1e-5)
    assert np.isfinite(first["aesthetic"]) and rows[7]["aesthetic"] is None
    scored = rows[:4]
    for row in scored:
        wanted = "kept" if row["aesthetic"] >= 0 else "below the least aesthetic score"
        assert row["decision"].startswith(wanted)
    # Without a limit the less degraded half goes through, and the gates are written down.
    assert curate(folder, "--decide-only", "--usual-rules", "--least-aesthetic", "0", inputs=()) == 0
    rows = pq.read_table(folder / "out" / "decisions.parquet").to_pylist()[:4]
    gate = json.loads((folder / "out" / "summary.json").read_text())["gates"]["degradation"]
    assert gate == pytest.approx(float(np.median([row["degradation"] for row in rows])))
    assert {row["degradation"] > gate for row in rows if row["decision"].startswith("too degraded")} == {True}
    capsys.readouterr()
    # A laxer stage 1 lets more through: only they are scored.
    assert curate(folder, "--stage", "2", "--keep", "1", *models) == 0
    assert "stage 2: 8 pictures, 4 scored now" in capsys.readouterr().out


def test_stage_2_alone_wants_stage_1(folder, models, capsys):
    assert curate(folder, "--stage", "2", *models) == 2 and "--stage 1" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--degradation", "--aesthetic", "--clip"])
def test_foreign_model_files_are_errors_that_name_them(folder, models, capsys, option, tmp_path):
    other = tmp_path / "other"
    other.mkdir() if option == "--clip" else other.write_bytes(b"nothing")
    models[models.index(option) + 1] = str(other)
    assert curate(folder, "--stage", "1", "2", *models) == 2 and str(other) in capsys.readouterr().err


def test_clip_sees_the_middle_square():
    x = torch.zeros(1, 3, 40, 120)
    x[..., 40:80] = 1
    seen = clip_input(x, 20)
    assert seen.shape == (1, 3, 20, 20)
    assert float(seen[0, 0].mean()) == pytest.approx((1 - 0.48145466) / 0.26862954, rel=0.05)


@pytest.mark.parametrize(
    ("answer", "score"),
    [("Score: 87", 87), ("It is sharp.\nScore: **42.5**", 42.5), ("score=0", 0), ("Score: 3 then Score: 9", 9)],
)
def test_scores_are_read_from_answers(answer, score):
    assert score_in(answer) == score


@pytest.mark.parametrize("answer", ["87", "Score: high", "Score: 870", ""])
def test_answers_without_a_score_are_not_guessed(answer):
    assert np.isnan(score_in(answer))


def test_pictures_without_a_vision_score_are_told():
    scores = dict(row(name, n * 0x1111111111111111) for n, name in enumerate("abcd"))
    third = {
        name: {"error": None, "vision": value} for name, value in zip("abc", (80.0, 10.0, float("nan")), strict=True)
    }
    listing = [{"path": path, "licence": ""} for path in scores]
    found = decide(listing, {1: scores, 3: third}, Rules((1.0, 1.0), 0, 0, side=1, bits=-1))
    assert list(found.reasons.values()) == [
        "kept",
        "below the least score of stage 3",
        "no score in the vision model's answer",
        "not scored in stage 3",
    ]


@pytest.fixture
def vision(tmp_path):
    """A chat model with pictures of a few thousand random weights, saved as any other is."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", "<pad>", "<s>", "</s>", "<image>", "Score", "87"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    template = (
        "{% for m in messages %}{% for c in m['content'] %}{{ '<image> ' if c['type'] == 'image' else c['text'] }}"
    )
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, additional_special_tokens=["<image>"], **names
        ),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template + "{% endfor %}{% endfor %}",
    )
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    seeing = transformers.CLIPVisionConfig(image_size=32, patch_size=8, num_hidden_layers=2, **shape)
    writing = transformers.LlamaConfig(
        vocab_size=len(words), num_hidden_layers=1, num_key_value_heads=2, eos_token_id=3, pad_token_id=1, **shape
    )
    torch.manual_seed(0)
    config = transformers.LlavaConfig(vision_config=seeing, text_config=writing, image_token_index=4)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "vlm")
    processor.save_pretrained(tmp_path / "vlm")
    return tmp_path / "vlm"


def test_stage_3_asks_a_vision_model(folder, vision, capsys):
    """A model of random weights gives no score, which is told and not guessed."""
    assert curate(folder, "--stage", "1", "3", "--keep", "0.25", "--vision", str(vision)) == 2
    said = capsys.readouterr()
    assert "stage 3: 2 pictures, 2 scored now" in said.out and not (folder / "out" / "kept.txt").exists()
    assert "2 no score in the vision model's answer" in said.out and "Nothing would be kept" in said.err
    rows = pq.read_table(folder / "out" / "scores" / "stage3" / "000000.parquet").to_pylist()
    assert [Path(row["path"]).name for row in rows] == ["0.png", "1.png"] and all(row["error"] is None for row in rows)


@pytest.fixture
def address():
    """It says 90 of the first picture it sees and 10 of all others."""
    with chat_server(lambda count: 90 if count == 1 else 10) as (url, asked):
        yield url, asked


def test_stage_3_asks_an_address_with_native_crops(folder, address, capsys, monkeypatch):
    url, asked = address
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    options = ("--stage", "1", "3", "--keep", "0.25", "--vision", url)
    assert curate(folder, *options) == 2 and "--vision-model" in capsys.readouterr().err and not asked
    assert curate(folder, *options, "--vision-model", "seer") == 0 and kept(folder) == ["0"]
    path, key, body = asked[0]
    assert (path, key, body["model"], len(asked)) == ("/v1/chat/completions", "Bearer key", "seer", 2)
    *pictures, words = body["messages"][0]["content"]
    assert words["type"] == "text" and all(part["image_url"]["url"].startswith("data:image/png") for part in pictures)
    assert curate(folder, *options, "--vision-model", "seer") == 0 and len(asked) == 2  # answers are kept


def test_an_address_that_does_not_answer_is_an_error(folder, capsys):
    options = ("--stage", "1", "3", "--vision", "http://127.0.0.1:9/v1", "--vision-model", "x")
    assert curate(folder, *options) == 2 and "gave no answer" in capsys.readouterr().err


def test_native_crops_are_the_pictures_own_pixels():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 9, (1100, 1700, 3), np.uint8))
    image.paste(Image.fromarray(np.random.default_rng(1).integers(0, 256, (512, 512, 3), np.uint8)), (1024, 512))
    crops = native_crops(image)
    assert [crop.size for crop in crops] == [(512, 512)] * 3
    assert crops[0].tobytes() == image.crop((594, 294, 1106, 806)).tobytes()
    assert crops[1].tobytes() == image.crop((1024, 512, 1536, 1024)).tobytes()
    assert [crop.size for crop in native_crops(image.crop((0, 0, 90, 40)))] == [(40, 40)] * 3


def test_a_folder_that_is_no_vision_model_is_an_error(folder, capsys):
    (folder / "vlm").mkdir()
    assert curate(folder, "--stage", "1", "3", "--vision", str(folder / "vlm")) == 2
    assert "vlm" in capsys.readouterr().err


def test_errors_have_their_kind():
    with pytest.raises(SettingError, match="vision.*101"):
        Rules(vision=101)
    with pytest.raises(WeightsError, match="--vision"):
        from op4ksr_core.curate.models import Models

        Models().check(3)
