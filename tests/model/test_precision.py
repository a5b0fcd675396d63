"""Which device and dtype are taken by themselves, with the answers of cards that are not here."""

import time
from types import SimpleNamespace

import pytest
import torch

from op4ksr_core.model import precision


@pytest.fixture
def card(monkeypatch):
    """Makes PyTorch answer for cards of a compute capability."""

    def made(capability, gigabytes, count=1):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        properties = SimpleNamespace(name="Some card", total_memory=gigabytes * 1e9)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        return torch.device("cuda", 0)

    return made


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_bfloat16_is_taken_on_cards_that_have_it(card, capability, dtype):
    assert precision.default_dtype(card(capability, 4)) is dtype


def test_the_log_names_card_memory_and_reason(card):
    told = precision.device_line(card((7, 5), 4, count=2), torch.float32)
    assert (
        told
        == "device: cuda:0, Some card, 4.0 GB, one of 2 (--device takes another), float32 (no bfloat16 in hardware)"
    )


def test_a_cuda_build_without_a_usable_card_says_why_the_cpu_is_taken(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with caplog.at_level("INFO", "op4ksr"):
        assert precision.default_device() == torch.device("cpu")
    assert "13.0" in caplog.text


@pytest.mark.parametrize("slower", [torch.float32, torch.bfloat16])
def test_a_cpu_takes_bfloat16_where_it_is_faster(monkeypatch, slower):
    convolve = torch.nn.functional.conv2d

    def delayed(x, *arguments, **options):
        time.sleep(0.02 if x.dtype is slower else 0)
        return convolve(x, *arguments, **options)

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.nn.functional, "conv2d", delayed)
    precision._is_faster_on_this_cpu.cache_clear()
    before = torch.get_rng_state()
    assert precision.half_is_fast(torch.device("cpu")) is (slower is torch.float32)
    assert torch.equal(before, torch.get_rng_state())  # a look at the machine changes no seeded run
    precision._is_faster_on_this_cpu.cache_clear()
