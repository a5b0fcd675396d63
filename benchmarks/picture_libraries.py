"""How rightly a library reads and writes files: `python benchmarks/picture_libraries.py [ours oiio vips codecs]`.

Reading: the pictures of the fault sweep (../shared/faults) at their own size; right is what the sweep calls right.
Writing: one RGBA picture with profile, EXIF, XMP, IPTC, resolution, a text and cICP, and which a second reader finds.
"""

import collections
import io
import os
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT.parent / "shared" / "faults")]
REFUSED = 1.0
"""An alpha of 1 everywhere counts as none."""


def by_oiio(path):
    import OpenImageIO as oiio

    config = oiio.ImageSpec()
    config["oiio:UnassociatedAlpha"] = 1
    file = oiio.ImageInput.open(path, config)
    if file is None:
        raise ValueError(oiio.geterror())
    spec = file.spec()
    array = file.read_image("float")
    if array is None or file.geterror():
        raise ValueError("short data")
    alpha = array[..., spec.alpha_channel] if 0 <= spec.alpha_channel < array.shape[-1] else None
    icc = spec.get("ICCProfile")
    turned = turn(array[..., :3] if spec.nchannels >= 3 else array[..., :1], spec.get_int_attribute("Orientation", 1))
    return turned, alpha, None if icc is None else bytes(icc)


def by_vips(path):
    import pyvips

    image = pyvips.Image.new_from_file(path, fail_on="truncated")
    icc = image.get("icc-profile-data") if "icc-profile-data" in image.get_fields() else None
    image = image.autorot()
    if image.interpretation in ("cmyk", "lab", "labs"):
        image = image.colourspace("srgb")
    return *parted(image.numpy()), icc


def by_codecs(path):
    import imagecodecs

    return *parted(imagecodecs.imread(path)), None


def by_ours(path):
    from op4ksr_core.picture.read import read_picture

    picture = read_picture(path)
    alpha = None if picture.alpha is None else picture.alpha[0, 0].numpy()
    return picture.rgb[0].movedim(0, -1).numpy(), alpha, picture.icc


READERS = {"ours": by_ours, "oiio": by_oiio, "vips": by_vips, "codecs": by_codecs}


def turn(array, orientation):
    from op4ksr_core.picture.orientation import orient

    return orient(array, orientation)


def parted(array):
    """Colour and alpha of unsigned integers."""
    top = {"uint8": 255, "uint16": 65535, "bool": 1}.get(str(array.dtype))
    if top is None or array.ndim not in (2, 3):
        raise ValueError(f"{array.dtype} of {array.ndim} dimensions")
    array = np.atleast_3d(array).astype(np.float32) / top
    alpha = array[..., -1] if array.shape[-1] in (2, 4) else None
    return array[..., :3] if array.shape[-1] >= 3 else array[..., :1], alpha


def verdict(file, reader, path):
    import g1_pictures as sweep

    try:
        rgb, alpha, icc = reader(path)
    except Exception:  # every library fails in its own way
        return "refuses a good file" if file.want == "done" else "right"
    if file.want == sweep.REFUSED:
        return "takes damage in silence"
    if file.rgb is None:
        return "right"
    wanted = np.broadcast_to(file.rgb, (*file.rgb.shape[:2], 3))
    got = np.broadcast_to(rgb, (*rgb.shape[:2], 3))
    seen = np.ones(wanted.shape[:2], bool) if file.alpha is None else file.alpha > 0.1
    if wanted.shape != got.shape:
        return "wrong size"
    if (file.alpha is None) != (alpha is None) and not (alpha is not None and alpha.min() == REFUSED):
        return "alpha lost or made up"
    if seen.any() and np.abs(wanted - got)[seen].mean() * 255 > file.tol + 1:
        return "wrong colours"
    return "profile lost" if file.icc is not None and icc != file.icc else "right"


def read_all(name):
    import g1_pictures as sweep

    groups = (sweep.pillow_modes, sweep.deep_and_raw_png, sweep.tiffs, sweep.broken_exif, sweep.damaged, sweep.sizes)
    folder, counts = Path(tempfile.mkdtemp()), collections.Counter()
    for number, file in enumerate(file for make in groups for file in make()):
        path = folder / f"{number}{Path(os.fsdecode(file.name)).suffix}"
        path.write_bytes(file.data)
        counts[verdict(file, READERS[name], str(path))] += 1
    return counts


def write_by_oiio(path, array, facts):
    import OpenImageIO as oiio

    spec = oiio.ImageSpec(array.shape[1], array.shape[0], 4, "uint16" if array.dtype == np.uint16 else "uint8")
    spec["oiio:UnassociatedAlpha"] = 1
    for key in ("XResolution", "YResolution"):
        spec[key] = 300.0
    spec["ResolutionUnit"] = "in"
    spec["Make"], spec["parameters"], spec["IPTC:Caption"] = "Maker", "a tree", "caption"
    spec["Exif:DateTimeOriginal"] = "2026:01:02 03:04:05"
    spec.attribute("CICP", oiio.TypeDesc("int[4]"), [12, 13, 0, 1])
    spec.attribute("ICCProfile", oiio.TypeDesc(f"uint8[{len(facts['icc'])}]"), np.frombuffer(facts["icc"], np.uint8))
    out = oiio.ImageOutput.create(str(path))
    if not (out.open(str(path), spec) and out.write_image(array)):
        raise ValueError(out.geterror())
    out.close()


def write_by_vips(path, array, facts):
    import pyvips

    image = pyvips.Image.new_from_array(array).copy(interpretation="rgb16" if array.dtype == np.uint16 else "srgb")
    image = image.copy(xres=300 / 25.4, yres=300 / 25.4)
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", facts["icc"])
    image.set_type(pyvips.GValue.blob_type, "xmp-data", facts["xmp"])
    image.set_type(pyvips.GValue.blob_type, "iptc-data", facts["iptc"])
    image.set_type(pyvips.GValue.blob_type, "exif-data", facts["exif"])
    image.set_type(pyvips.GValue.gstr_type, "png-comment-0-parameters", "a tree")
    image.write_to_file(str(path))


def write_by_ours(path, array, facts):
    import torch

    from op4ksr_core.picture.colour_space import stated_colour
    from op4ksr_core.picture.read import Picture
    from op4ksr_core.picture.write import write_picture

    planes = torch.from_numpy(array.astype(np.float32) / np.iinfo(array.dtype).max).permute(2, 0, 1)[None]
    stated = stated_colour(path, {b"cICP": bytes([12, 13, 0, 1])}, True)[0]
    kept = {
        "texts": (("parameters", "a tree"),),
        "dpi": (300.0, 300.0),
        "stated": stated if path.suffix == ".png" else None,
    }
    write_picture(path, Picture(planes[:, :3], planes[:, 3:], depth=8 * array.itemsize, **facts, **kept))


WRITERS = {"ours": write_by_ours, "oiio": write_by_oiio, "vips": write_by_vips}


def write_all(name):
    """What a second reader finds of each of four files."""
    from PIL import ImageCms

    exif = Image.Exif()
    exif[271], exif[0x8769] = "Maker", {0x9003: "2026:01:02 03:04:05"}
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    facts = {"icc": icc, "exif": exif.tobytes(), "xmp": xmp, "iptc": b"\x1c\x02\x78\x00\x07caption"}
    for suffix in (".png", ".tif"):
        for dtype in (np.uint8, np.uint16):
            array = np.random.default_rng(0).integers(1, np.iinfo(dtype).max, (24, 32, 4), dtype=dtype)
            path = Path(tempfile.mkdtemp()) / f"a{suffix}"
            try:
                WRITERS[name](path, array, facts)
            except Exception as error:  # every library fails in its own way
                print(f"  {suffix} {dtype.__name__}: fails: {error}")
                continue
            print(f"  {suffix} {dtype.__name__}: {', '.join(found_in(path, array, icc))}")


def found_in(path, array, icc):
    import imagecodecs

    data = path.read_bytes()
    pixels = imagecodecs.imread(data)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        own = dict(image.getexif().get_ifd(0x8769))
        checks = {
            "pixels": pixels.shape == array.shape and int(np.abs(pixels.astype(int) - array).max()) == 0,
            "profile": image.info.get("icc_profile") == icc,
            "EXIF texts": b"Maker" in data,
            "EXIF directory": own.get(0x9003) == "2026:01:02 03:04:05",
            "XMP": b"xmpmeta" in data or "xmpmeta" in str(image.info),
            "IPTC": b"caption" in data,
            "dpi": round(float(image.info.get("dpi", (0, 0))[0])) == 300,
        }
        if path.suffix == ".png":
            checks["text"] = image.info.get("parameters") == "a tree"
            checks["cICP"] = b"cICP" + struct.pack("4B", 12, 13, 0, 1) in data
    return [name if there else f"NO {name}" for name, there in checks.items()]


if __name__ == "__main__":
    for library in sys.argv[1:] or READERS:
        found = read_all(library)
        print(f"{library}: {found['right']} of {sum(found.values())} read rightly, {dict(found)}", flush=True)
        if library in WRITERS:
            write_all(library)
