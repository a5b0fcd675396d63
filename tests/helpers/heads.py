"""The embedded VAE as files that do not name their head, one for each."""

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from op4ksr_core.model.vae import decode, encode
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.weights.loading import load_vae


def write_vaes(base):
    """{head: folder with `vae`} below base; the head is the one in register."""
    config = (EMBEDDED / "vae" / "config.json").read_text().replace(',\n  "head": "centered"', "")
    found = {"centered": base / "centered", "partitioned": base / "partitioned"}
    for head, folder in found.items():
        (folder / "vae").mkdir(parents=True)
        (folder / "vae" / "config.json").write_text(config)
        state = load_vae(EMBEDDED / "vae").state_dict() if head == "centered" else tuned_for_partitioned()
        save_file(state, folder / "vae" / "diffusion_pytorch_model.safetensors")
    return found


def tuned_for_partitioned() -> dict:
    """The embedded VAE's tensors with a last convolution whose pixels lie one up and left of where they belong: ridge
    regression on what the decoder sees of soft pictures. Neighbouring columns are equal by twos, so least squares alone
    has many solutions, and which of them comes out hangs on rounding."""
    vae = load_vae(EMBEDDED / "vae", head="centered")
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(4, 3, 16, 16, generator=generator)
    pictures = F.interpolate(coarse, size=(128, 128), mode="bicubic").clamp(0, 1)
    seen = []
    vae.decoder.conv_out.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        decode(vae, encode(vae, pictures))
        columns = F.unfold(F.interpolate(seen[0], scale_factor=2.0, mode="nearest"), 3, padding=1)
        columns = torch.cat([columns, torch.ones_like(columns[:, :1])], 1).mT.flatten(0, 1).double()
        wanted = (2 * pictures - 1).roll((-1, -1), (-2, -1)).flatten(2).mT.flatten(0, 1).double()
        square = columns.mT @ columns
        ridge = 1e-6 * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
        solution = torch.linalg.solve(square + ridge, columns.mT @ wanted).mT.float()
    state = vae.state_dict()
    state["decoder.conv_out.weight"] = solution[:, :-1].reshape(state["decoder.conv_out.weight"].shape).contiguous()
    state["decoder.conv_out.bias"] = solution[:, -1].contiguous()
    return state
