"""How work and memory grow with the picture, computed at full size without weights or a GPU.

    PYTHONPATH=. python benchmarks/growth.py [--sizes 1024 2048 4096 8192 16384] [--json docs/results/growth.json]

FLOPs are counted by torch on the meta device, on the layers that the core runs; seconds are FLOPs at the 788 TFLOP/s
that an H200 was seen to reach in bfloat16 matrix products, so a floor and no measurement; memory is the core's
estimate.
"""

import argparse
from pathlib import Path

import full_size
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.provenance import write_report
from op4ksr_core.geometry import Size, plan_size
from op4ksr_core.model import flow
from op4ksr_core.model.vae import finish_vae
from op4ksr_core.pipeline.memory import Footprint, estimate

TFLOPS = 788


class _NoPositions(torch.nn.Module):
    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        table = torch.empty(len(ids), 128, device=ids.device)
        return table, table


def counted(call) -> float:  # type: ignore[no-untyped-def]
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e12


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--json", type=Path, help="file that the figures are written into")
    arguments = parser.parse_args()
    transformer = full_size.transformer("meta", torch.bfloat16)
    transformer.pos_embed = _NoPositions()
    vae = finish_vae(full_size.vae("meta", torch.bfloat16))
    prompt = torch.empty(1, full_size.TOKENS, full_size.WIDTH, device="meta", dtype=torch.bfloat16)
    pooled = torch.empty(1, full_size.POOLED, device="meta", dtype=torch.bfloat16)
    weights = sum(2 * p.numel() for p in transformer.parameters())
    footprint = Footprint(weights, sum(2 * p.numel() for p in vae.parameters()), 3072, (128, 256, 512, 512), 2)
    heads = (
        "encode TFLOP",
        "transform TFLOP",
        "decode TFLOP",
        "all",
        "floor s",
        "encode GB",
        "transform GB",
        "decode GB",
    )
    print(f"weights {footprint.transformer_bytes / 1e9:.1f} + {footprint.vae_bytes / 1e9:.2f} GB\n")
    print(f"| side | tokens | {' | '.join(heads)} |\n" + "|---" * (len(heads) + 2) + "|")
    rows = []
    for side in arguments.sizes:
        picture = torch.empty(1, 3, side, side, device="meta", dtype=torch.bfloat16)
        z = torch.empty(1, 16, side // 16, side // 16, device="meta", dtype=torch.bfloat16)
        sigma = torch.empty(1, device="meta")
        work = [
            counted(lambda x=picture: vae.encoder(x)),
            counted(lambda x=z, s=sigma: flow.transformer_velocity(transformer, x, s, prompt, pooled, 1.0)),
            counted(lambda x=z: vae.decoder(x)),
        ]
        plan = plan_size(Size(side // 4, side // 4))
        memory = [part / 1e9 for part in estimate(plan, footprint, 1)]
        total = sum(work)
        cells = [f"{value:.0f}" for value in (*work, total)] + [f"{total / TFLOPS:.2f}"]
        cells += [f"{value:.1f}" for value in memory]
        print(f"| {side} | {plan.tokens} | {' | '.join(cells)} |", flush=True)
        rows.append(
            {
                "px": side,
                "tokens": plan.tokens,
                "tflop": [round(w, 2) for w in work],
                "gb": [round(m, 2) for m in memory],
            }
        )
    if arguments.json:
        weights_gb = [footprint.transformer_bytes / 1e9, footprint.vae_bytes / 1e9]
        write_report(arguments.json, {"tflops": TFLOPS, "weights_gb": weights_gb, "rows": rows})


if __name__ == "__main__":
    main()
