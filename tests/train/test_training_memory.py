"""The training's memory plan against what autograd really keeps."""

from dataclasses import replace

import pytest
import torch

from op4ksr_core.geometry import Size
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.train.memory import kept_for_backward, largest_crop, meta_model, plan_training
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
    assert a.activations == pytest.approx(b.activations, rel=0.05) and (a.frozen, a.lora) == (b.frozen, b.lora)
    assert a.lora == 16 * sum(p.numel() for p in real.trainable().values())


def really_kept(model):
    """A plain count over saved tensors, each storage once, no weights: what a slow reader would do."""
    kept, weights, held = {}, {p.untyped_storage().data_ptr() for p in model.parameters()}, []

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(storage)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model(torch.rand(1, 3, 32, 32), Size(128, 128))
    return sum(kept.values())


def test_what_is_counted_is_what_autograd_keeps(real):
    counted = kept_for_backward(real, torch.rand(1, 3, 32, 32), Size(128, 128), False)
    assert counted == pytest.approx(really_kept(real), rel=0.02)


def test_checkpointing_really_keeps_less(real):
    sparing = FlowStrategy.load(Sources.find(EMBEDDED), replace(SETTINGS, checkpointing=True))
    assert really_kept(sparing) < 0.3 * really_kept(real)


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
    assert alone.lora - four.lora == pytest.approx(0.75 * 16 * sum(p.numel() for p in transformer if p in trained))
    assert four.activations == pytest.approx(alone.activations, rel=0.01)
