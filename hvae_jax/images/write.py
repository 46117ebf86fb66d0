"""Pictures written to files, all or nothing."""

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from hvae_jax.files import write_atomically
from hvae_jax.images.read import JPEG, NPY, PNG, TIFF, FilePath, ImageError, check_suffix, reason


def check_writable(path: FilePath, overwrite: bool = False) -> None:
    """Refuse now an output file that `write_image` would refuse after the work.

    Args:
        path: the file to be written; missing folders of it will be made.
        overwrite: whether it may exist.

    Raises:
        ImageError: unknown file type, existing file, or no folder to write to.
    """
    path = Path(path)
    check_suffix(path)
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
    values = _stack_channels(path, pixels, None if suffix in JPEG else alpha)
    buffer = io.BytesIO()
    try:
        if suffix in NPY:
            np.save(buffer, values)
        elif suffix in TIFF:
            _encode_tiff(buffer, values if bit_depth == 32 else _quantise(values, bit_depth))
        elif suffix in PNG and bit_depth > 8:
            _encode_png16(buffer, _quantise(values, 16))
        else:
            _encode_8bit(buffer, _quantise(values, 8), jpeg=suffix in JPEG)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getbuffer())
    except OSError as error:
        raise ImageError(f"{path}: expected to write the file, got: {reason(error)}") from error


def _stack_channels(path: Path, pixels: ArrayLike, alpha: ArrayLike | None) -> np.ndarray:
    if np.asarray(pixels).dtype.kind in "iu":
        raise ImageError(f"{path}: expected pixels as numbers in [0, 1], got {np.asarray(pixels).dtype}")
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
