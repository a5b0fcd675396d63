"""What a picture must be, checked once at each public door."""

from torch import Tensor

from ..errors import ImageError


def check_image(image_bchw: Tensor, what: str = "A picture batch") -> None:
    """Raises ImageError unless `what` is a tensor (B, 3, H, W), floating, finite and within [0, 1]."""
    if not isinstance(image_bchw, Tensor):
        raise ImageError(f"{what} is a tensor (B, 3, H, W), got {type(image_bchw).__name__}.")
    if image_bchw.ndim != 4 or image_bchw.shape[1] != 3 or 0 in image_bchw.shape:
        raise ImageError(f"{what} is (B, 3, H, W) with no empty side, got {list(image_bchw.shape)}.")
    if not image_bchw.is_floating_point():
        raise ImageError(f"{what} is floating point in [0, 1], got {image_bchw.dtype}. Divide bytes by 255.")
    low, high = (float(v) for v in image_bchw.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ImageError(f"{what} must lie in [0, 1], got {low:g} to {high:g} (NaN counts as outside).")
