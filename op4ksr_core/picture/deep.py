"""The packages that read and write 16 bits per channel, which Pillow does not."""

from ..errors import ImageError

_DEEP = (
    "Colour pictures of 16 bits per channel need the packages pypng and tifffile: pip install 'op4ksr[cli]', "
    "or convert the picture to 8 bits."
)


def tifffile_module():  # noqa: ANN202
    try:
        import tifffile
    except ImportError as error:
        raise ImageError(_DEEP) from error
    return tifffile


def png_module():  # noqa: ANN202
    try:
        import png
    except ImportError as error:
        raise ImageError(_DEEP) from error
    return png
