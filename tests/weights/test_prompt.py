import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_stand_ins import write_text_encoders

from op4ksr_core.app import cli
from op4ksr_core.errors import WeightsError
from op4ksr_core.settings import POSITIVE_PROMPT
from op4ksr_core.weights.prompt import embed_prompt
from op4ksr_core.weights.prompt_files import load_prompt, load_tokens


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    return write_text_encoders(tmp_path_factory.mktemp("flux"))


def test_equals_the_pipelines_own_embedding(encoders, tmp_path):
    from diffusers import FluxPipeline

    to = embed_prompt(encoders, tmp_path / "prompt.safetensors", tokens=32)
    sequence, pooled = load_prompt(to)
    assert sequence.shape == (1, 32, 24) and pooled.shape == (1, 20)
    pipeline = FluxPipeline.from_pretrained(encoders, transformer=None, vae=None)
    ids = pipeline.tokenizer(POSITIVE_PROMPT, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = pipeline.text_encoder(ids.input_ids).pooler_output
    torch.testing.assert_close(pooled, expected)


def test_by_command(encoders, tmp_path, capsys):
    arguments = [
        "embed-prompt",
        str(encoders),
        "-o",
        str(tmp_path / "p.safetensors"),
        "--tokens",
        "16",
        "--text",
        "a cat",
    ]
    assert cli.main(arguments) == 0
    assert load_prompt(tmp_path / "p.safetensors")[0].shape == (1, 16, 24)


def test_a_folder_without_encoders(tmp_path):
    with pytest.raises(WeightsError, match="tokenizer_2"):
        embed_prompt(tmp_path, tmp_path / "p.safetensors")


def test_stable_diffusions_prompts_and_captions(encoders, tmp_path, capsys):
    """A folder with a UNet and one text encoder: 77 tokens of CLIP, for one text or beside every caption."""
    import shutil

    for name in ("tokenizer", "text_encoder"):
        shutil.copytree(encoders / name, tmp_path / "sd" / name)
    (tmp_path / "sd" / "unet").mkdir()
    out = tmp_path / "prompt.safetensors"
    assert cli.main(["embed-prompt", str(tmp_path / "sd"), "-o", str(out), "--text", "a photo"]) == 0
    tokens = load_tokens(out)
    assert tokens.shape == (1, 77, 20)
    (tmp_path / "photos").mkdir()
    for name, text in (("a", "a photo"), ("b", "sky, clouds")):
        (tmp_path / "photos" / f"{name}.txt").write_text(text + "\n")
    assert cli.main(["embed-prompt", str(tmp_path / "sd"), "--captions", str(tmp_path / "photos")]) == 0
    assert "2 captions embedded" in capsys.readouterr().out
    a, b = (load_tokens(tmp_path / "photos" / f"{name}.prompt.safetensors") for name in "ab")
    assert torch.equal(a, tokens) and not torch.equal(a, b)
    (tmp_path / "list.csv").write_text("path,caption\nphotos/c.jpg,a photo\n")
    assert cli.main(["embed-prompt", str(tmp_path / "sd"), "--captions", str(tmp_path / "list.csv")]) == 0
    assert torch.equal(load_tokens(tmp_path / "photos" / "c.prompt.safetensors"), tokens)
    (tmp_path / "list.csv").write_text("path,caption\nphotos/d.jpg,\n")
    assert cli.main(["embed-prompt", str(tmp_path / "sd"), "--captions", str(tmp_path / "list.csv")]) == 2
    assert "1 of 1 rows have no caption" in capsys.readouterr().err
    assert cli.main(["embed-prompt", str(tmp_path / "sd")]) == 2 and "with -o" in capsys.readouterr().err
    assert cli.main(["embed-prompt", str(tmp_path / "sd"), "--captions", str(tmp_path / "sd" / "unet")]) == 2
    shutil.rmtree(tmp_path / "sd" / "tokenizer")
    assert cli.main(["embed-prompt", str(tmp_path / "sd"), "-o", str(out)]) == 2
    assert "lacks tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("tokens", [256, 512])
def test_the_length_is_written_and_checked(encoders, tmp_path, tokens):
    """ComfyUI pads FLUX's T5 to 256 tokens, UltraFlux and OMGSR to 512."""
    path = tmp_path / "prompt.safetensors"
    words = ["embed-prompt", str(encoders), "-o", str(path), "--tokens", str(tokens)]
    assert cli.main(words) == 0
    with safe_open(path, "pt") as file:
        assert file.metadata()["tokens"] == str(tokens)
    assert load_prompt(path)[0].shape[1] == tokens
    cut = load_file(path)
    cut["prompt_embeds"] = cut["prompt_embeds"][:, :100].contiguous()
    save_file(cut, path, metadata={"tokens": str(tokens)})
    with pytest.raises(WeightsError, match=rf"prompt\.safetensors.*{tokens}.*100"):
        load_prompt(path)


def test_a_unets_tokens_are_checked_too(tmp_path):
    path = tmp_path / "prompt.safetensors"
    save_file({"prompt_embeds": torch.randn(1, 7, 24)}, path, metadata={"tokens": "77"})
    with pytest.raises(WeightsError, match=r"prompt\.safetensors.*\b77\b.*\b7\b"):
        load_tokens(path)
    save_file({"prompt_embeds": torch.randn(1, 7, 24)}, path)
    assert load_tokens(path).shape == (1, 7, 24)


def test_the_negative_prompt_ships_as_text(encoders, tmp_path):
    """OSEDiff's README trains with it: 22 terms, the last over-smooth."""
    path = tmp_path / "negative.safetensors"
    assert cli.main(["embed-prompt", str(encoders), "-o", str(path), "--negative", "--tokens", "64"]) == 0
    with safe_open(path, "pt") as file:
        terms = file.metadata()["prompt"].split(", ")
    assert len(terms) == 22 and terms[0] == "painting" and terms[-1] == "over-smooth"
