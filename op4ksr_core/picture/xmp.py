"""XMP for another picture than it was written for: orientation, sizes, previews and gain maps go, the rest stays."""

import struct
from collections.abc import Iterable
from xml.dom import Node, minidom
from xml.parsers.expat import ExpatError

_TIFF, _EXIF, _XMP = (f"http://ns.adobe.com/{name}/1.0/" for name in ("tiff", "exif", "xap"))
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_EXTENSION_HEAD = len(_EXTENSION) + 32
_OF_THE_FILE = {
    _TIFF: (
        "Orientation ImageWidth ImageLength BitsPerSample Compression PhotometricInterpretation SamplesPerPixel "
        "PlanarConfiguration YCbCrSubSampling YCbCrPositioning YCbCrCoefficients XResolution YResolution "
        "ResolutionUnit TransferFunction ReferenceBlackWhite NativeDigest"
    ).split(),
    _EXIF: (
        "PixelXDimension PixelYDimension SubjectArea SubjectLocation FocalPlaneXResolution FocalPlaneYResolution "
        "FocalPlaneResolutionUnit NativeDigest"
    ).split(),
    _XMP: ["Thumbnails"],
    "http://ns.adobe.com/xmp/note/": ["HasExtendedXMP"],
}
"""Properties that describe the file they came in."""

_PREVIEWS = (
    "http://ns.adobe.com/hdr-gain-map/",
    "http://ns.apple.com/HDRGainMap/",
    "http://ns.apple.com/pixeldatainfo/",
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/1.0/camera/",
    "http://ns.google.com/photos/1.0/depthmap/",
    "http://ns.google.com/photos/1.0/image/",
    "http://ns.google.com/photos/dd/",
)
"""Namespaces of gain maps, depth maps, motion and other pictures in the file."""


class DamagedXmp(ValueError):
    """It is no XML, or holds a document type, which XMP never does."""


def kept_xmp(packet: bytes, extension: bytes = b"") -> bytes:
    """The packet with what its extension adds, without what describes the file; as it is where nothing is to go.

    Raises DamagedXmp.
    """
    document = _parsed(packet)
    changed = bool(extension)
    if extension:
        _join(document, _parsed(extension))
    changed = _clean(document) or changed
    return "".join(node.toxml() for node in document.childNodes).encode() if changed else packet


def extension_of(segments: Iterable[tuple[str, bytes]]) -> bytes:
    """A JPEG's extended XMP, put together from its APP1 segments; b"" where there is none or a part is missing."""
    parts: dict[int, bytes] = {}
    length = 0
    for name, data in segments:
        if name == "APP1" and data.startswith(_EXTENSION) and len(data) > _EXTENSION_HEAD + 8:
            length, offset = struct.unpack(">II", data[_EXTENSION_HEAD : _EXTENSION_HEAD + 8])
            parts[offset] = data[_EXTENSION_HEAD + 8 :]
    whole = b"".join(parts[offset] for offset in sorted(parts))
    return whole if len(whole) == length else b""


def xmp_orientation(packet: bytes | None) -> int | None:
    """tiff:Orientation, if the packet is whole and has one."""
    try:
        document = _parsed(packet or b"")
    except DamagedXmp:
        return None
    for element in document.getElementsByTagName("*"):
        text = element.getAttributeNS(_TIFF, "Orientation")
        if (element.namespaceURI, element.localName) == (_TIFF, "Orientation") and element.firstChild:
            text = element.firstChild.nodeValue or ""
        if text.strip().isdecimal():
            return int(text)
    return None


def _parsed(packet: bytes) -> minidom.Document:
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        raise DamagedXmp("it holds a document type")
    try:
        return minidom.parseString(packet.strip(b"\0 \r\n\t"))
    except (ExpatError, ValueError, LookupError) as error:
        raise DamagedXmp(str(error)) from error


def _join(document: minidom.Document, more: minidom.Document) -> None:
    targets = document.getElementsByTagNameNS(_RDF, "RDF")
    for description in more.getElementsByTagNameNS(_RDF, "Description"):
        parent = description.parentNode
        if targets and parent is not None and parent.nodeName.endswith("RDF"):
            targets[0].appendChild(document.importNode(description, True))


def _clean(document: minidom.Document) -> bool:
    changed = False
    for element in list(document.getElementsByTagName("*")):
        for attribute in list(element.attributes.values()):
            if _goes(attribute):
                element.removeAttributeNode(attribute)
                changed = True
        parent = element.parentNode
        if _goes(element) and parent is not None and parent.nodeType == Node.ELEMENT_NODE:
            parent.removeChild(element)
            changed = True
    return changed


def _goes(node: minidom.Node) -> bool:
    space = node.namespaceURI or ""
    return node.localName in _OF_THE_FILE.get(space, ()) or space.startswith(_PREVIEWS)
