"""The training's memory plan against what autograd really keeps."""

from dataclasses import replace

import pytest
import torch
from saved_tensors import really_kept

from op4ksr_core.geometry import Size
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.train import memory
from op4ksr_core.train.gan import window_of
from op4ksr_core.train.losses.adversarial import PatchCritic
from op4ksr_core.train.memory import kept_for_backward, largest_crop, loss_networks, meta_model, plan_training
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.strategies.flow import FlowStrategy
from op4ksr_core.weights.sources import Sources

SETTINGS = replace(PRESETS["embedded"], per_device=1, crop=128)


@pytest.fixture(scope="module")
def real():
    return FlowStrategy.load(Sources.find(EMBEDDED), SETTINGS)


@pytest.fixture(scope="module")
def meta():
    return meta_model(Sources.find(EMBEDDED), SETTINGS)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_plan_without_weights_is_the_plan_with_them(real, meta, checkpointing):
    settings = replace(SETTINGS, checkpointing=checkpointing)
    a, b = plan_training(real, settings), plan_training(meta, settings)
    assert a.activations == pytest.approx(b.activations, rel=0.05) and (a.frozen, a.trained) == (b.frozen, b.trained)
    assert a.trained == 16 * sum(p.numel() for p in real.trainable().values())


def kept_by_a_step(model):
    return really_kept(model, torch.rand(1, 3, 32, 32), Size(128, 128))


def test_what_is_counted_is_what_autograd_keeps(real):
    counted = kept_for_backward(real, (torch.rand(1, 3, 32, 32), Size(128, 128)), False)
    assert counted == pytest.approx(kept_by_a_step(real), rel=0.02)


def test_checkpointing_really_keeps_less(real):
    sparing = FlowStrategy.load(Sources.find(EMBEDDED), replace(SETTINGS, checkpointing=True))
    assert kept_by_a_step(sparing) < 0.3 * kept_by_a_step(real)


@pytest.mark.long
def test_memory_grows_with_crop_and_shrinks_with_checkpointing(meta):
    sizes = [plan_training(meta, SETTINGS, crop).activations for crop in (128, 256, 512)]
    assert 3 < sizes[1] / sizes[0] < 5 and 3 < sizes[2] / sizes[1] < 5
    assert plan_training(meta, replace(SETTINGS, checkpointing=True)).activations < 0.7 * sizes[0]


@pytest.mark.slow
def test_the_largest_crop_fits_and_the_next_does_not(meta):
    crop = largest_crop(meta, SETTINGS, 2e9)
    assert plan_training(meta, SETTINGS, crop).total <= 2e9 < plan_training(meta, SETTINGS, crop + 256).total
    assert largest_crop(meta, SETTINGS, 1e6) is None


def test_a_sharded_transformer_takes_its_share(meta):
    alone, four = plan_training(meta, SETTINGS), plan_training(meta, SETTINGS, shards=4)
    transformer, trained = list(meta.transformer.parameters()), set(meta.trainable().values())
    frozen = sum(4 * p.numel() for p in transformer if p not in trained)
    blocks = [*meta.transformer.transformer_blocks, *meta.transformer.single_transformer_blocks]
    borrowed = 2 * max(sum(4 * p.numel() for p in block.parameters()) for block in blocks)
    assert alone.frozen - four.frozen == pytest.approx(0.75 * frozen - borrowed)
    learned = sum(p.numel() for p in transformer if p in trained)
    assert alone.trained - four.trained == pytest.approx(0.75 * 16 * learned)
    assert four.activations == pytest.approx(alone.activations, rel=0.01)


def critic_settings(folder, window):
    losses = replace(SETTINGS.losses, adversarial=0.1)
    return replace(SETTINGS, losses=losses, critic="features", features=str(folder), gan_window=window)


@pytest.fixture(scope="module")
def convnexts(tmp_path_factory):
    """Folders with the config.json of ConvNeXt tiny, base and large; no weights."""
    from transformers import ConvNextConfig

    shapes = {
        "tiny": ([96, 192, 384, 768], [3, 3, 9, 3]),
        "base": ([128, 256, 512, 1024], [3, 3, 27, 3]),
        "large": ([192, 384, 768, 1536], [3, 3, 27, 3]),
    }
    root = tmp_path_factory.mktemp("convnext")
    for name, (widths, depths) in shapes.items():
        ConvNextConfig(hidden_sizes=widths, depths=depths).save_pretrained(root / name)
    return root


@pytest.mark.long
@pytest.mark.parametrize(("name", "least", "most"), [("tiny", 13, 22), ("base", 24, 43), ("large", 36, 64)])
def test_a_critic_of_4096_px_takes_what_was_found_and_a_window_of_1024_little(convnexts, name, least, most):
    """Found: 13 to 22 GB (tiny), 24 to 43 (base), 36 to 64 (large) for the whole picture, weights not counted."""
    whole = loss_networks(critic_settings(convnexts / name, 0), 4096) / 1e9
    part = loss_networks(critic_settings(convnexts / name, 1024), 4096) / 1e9
    print(f"{name}: {whole:.1f} GB, in a window {part:.1f} GB")
    assert least <= whole <= most + 1.5 and part < 0.15 * whole + 1


def test_what_a_critic_keeps_is_what_autograd_keeps():
    critic = PatchCritic().requires_grad_(False)
    shown = torch.rand(1, 3, 128, 128, requires_grad=True)
    kept = really_kept(critic, shown)
    settings = replace(SETTINGS, losses=replace(SETTINGS.losses, adversarial=0.1), critic="patch")
    weights_bytes = 16.0 * sum(p.numel() for p in critic.parameters())
    assert loss_networks(settings, 128) - weights_bytes == pytest.approx(kept, rel=0.05)


@pytest.mark.long
def test_a_search_for_the_largest_crop_makes_the_critic_once(convnexts, meta, monkeypatch):
    made, make = [], memory.meta_critic

    def noted(*about):
        made.append(about)
        return make(*about)

    monkeypatch.setattr(memory, "meta_critic", noted)
    memory._critic.cache_clear()
    settings = critic_settings(convnexts / "tiny", 256)
    assert largest_crop(meta, settings, 1e6, most=768) is None  # after three crops
    assert made == [("features", str(convnexts / "tiny"))]


def test_lpips_counts_one_window(meta):
    settings = replace(SETTINGS, losses=replace(SETTINGS.losses, lpips=1.0), lpips_weights="x")
    assert loss_networks(settings, 4096) == loss_networks(settings, 256) > loss_networks(settings, 128)
    assert plan_training(meta, settings).losses == loss_networks(settings, SETTINGS.crop)


def test_the_critic_sees_one_place_of_truth_and_result():
    x = torch.rand(2, 3, 90, 200)
    seen = [window_of(x, 64, seed) for seed in range(5)]
    assert {part.shape for part in seen} == {(2, 3, 64, 64)} and not torch.equal(seen[0], seen[1])
    assert torch.equal(window_of(x, 64, 3), seen[3]) and torch.equal(window_of(x, 0, 1), x)
    assert torch.equal(window_of(x, 200, 1), x)
