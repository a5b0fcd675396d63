import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from op4ksr_core.errors import MemoryPlanError
from op4ksr_core.geometry import Size, plan_size, plan_target
from op4ksr_core.pipeline.memory import Footprint, estimate, make_memory_plan
from op4ksr_core.pipeline.upscaler import Upscaler

FLUX = Footprint(int(23.8e9), int(0.17e9), 3072, (128, 256, 512, 512), 2)


def test_work_grows_with_the_pixels():
    small, large = (estimate(plan_size(Size(n, n)), FLUX, 1) for n in (512, 1024))
    assert all(b == pytest.approx(4 * a, rel=0.01) for a, b in zip(small, large, strict=True))
    assert estimate(plan_size(Size(512, 512)), FLUX, 2)[0] == 2 * small[0]


def test_f16_works_in_a_quarter_of_f8():
    f8, f16 = (plan_target(Size(1024, 1024), Size(4096, 4096), latent_factor=factor) for factor in (8, 16))
    assert estimate(f8, FLUX, 1)[2] > 2.5 * estimate(f16, FLUX, 1)[2]


@pytest.mark.parametrize(("free", "residency"), [(200e9, "resident"), (28e9, "reload")])
def test_the_cpu_chooses_between_resident_and_reload(monkeypatch, free, residency):
    monkeypatch.setattr("op4ksr_core.pipeline.memory.host_bytes", lambda: free)
    big = Footprint(int(24e9), int(8e9), 3072, (128, 256, 512, 512), 2)
    plan = make_memory_plan(plan_size(Size(256, 256)), big, 1, torch.device("cpu"))
    assert plan.residency == residency and plan.peak <= plan.available
    assert residency in str(plan) and "GB" in str(plan)


@pytest.mark.parametrize(
    ("free", "host", "residency"),
    [(80e9, 64e9, "resident"), (28e9, 64e9, "offload"), (12e9, 64e9, "stream"), (28e9, 16e9, "reload")],
)
def test_a_gpu_chooses_the_least_laborious_way(monkeypatch, free, host, residency):
    monkeypatch.setattr("op4ksr_core.pipeline.memory.host_bytes", lambda: host)
    monkeypatch.setattr("op4ksr_core.pipeline.memory.available_bytes", lambda device: free)
    flux = replace(FLUX, stream_bytes=int(2.5e9))
    plan = make_memory_plan(plan_size(Size(1024, 1024)), flux, 1, torch.device("cuda"))
    assert plan.residency == residency and plan.peak <= free


@pytest.mark.parametrize(("free", "how"), [(80e9, "whole"), (5e9, "strips"), (4e9, "frugal")])
def test_the_vae_goes_in_strips_where_one_pass_does_not_fit(monkeypatch, free, how):
    monkeypatch.setattr("op4ksr_core.pipeline.memory.host_bytes", lambda: 64e9)
    monkeypatch.setattr("op4ksr_core.pipeline.memory.available_bytes", lambda device: free)
    plan = make_memory_plan(plan_size(Size(1024, 1024)), replace(FLUX, stream_bytes=int(1e9)), 1, torch.device("cuda"))
    assert plan.vae_pass == how and plan.peak <= free


def test_what_fits_in_no_way_is_an_error(monkeypatch):
    monkeypatch.setattr("op4ksr_core.pipeline.memory.host_bytes", lambda: 64e9)
    monkeypatch.setattr("op4ksr_core.pipeline.memory.available_bytes", lambda device: 2e9)
    with pytest.raises(MemoryPlanError, match=r"4096x4096.* 2\.0 GB .*stream, VAE frugal"):
        make_memory_plan(plan_size(Size(1024, 1024)), FLUX, 1, torch.device("cuda"))


@pytest.fixture
def small_card(monkeypatch):
    """A card of 4 GB, of which the driver leaves 3.7, in a machine of 64 GB."""
    monkeypatch.setattr("op4ksr_core.pipeline.memory.host_bytes", lambda: 64e9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (int(3.7e9), int(4e9)))
    return torch.device("cuda")


def test_the_embedded_model_stays_whole_on_4_gb(small_card, caplog):
    embedded = Upscaler.from_embedded(device="cpu").host.footprint
    with caplog.at_level("WARNING", "op4ksr"):
        plan = make_memory_plan(plan_size(Size(1024, 1024)), replace(embedded, itemsize=2), 1, small_card)
    assert (plan.residency, plan.vae_pass) == ("resident", "whole") and not caplog.records


FLUX_FP8 = replace(FLUX, transformer_bytes=int(11.9e9), stream_bytes=int(1.1e9))
"""In 8 bits; three double blocks and what is in none."""


@pytest.mark.parametrize(("side", "how"), [(512, "whole"), (768, "strips"), (1024, "frugal")])
def test_flux_in_8_bits_is_streamed_on_4_gb_and_the_log_says_why(small_card, caplog, side, how):
    plan = make_memory_plan(plan_size(Size(side, side)), FLUX_FP8, 1, small_card)
    assert (plan.residency, plan.vae_pass) == ("stream", how) and plan.peak <= plan.available == int(3.7e9)
    [record] = caplog.records
    assert record.levelname == "WARNING" and "weights 12.1 GB" in record.message
    assert f"{plan.peak / 1e9:.1f} GB of 3.7 GB available -> stream, VAE {how}" in record.message


def test_flux_in_16_bits_at_4096_px_is_refused_on_4_gb_before_it_starts(small_card):
    flux = replace(FLUX, stream_bytes=int(2.2e9))
    with pytest.raises(MemoryPlanError, match=r"4096x4096.* 3\.7 GB "):
        make_memory_plan(plan_size(Size(1024, 1024)), flux, 1, small_card)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_the_estimate_holds_for_a_real_run():
    """The peak of a process of its own stays under the estimate, and not far under it."""
    code = """
import re, torch
from op4ksr_core import Upscaler
upscaler = Upscaler.from_embedded(device="cpu")
upscaler(torch.rand(1, 3, 640, 640))
# Not ru_maxrss: that would count the process this one was forked from.
status = open("/proc/self/status").read()
print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024, upscaler.last_memory_plan.peak)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, estimated = (float(v) for v in done.stdout.split())
    assert 0.6 * estimated < peak < estimated, (peak, estimated)
