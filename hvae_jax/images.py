"""What a real photograph needs around the method: files, borders, noise, kernels, masks (NumPy only)."""

import contextlib
import io
import logging
import math
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

FilePath: TypeAlias = str | os.PathLike[str]
Box: TypeAlias = tuple[slice, slice]  # the rows and the columns of an image inside a larger one

_PNG = (".png",)
_JPEG = (".jpg", ".jpeg")
_TIFF = (".tif", ".tiff")
_NPY = (".npy",)
SUFFIXES = _PNG + _JPEG + _TIFF + _NPY
"""The file types that are read and written."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_ORIENTATION_TAG = 0x0112  # of EXIF and TIFF

# In pixels, of kernels made from numbers: far above any blur worth restoring, and a slip fits in memory.
_MAX_KERNEL_WIDTH = 256


class ImageError(ValueError):
    """A file or a specification that the user gave cannot be used; the message says which and why."""


class Image(NamedTuple):
    """A picture in memory.

    Attributes:
        pixels: float32, one channel (grey) or three (RGB), in [0, 1]; float files are taken as they are.
        alpha: float32 opacity in [0, 1], or None where the file has none.
        bit_depth: of the file's samples: 8, 16, or 32 for float.
    """

    pixels: Float[np.ndarray, "height width channels"]
    alpha: Float[np.ndarray, "height width 1"] | None
    bit_depth: int


# Reading


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
    _check_is_file(path)
    _check_suffix(path)
    return _to_image(path, _decode(path))


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
        _check_is_file(path)
        return [path]
    try:
        files = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
    except OSError as error:
        raise ImageError(f"{path}: expected a readable folder, got: {_reason(error)}") from error
    if not files:
        raise ImageError(f"{path}: expected a folder with images ({', '.join(SUFFIXES)}), found none")
    return files


def read_mask(path: FilePath) -> Float[np.ndarray, "height width *channels"]:
    """Read the mask of an inpainting problem.

    Args:
        path: an image, white (above one half) where a pixel was observed; its alpha is ignored.

    Returns:
        1 where observed and 0 where missing: (H, W), or (H, W, 3) if the channels differ.

    Raises:
        ImageError: the file cannot be read, or nothing was observed.
    """
    observed = (read_image(path).pixels > 0.5).astype(np.float32)
    if not observed.any():
        raise ImageError(f"{path}: expected a mask with observed (white) pixels, got none")
    same = bool((observed == observed[..., :1]).all())
    return observed[..., 0] if same else observed


def _reason(error: BaseException) -> str:
    """An exception in words, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _check_is_file(path: Path) -> None:
    if os.path.isdir(path):
        raise ImageError(f"{path}: expected a file, got a folder")
    if not os.path.exists(path):
        raise ImageError(f"{path}: expected a file, but there is none")


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(
            f"{path}: expected a file name ending in {', '.join(SUFFIXES)}, got {path.suffix or 'no ending'}"
        )


def _decode(path: Path) -> np.ndarray:
    """The file's samples, upright, of the file's type."""
    import PIL

    try:
        if path.suffix.lower() in _NPY:
            return _decode_npy(path)
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
        raise ImageError(f"{path}: expected a readable image, got: {_reason(error)}") from error


def _decode_npy(path: Path) -> np.ndarray:
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


# Writing


def check_writable(path: FilePath, overwrite: bool = False) -> None:
    """Refuse now an output file that `write_image` would refuse after the work.

    Args:
        path: the file to be written; missing folders of it will be made.
        overwrite: whether it may exist.

    Raises:
        ImageError: unknown file type, existing file, or no folder to write to.
    """
    path = Path(path)
    _check_suffix(path)
    if os.path.isdir(path):
        raise ImageError(f"{path}: expected a file to write, got a folder")
    if os.path.exists(path) and not overwrite:
        raise ImageError(f"{path}: expected a new file, but it exists and overwriting was not asked for")
    folder = next(parent for parent in path.absolute().parents if os.path.exists(parent))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise ImageError(f"{path}: expected a folder that can be written to, but {folder} is not")


def write_image(
    path: FilePath,
    pixels: ArrayLike,
    *,
    bit_depth: int = 8,
    alpha: ArrayLike | None = None,
    overwrite: bool = False,
) -> None:
    """Write an image, all or nothing: a failure leaves neither a part of it nor a temporary file.

    The suffix chooses the format. Where the format has no such bit depth the next that it has is taken: PNG
    holds 8 and 16, JPEG 8 (quality 95, colour not subsampled, alpha dropped), TIFF 8, 16 and 32, and NPY
    always float32. Integer samples are clipped to [0, 1] and rounded, float samples are kept as they are.

    Args:
        path: the file; missing folders are made.
        pixels: (H, W), (H, W, 1) or (H, W, 3), in [0, 1].
        bit_depth: 8, 16, or 32 for float.
        alpha: opacity, (H, W) or (H, W, 1), in [0, 1].
        overwrite: whether an existing file may be replaced.

    Raises:
        ImageError: the values are not an image, or the file cannot be written.
    """
    path = Path(path)
    check_writable(path, overwrite)
    if bit_depth not in (8, 16, 32):
        raise ImageError(f"{path}: expected a bit depth of 8, 16 or 32, got {bit_depth}")
    suffix = path.suffix.lower()
    values = _stack_channels(path, pixels, None if suffix in _JPEG else alpha)
    buffer = io.BytesIO()
    try:
        if suffix in _NPY:
            np.save(buffer, values)
        elif suffix in _TIFF:
            _encode_tiff(buffer, values if bit_depth == 32 else _quantise(values, bit_depth))
        elif suffix in _PNG and bit_depth > 8:
            _encode_png16(buffer, _quantise(values, 16))
        else:
            _encode_8bit(buffer, _quantise(values, 8), jpeg=suffix in _JPEG)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(path, buffer.getbuffer())
    except OSError as error:
        raise ImageError(f"{path}: expected to write the file, got: {_reason(error)}") from error


def _stack_channels(path: Path, pixels: ArrayLike, alpha: ArrayLike | None) -> np.ndarray:
    values = np.asarray(pixels, np.float32)
    shape = values.shape
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] not in (1, 3) or values.size == 0:
        raise ImageError(f"{path}: expected pixels (height, width) or (height, width, 1 or 3), got {shape}")
    if alpha is not None:
        opacity = np.asarray(alpha, np.float32)
        if opacity.shape not in (values.shape[:2], (*values.shape[:2], 1)):
            raise ImageError(f"{path}: expected alpha of shape {values.shape[:2]}, got {opacity.shape}")
        values = np.concatenate([values, opacity.reshape(*values.shape[:2], 1)], axis=-1)
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: expected finite pixels to write, got NaN or infinity")
    return values


def _quantise(values: np.ndarray, bit_depth: int) -> np.ndarray:
    scaled = np.rint(np.clip(values, 0, 1) * (2**bit_depth - 1))
    return scaled.astype(np.uint8 if bit_depth == 8 else np.uint16)


def _encode_8bit(file: io.BytesIO, samples: np.ndarray, jpeg: bool) -> None:
    import imageio.v3 as iio

    samples = samples[..., 0] if samples.shape[-1] == 1 else samples
    if jpeg:
        iio.imwrite(file, samples, plugin="pillow", extension=".jpg", quality=95, subsampling=0)
    else:
        iio.imwrite(file, samples, plugin="pillow", extension=".png")


def _encode_png16(file: io.BytesIO, samples: np.ndarray) -> None:
    import png

    height, width, channels = samples.shape
    writer = png.Writer(width, height, greyscale=channels < 3, alpha=channels % 2 == 0, bitdepth=16)
    writer.write(file, samples.reshape(height, width * channels))


def _encode_tiff(file: io.BytesIO, samples: np.ndarray) -> None:
    import tifffile

    channels = samples.shape[-1]
    tifffile.imwrite(
        file,
        samples[..., 0] if channels == 1 else samples,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig=None if channels == 1 else "contig",
        extrasamples=["unassalpha"] if channels % 2 == 0 else None,
        metadata=None,
    )


def _write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write beside the target, then rename, which the file system does at once or not at all."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a full disk may show only here
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


# Borders


def pad_to_multiple(
    image: Float[np.ndarray, "*batch height width channels"],
    multiple: int,
    *,
    mode: Literal["reflect", "symmetric", "edge", "wrap"] = "reflect",
) -> tuple[Float[np.ndarray, "*batch padded_height padded_width channels"], Box]:
    """Pad an image at its bottom and right until its sides are multiples of what a model needs.

    Args:
        image: of any size from one pixel on; where the padding exceeds it, it is reflected repeatedly.
        multiple: at least 1.
        mode: what to pad with, as in `numpy.pad`.

    Returns:
        The padded image, and the box for `crop` that holds the original.

    Raises:
        ValueError: the array has no pixels, or the multiple is not positive.
    """
    height, width = _check_borders(image, multiple)
    padding = [(0, 0)] * (image.ndim - 3) + [(0, -height % multiple), (0, -width % multiple), (0, 0)]
    return np.pad(image, padding, mode=mode), (slice(0, height), slice(0, width))


def fit_square(image: Float[np.ndarray, "height width channels"], side: int) -> Float[np.ndarray, "side side channels"]:
    """Cut the middle square out of an image and scale it.

    Bilinear; where the result is smaller, each of its pixels averages the area that it stands for (no aliasing).

    Args:
        image: of any size from one pixel on.
        side: pixels along a side of the result.

    Returns:
        The square, float32.

    Raises:
        ValueError: the array has no pixels, or the side is not positive.
    """
    height, width = _check_borders(image)
    if side < 1:
        raise ValueError(f"expected a side of at least 1, got {side}")
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = np.asarray(image[top : top + edge, left : left + edge], np.float32)
    if edge == side:
        return square
    import PIL.Image

    size, how = (side, side), PIL.Image.Resampling.BILINEAR
    return np.stack([np.asarray(PIL.Image.fromarray(c).resize(size, how)) for c in np.moveaxis(square, -1, 0)], -1)


def crop(image: Any, box: Box) -> Any:
    """Cut out of a padded image what was there before.

    Args:
        image: (..., H, W, C), a NumPy or a JAX array.
        box: as returned by `pad_to_multiple` or `extend_periodic`.

    Returns:
        The part of the image in the box.
    """
    return image[..., box[0], box[1], :]


def extend_periodic(
    image: Float[np.ndarray, "*batch height width channels"],
    margin: int,
    multiple: int = 1,
    kernel: Float[np.ndarray, "kernel_height kernel_width"] | None = None,
    *,
    smoothness: float = 0.03,
    steps: int = 30,
) -> tuple[Float[np.ndarray, "*batch extended_height extended_width channels"], Box]:
    """Extend a blurred photograph so that its opposite borders meet, for a solver with a circular blur.

    A photograph is not periodic, and a circular deconvolution of it rings at the borders. The extension is
    what a circular blur of some smooth image would have given there: with M the image's place in the
    extended domain and K the circular blur, a conjugate gradient solves

        x = argmin ½‖M(Kx − y)‖² + ½ smoothness ‖∇x‖²

    and Kx continues y beyond its borders, where y itself is kept. Without a kernel K is the identity, and
    the extension is the smoothest (harmonic) one. With the kernel a deconvolution of the extended image is
    within 0.3 dB of this least-squares fit of the open border itself; without it, 1 to 3 dB below.

    Args:
        image: the blurred photograph, in any unit.
        margin: pixels that are added at least at each side; half the kernel's size or more.
        multiple: the sides of the result are multiples of it.
        kernel: the point spread function, whose sum is 1, centre at size // 2; None if not known.
        smoothness: weight of the gradient; larger for noisier images, uncritical from 0.01 to 0.1.
        steps: of the conjugate gradient.

    Returns:
        The extended image, float32, and the box for `crop` that holds the original.

    Raises:
        ValueError: wrong rank, negative margin, a multiple that is not positive, a kernel that is not a
            matrix or is larger than the extended image.

    The idea is that of Reeves, "Fast image restoration without boundary artifacts", IEEE TIP 14(10), 2005;
    the harmonic extension is that of Liu and Jia, "Reducing boundary artifacts in image deconvolution",
    ICIP 2008.
    """
    height, width = _check_borders(image, multiple)
    if margin < 0:
        raise ValueError(f"expected a margin of at least 0, got {margin}")
    sides = tuple(-(-(side + 2 * margin) // multiple) * multiple for side in (height, width))
    top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
    box = (slice(top, top + height), slice(left, left + width))
    if sides == (height, width):
        return image.astype(np.float32), box

    point_spread = np.zeros(sides, np.float32)
    kernel = np.ones((1, 1), np.float32) if kernel is None else np.asarray(kernel, np.float32)
    if kernel.ndim != 2 or kernel.shape[0] > sides[0] or kernel.shape[1] > sides[1]:
        raise ValueError(f"expected a kernel (height, width) of at most {sides}, got {kernel.shape}")
    point_spread[: kernel.shape[0], : kernel.shape[1]] = kernel
    point_spread = np.roll(point_spread, (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1))

    # Channels first, which the Fourier transforms like better.
    blur = np.fft.rfft2(point_spread)
    rows, columns = np.fft.fftfreq(sides[0])[:, None], np.fft.rfftfreq(sides[1])
    laplacian = 4 - 2 * np.cos(2 * np.pi * rows) - 2 * np.cos(2 * np.pi * columns)
    penalty = (smoothness * laplacian).astype(np.float32)
    # Parseval: a half spectrum stands for the whole one, whose inner columns it holds once.
    twice = np.where((columns == 0) | (columns == 0.5), 1, 2).astype(np.float32)

    def inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sum(twice * (a.real * b.real + a.imag * b.imag), axis=(-2, -1), keepdims=True)

    def blurred(spectrum: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(blur * spectrum, s=sides)

    def masked_adjoint(extended: np.ndarray) -> np.ndarray:
        inside = np.zeros_like(extended)
        inside[..., *box] = extended[..., *box]
        return np.conj(blur) * np.fft.rfft2(inside)

    channels = np.moveaxis(image, -1, -3).astype(np.float32)
    mean = channels.mean(axis=(-2, -1), keepdims=True, dtype=np.float64).astype(np.float32)
    observed = np.zeros((*channels.shape[:-2], *sides), np.float32)
    observed[..., *box] = channels - mean

    # Conjugate gradient on the spectrum of x, each channel with its own step, preconditioned as if the
    # image's share of the domain were spread evenly.
    precondition = 1 / (np.abs(blur) ** 2 * (height * width / (sides[0] * sides[1])) + penalty)
    tiny = np.finfo(np.float32).tiny  # a constant image is solved at the start: 0 / 0
    residual = masked_adjoint(observed)
    x = np.zeros_like(residual)
    direction = precondition * residual
    energy = inner(residual, direction)
    for _ in range(steps):
        image_of_direction = masked_adjoint(blurred(direction)) + penalty * direction
        step = energy / np.maximum(inner(direction, image_of_direction), tiny)
        x += step * direction
        residual -= step * image_of_direction
        conditioned = precondition * residual
        previous, energy = energy, inner(residual, conditioned)
        direction = conditioned + energy / np.maximum(previous, tiny) * direction

    extended = blurred(x) + mean
    extended[..., *box] = channels
    return np.moveaxis(extended, -3, -1), box


def _check_borders(image: np.ndarray, multiple: int = 1) -> tuple[int, int]:
    if image.ndim < 3 or image.size == 0:
        raise ValueError(f"expected an image (..., height, width, channels), got shape {image.shape}")
    if multiple < 1:
        raise ValueError(f"expected a multiple of at least 1, got {multiple}")
    return image.shape[-3], image.shape[-2]


# Noise


def estimate_noise_std(pixels: Float[np.ndarray, "*batch height width channels"]) -> float:
    """Estimate the deviation of white Gaussian noise in a picture.

        σ = median |d| / 0.6745

    where d is the picture's finest diagonal detail, here the fourth difference along rows and columns scaled
    to unit norm. It cancels cubic polynomials, so that what is left of a blurred picture is the noise; of a
    sharp and textured picture some texture is left and the estimate is too high. Noise that is not white
    (a demosaicked or a compressed picture) is underestimated.

    Args:
        pixels: in [0, 1], at least 5x5. Neighbourhoods with samples clipped to 0 or 1 are left out.

    Returns:
        The deviation in the unit of the pixels, 0 where all of them are clipped.

    Raises:
        ValueError: the picture is smaller than 5x5.

    Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81, 1994; fourth
    difference instead of a wavelet.
    """
    if pixels.ndim < 3 or min(pixels.shape[-3:-1]) < 5:
        raise ValueError(f"expected an image of at least 5x5 pixels, got shape {pixels.shape}")
    detail = np.asarray(pixels, np.float32)
    clipped = (detail == 0) | (detail == 1)
    for axis in (-3, -2):
        detail = np.diff(detail, 4, axis=axis) / np.float32(math.sqrt(70))  # 1 + 16 + 36 + 16 + 1
        clipped = np.lib.stride_tricks.sliding_window_view(clipped, 5, axis=axis).any(axis=-1)
    usable = np.abs(detail[~clipped])
    return float(np.median(usable) / 0.6745) if usable.size else 0.0


# Kernels


def parse_kernel(
    spec: str, max_shape: tuple[int, int] | None = None
) -> Float[np.ndarray, "kernel_height kernel_width"]:
    """Make the blur kernel that a user describes on the command line.

    Args:
        spec: one of `gaussian:WIDTH` (standard deviation in pixels), `motion:LENGTH,ANGLE` (pixels; degrees
            counter-clockwise from the horizontal), or a file: .npy, .npz (`file.npz:name` where it holds
            several arrays), .txt or .csv (rows of numbers), or an image (its channels are averaged).
        max_shape: height and width of the image to be restored, which the kernel must not exceed.

    Returns:
        The kernel, float32, not negative, with sum 1; its centre is at size // 2.

    Raises:
        ImageError: the description is not understood, the file cannot be read, or it holds no kernel.
    """
    kind, _, numbers = spec.partition(":")
    if kind in _MADE_KERNELS:
        make, names = _MADE_KERNELS[kind]
        try:
            values = [float(number) for number in numbers.split(",")]
        except ValueError:
            values = []
        if len(values) != len(names) or not all(map(math.isfinite, values)):
            wanted = f"{kind}:{','.join(names)}"
            raise ImageError(f"kernel {spec}: expected {wanted} with numbers, got {numbers!r}")
        if not 0 < values[0] <= _MAX_KERNEL_WIDTH:
            wanted = f"a {names[0]} above 0 and at most {_MAX_KERNEL_WIDTH}"
            raise ImageError(f"kernel {spec}: expected {wanted}, got {values[0]:g}")
        kernel = make(*values)
    else:
        kernel = _read_kernel(spec)
    if kernel.ndim != 2 or kernel.size == 0 or kernel.dtype.kind not in "biuf":
        raise ImageError(
            f"kernel {spec}: expected a matrix of numbers, got shape {kernel.shape} of type {kernel.dtype}"
        )
    if not np.isfinite(kernel).all() or kernel.min() < 0 or kernel.max() == 0:
        raise ImageError(f"kernel {spec}: expected finite numbers of at least 0 and not all 0, got others")
    if max_shape is not None and (kernel.shape[0] > max_shape[0] or kernel.shape[1] > max_shape[1]):
        raise ImageError(f"kernel {spec}: expected at most the image's {max_shape} pixels, got {kernel.shape}")
    weights = kernel.astype(np.float64) / float(kernel.max())  # first, for the sum must not overflow
    return (weights / weights.sum()).astype(np.float32)


def _gaussian(width: float) -> np.ndarray:
    radius = math.ceil(3 * width)
    profile = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    return np.outer(profile, profile)


def _motion(length: float, angle: float) -> np.ndarray:
    """A straight path; a pixel weighs 1 less its distance to it, so that lines of any angle are smooth."""
    half = max(length - 1, 0) / 2
    right, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # A rounding error of the sine must not add an empty row.
    reach_y, reach_x = (math.ceil(half * abs(part) - 1e-9) for part in (up, right))
    y, x = np.mgrid[-reach_y : reach_y + 1, -reach_x : reach_x + 1]
    along = np.clip(x * right - y * up, -half, half)  # rows count downwards
    distance = np.hypot(x - along * right, y + along * up)
    return np.maximum(0, 1 - distance)


_MADE_KERNELS: dict[str, tuple[Callable[..., np.ndarray], tuple[str, ...]]] = {
    "gaussian": (_gaussian, ("WIDTH",)),
    "motion": (_motion, ("LENGTH", "ANGLE")),
}


def _read_kernel(spec: str) -> np.ndarray:
    member = re.fullmatch(r"(.+\.npz):(.+)", spec, re.IGNORECASE)
    path, name = (Path(member[1]), member[2]) if member and not os.path.exists(spec) else (Path(spec), None)
    if not os.path.exists(path):
        wanted = "gaussian:WIDTH, motion:LENGTH,ANGLE or a file"
        raise ImageError(f"kernel {spec}: expected {wanted}, but there is no such file")
    _check_is_file(path)
    suffix = path.suffix.lower()
    if suffix not in (*SUFFIXES, ".npz", ".txt", ".csv"):
        raise ImageError(
            f"{path}: expected a kernel file ending in {', '.join(SUFFIXES)}, .npz, .txt or .csv, "
            f"got {suffix or 'no ending'}"
        )
    if suffix in SUFFIXES and suffix not in _NPY:
        return read_image(path).pixels.mean(axis=-1)
    try:
        if suffix in _NPY:
            return _decode_npy(path)
        if suffix == ".npz":
            return _member(path, name)
        lines = path.read_text(encoding="utf-8-sig").replace(",", " ").splitlines()
        return np.array([[float(number) for number in line.split()] for line in lines if line.strip()])
    except ImageError:
        raise
    except Exception as error:  # damaged archives raise nearly anything
        raise ImageError(f"{path}: expected a kernel, got: {_reason(error)}") from error


def _member(path: Path, name: str | None) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        if name is None and len(names) == 1:
            name = names[0]
        if name is None:
            choice = f"choose with {path}:NAME from {', '.join(names)}"
            raise ImageError(f"{path}: expected one array, got {len(names)}; {choice}")
        if name not in names:
            raise ImageError(f"{path}: expected an array named {name}, got {', '.join(names)}")
        return archive[name]
