"""Pictures in files, read into memory."""

import io
import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from hvae_jax.images import metadata as around
from hvae_jax.images import raw
from hvae_jax.images.bounds import MOST_VALUES, check_declared, check_inflated, decode_npy
from hvae_jax.images.formats import (
    FITS_SIGNATURE,
    HEIC,
    LFS_SIGNATURE,
    NPY_SIGNATURE,
    PNG_SIGNATURE,
    RAW,
    TIFF_SIGNATURES,
    ImageError,
    OpenFile,
    Source,
    check_is_file,
    check_suffix,
    missing_package,
    name_of,
    reason,
)
from hvae_jax.images.jpeg import quantisation
from hvae_jax.images.metadata import Metadata
from hvae_jax.images.raw import quiet

READ_AT_ONCE = 256 << 20
"""Bytes up to which a file is."""

LEAST_PAGE = 18
"""Bytes of a TIFF page's directory with one entry."""

_PILLOW = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "BMP")


class Image(NamedTuple):
    """A picture in memory.

    Attributes:
        pixels: float32, one channel (grey) or three (RGB), in [0, 1]; float files are taken as they are.
        alpha: float32 opacity in [0, 1], or None where the file has none.
        bit_depth: of the file's samples: 8, 16, or 32 for float.
        missing: where a float file holds NaN (0 in `pixels`), or None for nowhere.
        jpeg: the file, if it is a JPEG and the pixels are what it shows.
        metadata: colour profile, EXIF, resolution and the like.
        premultiplied: whether the file holds its pixels times alpha; here they are not.
        orientation: how the file says that its samples are turned, 1 to 8; the pixels are upright.
        noise_std: deviation of the noise, where the file tells it (a DNG's noise profile), or None.
    """

    pixels: Float[np.ndarray, "height width channels"]
    alpha: Float[np.ndarray, "height width 1"] | None
    bit_depth: int
    missing: Bool[np.ndarray, "height width"] | None = None
    jpeg: bytes | None = None
    metadata: Metadata = Metadata()
    premultiplied: bool = False
    orientation: int = 1
    noise_std: float | None = None

    @property
    def quantisation(self) -> Float[np.ndarray, "8 8"] | None:
        """Of a JPEG, the luminance's steps in grey levels of 255, lowest frequency first."""
        return None if self.jpeg is None else quantisation(self.jpeg)


def read_image(source: Source, *, page: int | None = None) -> Image:
    """Read a picture: PNG, JPEG, TIFF, WebP, AVIF, BMP, NPY, FITS, HEIC or a camera's raw file.

    Integer samples (8 and 16 bit, fewer bits, palettes, CMYK) are scaled to [0, 1]; float samples are taken
    as they are, NaN being a missing pixel. The orientation that a camera recorded is applied. A colour profile is
    kept and not applied; of a CMYK picture the plain conversion to RGB is taken, without its profile. Of a JPEG with
    several pictures (MPO) the first is read. A raw file is demosaicked with the camera's white balance, 16 bit.

    Args:
        source: the file, or an open one; a NPY array is (H, W) or (H, W, C), C = 1 and 3 plus possibly alpha, bool,
            uint8, uint16 or float.
        page: of a TIFF file with several, from 0; of a FITS cube or a stack in NPY (N, H, W), likewise.

    Returns:
        The image.

    Raises:
        ImageError: the file is missing, not of a known type, damaged, has several pages and none was asked for, or its
            samples are not finite.
    """
    import PIL

    if isinstance(source, str | os.PathLike):
        path = Path(source)
        check_is_file(path)
        check_suffix(path, reading=True)
    try:
        with _opened(source) as file:
            return _decode(source, file, page)
    except ImageError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise ImageError(f"{name_of(source)}: expected an image, got another or a damaged file") from error
    except Exception as error:  # damaged files make the decoders raise nearly anything
        raise ImageError(f"{name_of(source)}: expected a readable image, got: {reason(error)}") from error


def count_pages(source: Source) -> int:
    """How many pictures a TIFF file holds, thumbnails not counted; 1 for other files, and for what cannot be read."""
    import tifffile

    try:
        with _opened(source) as file:
            if file.read(4) not in TIFF_SIGNATURES:
                return 1
            file.seek(0)
            with quiet(), tifffile.TiffFile(file) as tiff:
                return max(len(_pages(tiff)), 1)
    except Exception:  # reading it will say what is wrong
        return 1


@contextmanager
def _opened(source: Source) -> Iterator[OpenFile]:
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            # Read at once, so that a damaged length asks for no more memory than there is file.
            yield io.BytesIO(file.read()) if os.fstat(file.fileno()).st_size <= READ_AT_ONCE else file
    else:
        source.seek(0)
        yield source


def _decode(source: Source, file: OpenFile, page: int | None) -> Image:
    """By content, for a JPEG called .png is not rare."""
    start = file.read(64)
    file.seek(0)
    suffix = Path(source).suffix.lower() if isinstance(source, str | os.PathLike) else ""
    if start.startswith(LFS_SIGNATURE):
        raise ImageError(f"{name_of(source)}: expected an image, got a Git LFS pointer; run git lfs pull")
    if start.startswith(NPY_SIGNATURE) or suffix == ".npy":
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return _to_image(source, _one_of(source, decode_npy(file, size), page, stacked=4))
    if start.startswith(FITS_SIGNATURE):
        return _to_image(source, _one_of(source, _decode_fits(source, file), page, stacked=3))
    if suffix in RAW:
        return _decode_raw(source, file)
    if suffix in HEIC or start[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypheim"):
        return _decode_heic(source, file)
    if start[:4] in TIFF_SIGNATURES:
        return _decode_tiff(source, file, page)
    if start[:8] == PNG_SIGNATURE and start[24:25] == b"\x10":  # the header's bit depth
        return _decode_png16(source, file)
    if start[:6] in (b"GIF87a", b"GIF89a"):
        raise ImageError(f"{name_of(source)}: expected a picture, got a GIF; save the frame that is meant as PNG")
    return _decode_pillow(source, file)


def _one_of(source: Source, samples: np.ndarray, page: int | None, stacked: int) -> np.ndarray:
    """A picture of a stack."""
    if page is None:
        if samples.ndim == 3 and stacked == 3 and len(samples) == 1:
            return samples[0]
        if samples.ndim == stacked and not (stacked == 3 and samples.shape[-1] in (1, 2, 3, 4)):
            raise ImageError(f"{name_of(source)}: expected one picture, got a stack of {len(samples)}; give --pages")
        return samples
    if samples.ndim < 3 or page >= len(samples):
        raise ImageError(f"{name_of(source)}: expected a stack of more than {page} pictures, got {samples.shape}")
    return samples[page]


def _decode_pillow(source: Source, file: OpenFile) -> Image:
    """Samples of up to 8 bits."""
    import PIL.Image

    # A file object: of a path Pillow maps uncompressed TIFF files, and then garbles those to be turned.
    with PIL.Image.open(file, formats=_PILLOW) as image:
        if image.format in ("PNG", "WEBP", "AVIF") and getattr(image, "is_animated", False):
            raise ImageError(f"{name_of(source)}: expected a single picture, got an animation")
        if image.format in ("PNG", "TIFF", "BMP"):
            check_declared(source, file, image.height, image.width)
        found = around.of_pillow(image)
        # Pillow turns a TIFF upright while loading it, after which this tag is gone.
        image.load()
        orientation = image.getexif().get(around.ORIENTATION, 1)
        samples = upright(_samples(image), orientation)
        is_jpeg = image.format in ("JPEG", "MPO")
    picture = _to_image(source, samples)
    if is_jpeg:
        file.seek(0)
        picture = picture._replace(jpeg=file.read())
    return picture._replace(metadata=found.for_channels(picture.pixels.shape[-1]), orientation=orientation)


def _samples(image: Any) -> np.ndarray:
    """Grey or RGB, with alpha where there is transparency."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        return np.asarray(image.convert("LA" if grey else "RGBA"))
    return np.asarray(image.convert("L" if grey else "RGB"))


def _decode_png16(source: Source, file: OpenFile) -> Image:
    """16-bit PNG, of which Pillow keeps the upper byte only."""
    import PIL.Image
    import png

    with PIL.Image.open(file, formats=("PNG",)) as image:
        orientation = image.getexif().get(around.ORIENTATION, 1)
        found = around.of_pillow(image)
        check_declared(source, file, image.height, image.width)
        # Seven interlaced parts have a byte more per row than one picture.
        rows_of_samples = image.height * (image.width * 8 + 1) + 8 * (image.height + image.width)
        file.seek(0)
        chunks = (content for kind, content in png.Reader(file=file).chunks() if kind == b"IDAT")
        check_inflated(name_of(source), chunks, rows_of_samples)
        file.seek(0)
        width, height, rows, info = png.Reader(file=file).asDirect()
        samples = np.stack([np.asarray(row, np.uint16) for row in rows]).reshape(height, width, -1)
    if info["bitdepth"] < 16:  # pypng drops the bits that the file calls insignificant
        samples = np.rint(samples * (65535 / (2 ** info["bitdepth"] - 1))).astype(np.uint16)
    picture = _to_image(source, upright(samples, orientation))
    return picture._replace(metadata=found.for_channels(picture.pixels.shape[-1]))


def _pages(tiff: Any) -> list[Any]:
    """Without thumbnails; ValueError for a damaged file, whose pages go round in circles."""
    most = tiff.filehandle.size // LEAST_PAGE + 1
    pages = list(itertools.islice(tiff.pages, most + 1))
    if len(pages) > most:
        raise ValueError("its pages go round in circles")
    return [page for page in pages if not page.is_reduced]


def _decode_tiff(source: Source, file: OpenFile, number: int | None) -> Image:
    import tifffile

    with quiet(), tifffile.TiffFile(file) as tiff:
        pages = _pages(tiff)
        if number is None and len(pages) != 1:
            raise ImageError(
                f"{name_of(source)}: expected a TIFF file with one page, got {len(pages)}; give --pages to restore each"
            )
        if number is not None and number >= len(pages):
            raise ImageError(f"{name_of(source)}: expected more than {number} pages, got {len(pages)}")
        page = pages[number or 0]
        if len(pages) == 1 and (page.dtype is None or page.dtype.itemsize == 1):
            file.seek(0)
            picture = _decode_pillow(source, file)  # it also knows palettes, CMYK and every compression
            return _divided(picture) if _associated(page) else picture
        if page.photometric not in (0, 1, 2):  # white is zero, black is zero, RGB
            raise ImageError(f"{name_of(source)}: expected a grey or RGB TIFF file, got {page.photometric.name}")
        check_declared(source, file, page.imagelength, page.imagewidth)
        if page.size > MOST_VALUES:
            raise ImageError(f"{name_of(source)}: expected at most {MOST_VALUES:.0e} samples, got {page.shape}")
        if page.compression in (8, 32946):  # deflate, in strips or tiles of one size
            segment = math.prod(page.chunks) * page.dtype.itemsize
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                file.seek(offset)
                check_inflated(name_of(source), [file.read(count)], segment)
        try:
            samples = page.asarray()
        except ValueError as error:
            if "imagecodecs" in str(error):
                raise missing_package(
                    source, "imagecodecs", f"a TIFF file compressed by {page.compression.name}"
                ) from None
            raise
        if page.axes == "SYX":  # stored channel by channel
            samples = np.moveaxis(samples, 0, -1)
        if page.photometric == 0 and samples.dtype.kind == "u":
            samples = np.iinfo(samples.dtype).max - samples
        picture = _to_image(source, upright(samples, page.tags.valueof(around.ORIENTATION, 1)))
        found = around.of_tiff(page, file)
        picture = picture._replace(metadata=found.for_channels(picture.pixels.shape[-1]))
        return _divided(picture) if _associated(page) else picture


def _associated(page: Any) -> bool:
    """Whether a TIFF's pixels are multiplied by their alpha."""
    extra = page.extrasamples
    return bool(extra) and int(extra[0]) == 1


def _divided(picture: Image) -> Image:
    """The colours of a picture that was multiplied by its alpha; where that is 0 there is none."""
    if picture.alpha is None:
        return picture
    alpha = picture.alpha
    pixels = np.where(alpha > 0, np.minimum(picture.pixels / np.maximum(alpha, 1e-6), 1), 0)
    return picture._replace(pixels=pixels.astype(np.float32), premultiplied=True)


def _decode_heic(source: Source, file: OpenFile) -> Image:
    try:
        import pillow_heif
    except ImportError:
        raise missing_package(source, "pillow_heif", "a HEIC file") from None
    image = pillow_heif.open_heif(file, convert_hdr_to_8bit=False)[0].to_pillow()
    picture = _to_image(source, upright(_samples(image), 1))  # libheif turns it upright itself
    return picture._replace(metadata=around.of_pillow(image).for_channels(picture.pixels.shape[-1]))


def _decode_raw(source: Source, file: OpenFile) -> Image:
    samples, profile = raw.decode(source, file)
    picture = _to_image(source, samples)
    return picture if profile is None else picture._replace(noise_std=raw.noise_std(profile, picture.pixels))


def _decode_fits(source: Source, file: OpenFile) -> np.ndarray:
    try:
        from astropy.io import fits
    except ImportError:
        raise missing_package(source, "astropy", "a FITS file") from None
    with fits.open(io.BytesIO(file.read())) as units:
        pictures = (unit for unit in units if unit.is_image and len(unit.shape) >= 2)
        unit = next(pictures, None)
        if unit is not None and math.prod(unit.shape) > MOST_VALUES:
            raise ImageError(f"{name_of(source)}: expected at most {MOST_VALUES:.0e} samples, got {unit.shape}")
        data = None if unit is None else unit.data
    if data is None:
        raise ImageError(f"{name_of(source)}: expected a FITS file with a picture, got none")
    return data.astype(data.dtype.newbyteorder("=")) if data.dtype.kind in "fu" else data.astype(np.float32)


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the orientation (1 to 8) that EXIF and TIFF files name."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def _to_image(source: Source, samples: np.ndarray) -> Image:
    """Check and scale decoded samples, and part the alpha from them."""
    name, shape = name_of(source), samples.shape
    if samples.ndim == 2:
        samples = samples[..., None]
    if samples.ndim != 3 or samples.shape[-1] not in (1, 2, 3, 4) or samples.size == 0:
        raise ImageError(f"{name}: expected an array (height, width) or (height, width, 1 to 4), got {shape}")
    missing: np.ndarray | None = None
    if samples.dtype.kind == "f":
        bit_depth = 32
        with np.errstate(over="ignore"):  # what overflows float32 is reported as infinite
            values = samples.astype(np.float32)
        if np.isinf(values).any():
            raise ImageError(f"{name}: expected finite samples, or NaN where pixels are missing, got infinity")
        missing = np.asarray(np.isnan(values).any(axis=-1))
        if missing.all():
            raise ImageError(f"{name}: expected a picture, got only NaN")
        values = np.where(missing[..., None], np.float32(0), values)
        missing = missing if missing.any() else None
    elif samples.dtype in (np.bool_, np.uint8, np.uint16):
        bit_depth = 16 if samples.dtype == np.uint16 else 8
        largest = 1 if samples.dtype == np.bool_ else 2**bit_depth - 1
        values = samples.astype(np.float32) / np.float32(largest)
    else:
        raise ImageError(f"{name}: expected samples of type uint8, uint16 or float, got {samples.dtype}")
    if values.shape[-1] in (1, 3):
        return Image(values, None, bit_depth, missing)
    return Image(values[..., :-1], values[..., -1:], bit_depth, missing)
