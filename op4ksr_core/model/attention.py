"""Which of PyTorch's attention kernels a model is run with."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn import attention

from ..errors import SettingError
from ..settings import ATTENTIONS, check_choice

_KERNELS = {
    "flash": "FLASH_ATTENTION",
    "cudnn": "CUDNN_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
    "math": "MATH",
}
_REFUSALS = ("No available kernel", "No viable backend")
"""What PyTorch says, on CUDA and on a CPU, where the one kernel that it may take cannot run."""

_ADD_ONS = {"fa3": "FA3", "fa4": "FA4"}
"""Flash attention 3 and 4, packages of their own that PyTorch can put in its flash kernel's place."""


@contextmanager
def attention_kernel(name: str) -> Iterator[None]:
    """Inside, `scaled_dot_product_attention` runs by the named kernel and no other.

    Raises SettingError where the name is unknown, an add-on is not installed, or the kernel cannot run what it is
    given (device, dtype or head size).
    """
    check_choice("Attention", name, ATTENTIONS)
    if name == "auto":
        yield
        return
    kernel = attention.SDPBackend.__members__[_KERNELS["flash" if name in _ADD_ONS else name]]
    with _add_on(name), attention.sdpa_kernel(kernel):
        try:
            yield
        except RuntimeError as error:
            if not any(words in str(error) for words in _REFUSALS):
                raise
            raise SettingError(
                f"Attention {name!r} cannot run this model on this device. Take another, or auto."
            ) from error


@contextmanager
def trainable_kernels() -> Iterator[None]:
    """Inside, attention runs by any kernel but cuDNN's, which PyTorch takes by itself on some cards and whose gradient
    can be NaN: on an H200 with torch 2.11 in bfloat16, of 68 tokens after 1,028. The other kernels' was not."""
    kernels = [attention.SDPBackend.__members__[name] for key, name in _KERNELS.items() if key != "cudnn"]
    with attention.sdpa_kernel(kernels):
        yield


@contextmanager
def _add_on(name: str) -> Iterator[None]:
    if name not in _ADD_ONS:
        yield
        return
    try:
        attention.activate_flash_attention_impl(_ADD_ONS[name])
    except (AttributeError, ImportError, RuntimeError, ValueError) as error:
        raise SettingError(
            f"Attention {name!r} is not there ({error}): it wants its package and a PyTorch that takes it."
        ) from error
    try:
        yield
    finally:
        attention.restore_flash_attention_impl()
