"""The Triton kernels of a group norm, on the CPU through Triton's interpreter, in a process of its own."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed (pip install triton, on Linux)")

PROGRAM = """
import torch
from builders import make_vae
from torch import nn
from torch.nn import functional as F
from op4ksr_core.model import group_norm, vae, vae_passes

torch.manual_seed(0)
torch.set_grad_enabled(False)
group_norm.WAY["cpu"] = "triton"

def close(norm, x, tolerance):
    exact = F.silu(F.group_norm(x.double(), norm.num_groups, norm.weight.double(), norm.bias.double(), norm.eps))
    made = group_norm.norm_silu(norm, x)
    assert made.dtype == x.dtype and made.is_contiguous(memory_format=torch.channels_last)
    error = float((made.double() - exact).abs().max())
    assert error < tolerance, error

for channels, groups, side in ((32, 8, 37), (48, 6, 20)):  # 48: no power of two; 37: no whole tile
    norm = nn.GroupNorm(groups, channels)
    norm.weight.copy_(torch.rand(channels)); norm.bias.copy_(torch.randn(channels))
    x = torch.randn(2, channels, side, side + 5).contiguous(memory_format=torch.channels_last)
    close(norm, x, 1e-5)
    close(norm, x + 300, 1e-3)  # a mean of 300 deviations
    close(norm, x.bfloat16(), 0.05)  # half a step of bfloat16 at 8 to 16

model = vae.finish_vae(make_vae())
picture = torch.rand(1, 3, 32, 48)
by_kernels = [vae.decode(model, vae.encode(model, picture))]
group_norm.WAY["cpu"] = "torch"
plain = vae.decode(model, vae.encode(model, picture))
group_norm.WAY["cpu"] = "triton"
with vae_passes.passing(model.decoder, "strips", "decode", lambda *_: None):
    by_kernels.append(vae.decode(model, vae.encode(model, picture)))
for made in by_kernels:
    torch.testing.assert_close(made, plain, atol=1e-5, rtol=1e-4)
print("equal")
"""


@pytest.mark.slow
def test_kernels_are_equal_to_pytorch_s_norm_whole_and_in_strips():
    told = {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | told, capture_output=True, text=True)
    assert run.stdout.endswith("equal\n"), run.stderr[-2000:]
