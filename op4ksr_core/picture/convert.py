"""Between Pillow pictures and tensors. (diffusers' image processor would do, and take seven seconds to import.)"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def as_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255).movedim(-1, 0)


def as_picture(image_chw: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] -> RGB picture."""
    return Image.fromarray((image_chw.clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu().numpy())
