"""What a device is good at."""

import torch


def half_is_fast(device: torch.device) -> bool:
    """Whether bfloat16 pays: on CUDA, and on CPUs that have it. Others emulate it, a hundred times slower."""
    return device.type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
