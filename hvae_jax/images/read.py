"""Pictures in files: PNG, JPEG, TIFF and NPY, read into memory."""

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

FilePath: TypeAlias = str | os.PathLike[str]

PNG = (".png",)
JPEG = (".jpg", ".jpeg")
TIFF = (".tif", ".tiff")
NPY = (".npy",)
SUFFIXES = PNG + JPEG + TIFF + NPY
"""The file types that are read and written."""

_JPEG_SIGNATURE = b"\xff\xd8"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_ORIENTATION_TAG = 0x0112  # of EXIF and TIFF


class ImageError(ValueError):
    """A file or a specification that the user gave cannot be used; the message says which and why."""


class Image(NamedTuple):
    """A picture in memory.

    Attributes:
        pixels: float32, one channel (grey) or three (RGB), in [0, 1]; float files are taken as they are.
        alpha: float32 opacity in [0, 1], or None where the file has none.
        bit_depth: of the file's samples: 8, 16, or 32 for float.
        quantisation: of a JPEG, the luminance's steps in grey levels of 255, lowest frequency first.
    """

    pixels: Float[np.ndarray, "height width channels"]
    alpha: Float[np.ndarray, "height width 1"] | None
    bit_depth: int
    quantisation: Float[np.ndarray, "8 8"] | None = None


def read_image(path: FilePath) -> Image:
    """Read a PNG, JPEG, TIFF or NPY file.

    Integer samples (8 and 16 bit, fewer bits, palettes, CMYK) are scaled to [0, 1]; float samples are taken
    as they are. The orientation that a camera recorded is applied; colour profiles are not, and of a CMYK
    picture the plain conversion to RGB is taken. Of a JPEG with several pictures (MPO) the first is read.

    Args:
        path: the file; a NPY array is (H, W) or (H, W, C), C = 1 and 3 plus possibly alpha, bool, uint8,
            uint16 or float.

    Returns:
        The image.

    Raises:
        ImageError: the file is missing, not of a known type, damaged, has several pages, or its samples are
            not finite.
    """
    path = Path(path)
    check_is_file(path)
    check_suffix(path)
    return _to_image(path, _decode(path))._replace(quantisation=_quantisation(path))


def list_images(path: FilePath) -> list[Path]:
    """List the images that a path names.

    Args:
        path: a file, or a folder, whose images are listed by name, without hidden files and sub-folders.

    Returns:
        The files, at least one.

    Raises:
        ImageError: there is no such path, or no image in the folder.
    """
    path = Path(path)
    if not os.path.isdir(path):
        check_is_file(path)
        return [path]
    try:
        files = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
    except OSError as error:
        raise ImageError(f"{path}: expected a readable folder, got: {reason(error)}") from error
    if not files:
        raise ImageError(f"{path}: expected a folder with images ({', '.join(SUFFIXES)}), found none")
    return files


def reason(error: BaseException) -> str:
    """An exception in words, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def check_is_file(path: Path) -> None:
    """Refuse what is no file."""
    if os.path.isdir(path):
        raise ImageError(f"{path}: expected a file, got a folder")
    if not os.path.exists(path):
        raise ImageError(f"{path}: expected a file, but there is none")


def check_suffix(path: Path) -> None:
    """Refuse a name whose ending is not that of a known type."""
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(
            f"{path}: expected a file name ending in {', '.join(SUFFIXES)}, got {path.suffix or 'no ending'}"
        )


def _decode(path: Path) -> np.ndarray:
    """The file's samples, upright, of the file's type."""
    import PIL

    try:
        if path.suffix.lower() in NPY:
            return decode_npy(path)
        # By content, for a JPEG called .png is not rare.
        with open(path, "rb") as file:
            start = file.read(25)
        if start[:4] in _TIFF_SIGNATURES:
            return _decode_tiff(path)
        if start[:8] == _PNG_SIGNATURE and start[24:] == b"\x10":  # the header's bit depth
            return _decode_png16(path)
        return _decode_pillow(path)
    except ImageError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise ImageError(f"{path}: expected a PNG, JPEG or TIFF image, got another or a damaged file") from error
    except Exception as error:  # damaged files make the decoders raise nearly anything
        raise ImageError(f"{path}: expected a readable image, got: {reason(error)}") from error


def decode_npy(path: Path) -> np.ndarray:
    """The array of a NPY file."""
    with open(path, "rb") as file:  # unlike numpy.load, this never takes it for an archive or a pickle
        return np.lib.format.read_array(file, allow_pickle=False)


def _decode_pillow(path: Path) -> np.ndarray:
    """Samples of up to 8 bits."""
    import PIL.Image

    # A file object: of a path Pillow maps uncompressed TIFF files, and then garbles those to be turned.
    with open(path, "rb") as file, PIL.Image.open(file, formats=("PNG", "JPEG", "TIFF")) as image:
        if image.format == "PNG" and getattr(image, "is_animated", False):
            raise ImageError(f"{path}: expected a single picture, got an animation")
        # Pillow turns a TIFF upright while loading it, after which this tag is gone.
        image.load()
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        grey = image.mode in ("1", "L", "LA", "La")
        if image.has_transparency_data:
            samples = image.convert("LA" if grey else "RGBA")
        else:
            samples = image.convert("L" if grey else "RGB")
        return _upright(np.asarray(samples), orientation)


def _quantisation(path: Path) -> Float[np.ndarray, "8 8"] | None:
    """A JPEG's quantisation steps of the luminance."""
    import PIL.Image

    if path.suffix.lower() in NPY:
        return None
    with open(path, "rb") as file:
        if file.read(2) != _JPEG_SIGNATURE:
            return None
        with PIL.Image.open(file, formats=("JPEG",)) as image:
            tables = getattr(image, "quantization", {})
    return np.array(tables[0], np.float32).reshape(8, 8) if 0 in tables else None


def _decode_png16(path: Path) -> np.ndarray:
    """16-bit PNG, of which Pillow keeps the upper byte only."""
    import PIL.Image
    import png

    with PIL.Image.open(path, formats=("PNG",)) as image:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    with open(path, "rb") as file:
        width, height, rows, info = png.Reader(file=file).asDirect()
        samples = np.stack([np.asarray(row, np.uint16) for row in rows]).reshape(height, width, -1)
    if info["bitdepth"] < 16:  # pypng drops the bits that the file calls insignificant
        samples = np.rint(samples * (65535 / (2 ** info["bitdepth"] - 1))).astype(np.uint16)
    return _upright(samples, orientation)


def _decode_tiff(path: Path) -> np.ndarray:
    import tifffile

    logger = logging.getLogger("tifffile")
    if not logger.handlers:  # or what it says of a damaged file goes to stderr besides the error
        logger.addHandler(logging.NullHandler())
    with tifffile.TiffFile(path) as tiff:
        every: list[Any] = list(tiff.pages)
        pages = [page for page in every if not page.is_reduced]  # without thumbnails
        if len(pages) != 1:
            raise ImageError(f"{path}: expected a TIFF file with one page, got {len(pages)}")
        page = pages[0]
        if page.dtype is None or page.dtype.itemsize == 1:
            return _decode_pillow(path)  # it also knows palettes, CMYK and every compression
        if page.photometric not in (0, 1, 2):  # white is zero, black is zero, RGB
            raise ImageError(f"{path}: expected a grey or RGB TIFF file, got {page.photometric.name}")
        samples = page.asarray()
        if page.axes == "SYX":  # stored channel by channel
            samples = np.moveaxis(samples, 0, -1)
        if page.photometric == 0 and samples.dtype.kind == "u":
            samples = np.iinfo(samples.dtype).max - samples
        return _upright(samples, page.tags.valueof(_ORIENTATION_TAG, 1))


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the orientation (1 to 8) that EXIF and TIFF files name."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def _to_image(path: Path, samples: np.ndarray) -> Image:
    """Check and scale decoded samples, and part the alpha from them."""
    shape = samples.shape
    if samples.ndim == 2:
        samples = samples[..., None]
    if samples.ndim != 3 or samples.shape[-1] not in (1, 2, 3, 4) or samples.size == 0:
        raise ImageError(f"{path}: expected an array (height, width) or (height, width, 1 to 4), got {shape}")
    if samples.dtype.kind == "f":
        bit_depth = 32
        with np.errstate(over="ignore"):  # what overflows float32 is reported as not finite
            values = samples.astype(np.float32)
        if not np.isfinite(values).all():
            raise ImageError(f"{path}: expected finite samples, got NaN or infinity")
    elif samples.dtype in (np.bool_, np.uint8, np.uint16):
        bit_depth = 16 if samples.dtype == np.uint16 else 8
        largest = 1 if samples.dtype == np.bool_ else 2**bit_depth - 1
        values = samples.astype(np.float32) / np.float32(largest)
    else:
        raise ImageError(f"{path}: expected samples of type uint8, uint16 or float, got {samples.dtype}")
    if values.shape[-1] in (1, 3):
        return Image(values, None, bit_depth)
    return Image(values[..., :-1], values[..., -1:], bit_depth)
