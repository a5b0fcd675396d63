"""The packages that read and write TIFF and 16 bits per channel, which Pillow does only in part."""

from ..errors import ImageError

_DEEP = (
    "TIFF and colour pictures of 16 bits per channel need the packages pypng, tifffile and imagecodecs: "
    "pip install 'op4ksr[cli]', or convert the picture to PNG of 8 bits."
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
