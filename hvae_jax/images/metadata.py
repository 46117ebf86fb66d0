"""What a file says around its pixels: colour profile, EXIF, XMP, resolution, text."""

import io
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
ICC_TAG, XMP_TAG = 34675, 700
DESCRIPTION = 0x010E
PIXEL_SIZE = (0xA002, 0xA003)  # width and height, in the EXIF directory
ABOUT = (
    DESCRIPTION,
    *(0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298),  # make, model, software, date, artist, ©
    *(0x4746, 0x4749, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),  # rating, Windows' title, comment, author, ...
)
"""Tags of a file's main directory that are about the picture and not about how its samples are stored."""


class Metadata(NamedTuple):
    """What goes from a file to its result.

    Attributes:
        icc: the colour profile.
        exif: directory -> tag -> value: of the main directory (0) those in `ABOUT`, and all of EXIF's and GPS's own.
        xmp: an XMP packet.
        dpi: pixels per inch, horizontally and vertically.
        gamma: of a PNG.
        text: of a PNG, keyword -> text.
    """

    icc: bytes | None = None
    exif: Mapping[int, Mapping[int, Any]] = {}
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    gamma: float | None = None
    text: Mapping[str, str] = {}

    def sized(self, height: int, width: int) -> "Metadata":
        """The same for a picture of another size, which EXIF and OME tell."""
        exif = dict(self.exif)
        if EXIF_IFD in exif:
            sizes = zip(PIXEL_SIZE, (width, height), strict=True)
            exif[EXIF_IFD] = {**exif[EXIF_IFD], **{tag: side for tag, side in sizes if tag in exif[EXIF_IFD]}}
        if is_ome(description := exif.get(0, {}).get(DESCRIPTION, "")):
            exif[0] = {**exif[0], DESCRIPTION: _ome_sized(description, height, width)}
        return self._replace(exif=exif)

    def for_channels(self, channels: int) -> "Metadata":
        """Without a colour profile that is not one for grey (1) or RGB (3) samples, as that of CMYK is."""
        kind = None if self.icc is None else self.icc[16:20]
        return self if kind in (None, b"GRAY" if channels == 1 else b"RGB ") else self._replace(icc=None)

    def exif_bytes(self) -> bytes:
        """EXIF as JPEG, PNG, WebP and AVIF hold it; empty without any."""
        import PIL.Image

        if not any(self.exif.values()):
            return b""
        exif = PIL.Image.Exif()
        for tag, value in self.exif.get(0, {}).items():
            exif[tag] = value
        for directory in (EXIF_IFD, GPS_IFD):
            if self.exif.get(directory):
                exif.get_ifd(directory).update(self.exif[directory])
        return exif.tobytes()


NOTHING = Metadata()
"""Of a file that says nothing."""


def of_pillow(image: Any) -> Metadata:
    """What Pillow found in a file that it opened."""
    info = image.info
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    text = getattr(image, "text", None) or {}
    dpi = info.get("dpi")
    return Metadata(
        icc=info.get("icc_profile") or None,
        exif=_directories(image.getexif()),
        xmp=xmp.encode() if isinstance(xmp, str) else xmp or None,
        dpi=None if dpi is None else (float(dpi[0]), float(dpi[1])),
        gamma=info.get("gamma") if image.format == "PNG" else None,
        text={str(k): str(v) for k, v in text.items() if k != "XML:com.adobe.xmp"},
    )


def is_ome(description: Any) -> bool:
    """Whether a TIFF's description is one of the Open Microscopy Environment."""
    return isinstance(description, str) and "</OME>" in description


def _ome_sized(description: str, height: int, width: int) -> str:
    """OME-XML for other sides, whose pixels are as much smaller."""
    for name, side in (("X", width), ("Y", height)):
        before = re.search(rf'\bSize{name}="(\d+)"', description)
        if before is None or int(before[1]) in (0, side):
            continue
        description = description.replace(before[0], f'Size{name}="{side}"')
        if physical := re.search(rf'\bPhysicalSize{name}="([\d.eE+-]+)"', description):
            size = float(physical[1]) * int(before[1]) / side
            description = description.replace(physical[0], f'PhysicalSize{name}="{size:g}"')
    return description


def _ome_of_one_page(description: str, channels: int) -> str:
    """OME-XML of a stack, for a file that holds one page of it."""
    for name, size in (("C", channels), ("Z", 1), ("T", 1)):
        description = re.sub(rf'\bSize{name}="\d+"', f'Size{name}="{size}"', description)
    plane = f'<Channel ID="Channel:0:0" SamplesPerPixel="{channels}"/><TiffData IFD="0" PlaneCount="1"/>'
    return re.sub(r"(<Pixels\b[^>]*>).*?(</Pixels>)", rf"\1{plane}\2", description, count=1, flags=re.DOTALL)


def of_tiff(page: Any, file: Any) -> Metadata:
    """What a page of tifffile's has; EXIF is read from the open file."""
    import PIL.Image

    def value(tag: int) -> Any:
        return page.tags.valueof(tag)

    exif = PIL.Image.Exif()
    if not page.parent.is_bigtiff:
        file.seek(0)
        exif.load_from_fp(file)
    resolution, unit = (value(282), value(283)), value(296)
    dpi = None
    if all(resolution) and unit in (2, 3) and all(part[1] for part in resolution):
        per_inch = 1 if unit == 2 else 2.54
        dpi = (per_inch * resolution[0][0] / resolution[0][1], per_inch * resolution[1][0] / resolution[1][1])
    icc, xmp = value(ICC_TAG), value(XMP_TAG)
    directories = _directories(exif)
    if is_ome(page.parent.pages.first.description):  # which Pillow does not read as the UTF-8 that it is
        description = page.parent.pages.first.description
        if len(page.parent.pages) > 1:
            description = _ome_of_one_page(description, page.samplesperpixel)
        directories[0] = {**directories.get(0, {}), DESCRIPTION: description}
    return Metadata(
        icc=bytes(icc) if icc else None,
        exif=directories,
        xmp=xmp.encode() if isinstance(xmp, str) else bytes(xmp) if xmp else None,
        dpi=dpi,
    )


def _directories(exif: Any) -> dict[int, dict[int, Any]]:
    """EXIF without what says how samples are stored, without its preview, and upright."""
    found = {0: {tag: value for tag, value in exif.items() if tag in ABOUT}}
    for directory in (EXIF_IFD, GPS_IFD):
        found[directory] = {tag: value for tag, value in exif.get_ifd(directory).items() if not isinstance(value, dict)}
    return {directory: tags for directory, tags in found.items() if tags}


def pillow_options(metadata: Metadata, kind: str) -> dict[str, Any]:
    """The arguments of Pillow's `save` for a kind of file: "PNG", "JPEG", "WEBP", "AVIF" or "BMP"."""
    import PIL.PngImagePlugin

    options: dict[str, Any] = {}
    if kind in ("PNG", "JPEG", "BMP") and metadata.dpi is not None:
        options["dpi"] = metadata.dpi
    if kind == "BMP":
        return options
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if exif := metadata.exif_bytes():
        options["exif"] = exif
    if kind != "PNG":
        return options | ({"xmp": metadata.xmp} if metadata.xmp else {})
    chunks = PIL.PngImagePlugin.PngInfo()
    for keyword, text in metadata.text.items():
        if keyword.isprintable() and 0 < len(keyword) < 80:
            chunks.add_itxt(keyword, text)
    if metadata.xmp:
        chunks.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    if metadata.gamma:
        chunks.add(b"gAMA", struct.pack(">I", round(100_000 * metadata.gamma)))
    return options | {"pnginfo": chunks}


def png_chunks(metadata: Metadata) -> Iterator[tuple[bytes, bytes]]:
    """The chunks that go between a PNG's header and its data, as Pillow writes them."""
    import PIL.Image
    import png

    file = io.BytesIO()
    PIL.Image.new("RGB", (1, 1)).save(file, "PNG", **pillow_options(metadata, "PNG"))
    file.seek(0)
    for kind, content in png.Reader(file=file).chunks():
        if kind not in (b"IHDR", b"IDAT", b"IEND"):
            yield kind, content


def tiff_tags(metadata: Metadata) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """The `extratags` and the other arguments of `tifffile.imwrite`."""
    tags: list[tuple] = []
    for tag, value in metadata.exif.get(0, {}).items():
        if tag == DESCRIPTION and is_ome(value):
            tags.append((tag, 2, 0, value.encode(), True))
        elif isinstance(value, str) and tag < 0x9C9B:
            tags.append((tag, 2, 0, value.encode("ascii", "replace").decode(), True))
    if metadata.xmp:
        tags.append((XMP_TAG, 1, len(metadata.xmp), metadata.xmp, True))
    options: dict[str, Any] = {} if metadata.icc is None else {"iccprofile": metadata.icc}
    if metadata.dpi is not None:
        options |= {"resolution": metadata.dpi, "resolutionunit": 2}
    return tags, options


def add_tiff_directories(content: bytearray, metadata: Metadata) -> None:
    """Add EXIF's own directories to a little-endian TIFF file of one page, whose main directory is written anew."""
    import PIL.TiffImagePlugin

    directories = [tag for tag in (EXIF_IFD, GPS_IFD) if metadata.exif.get(tag)]
    if not directories or content[:4] != b"II*\0":
        return
    (main,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, main)
    entries = [bytes(content[main + 2 + 12 * i : main + 14 + 12 * i]) for i in range(count)]
    for tag in directories:
        directory = PIL.TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0", group=tag)
        for name, value in metadata.exif[tag].items():
            directory[name] = value
        content.extend(bytes(len(content) % 2))  # a directory begins at an even place
        entries.append(struct.pack("<HHII", tag, 4, 1, len(content)))
        content += directory.tobytes(len(content))
    content.extend(bytes(len(content) % 2))
    struct.pack_into("<I", content, 4, len(content))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
    content += struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
