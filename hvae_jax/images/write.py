"""Pictures written to files, all or nothing."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hvae_jax.files import write_atomically
from hvae_jax.images import metadata as around
from hvae_jax.images.formats import (
    AVIF,
    BMP,
    FITS,
    JPEG,
    NPY,
    PNG,
    TIFF,
    WEBP,
    FilePath,
    ImageError,
    OpenFile,
    check_suffix,
    reason,
)
from hvae_jax.images.metadata import NOTHING, Metadata


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
    metadata: Metadata = NOTHING,
    premultiplied: bool = False,
    finite: bool = True,
) -> None:
    """Write an image, all or nothing: a failure leaves neither a part of it nor a temporary file.

    The suffix chooses the format. Where the format has no such bit depth the next that it has is taken: PNG
    holds 8 and 16, JPEG 8 (quality 95, colour not subsampled, alpha dropped), TIFF 8, 16 and 32, WebP (lossless) and
    AVIF (quality 95) and BMP 8, NPY and FITS always float32. Integer samples are clipped to [0, 1] and rounded, float
    samples are kept as they are. A symbolic link is written through.

    Args:
        path: the file; missing folders are made.
        pixels: (H, W), (H, W, 1) or (H, W, 3), in [0, 1].
        bit_depth: 8, 16, or 32 for float.
        alpha: opacity, (H, W) or (H, W, 1), in [0, 1].
        overwrite: whether an existing file may be replaced.
        metadata: what the file is to say besides, where its format can.
        premultiplied: whether a TIFF file is to hold pixels times alpha.
        finite: whether NaN and infinity are refused; where they are not, the file must hold floats.

    Raises:
        ImageError: the values are not an image, or the file cannot be written.
    """
    path = Path(path)
    check_writable(path, overwrite)
    buffer = io.BytesIO()
    encode_image(
        buffer,
        path.suffix.lower(),
        pixels,
        name=str(path),
        bit_depth=bit_depth,
        alpha=alpha,
        metadata=metadata,
        premultiplied=premultiplied,
        finite=finite,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path.resolve(), buffer.getbuffer())
    except OSError as error:
        raise ImageError(f"{path}: expected to write the file, got: {reason(error)}") from error


def encode_image(
    file: OpenFile,
    suffix: str,
    pixels: ArrayLike,
    *,
    name: str = "standard output",
    bit_depth: int = 8,
    alpha: ArrayLike | None = None,
    metadata: Metadata = NOTHING,
    premultiplied: bool = False,
    finite: bool = True,
) -> None:
    """Write an image into an open file; see `write_image`.

    Args:
        file: the file.
        suffix: that names the format, ".png" for example.
        pixels: see there.
        name: what an error calls the file.
        bit_depth: see there.
        alpha: see there.
        metadata: see there.
        premultiplied: see there.
        finite: see there.

    Raises:
        ImageError: the values are not an image, or the format cannot hold it.
    """
    if bit_depth not in (8, 16, 32):
        raise ImageError(f"{name}: expected a bit depth of 8, 16 or 32, got {bit_depth}")
    values = _stack_channels(name, pixels, None if suffix in (*JPEG, *BMP, *FITS) else alpha)
    holds_floats = suffix in (*NPY, *FITS) or (suffix in TIFF and bit_depth == 32)
    if not (np.isfinite(values).all() or (holds_floats and not finite)):
        raise ImageError(f"{name}: expected finite pixels to write, got NaN or infinity")
    metadata = metadata.sized(*values.shape[:2]).for_channels(1 if values.shape[-1] < 3 else 3)
    try:
        if suffix in NPY:
            np.save(file, values)
        elif suffix in FITS:
            _encode_fits(file, values, name)
        elif suffix in TIFF:
            if premultiplied and values.shape[-1] % 2 == 0:
                values = np.concatenate([values[..., :-1] * values[..., -1:], values[..., -1:]], axis=-1)
            _encode_tiff(file, values if bit_depth == 32 else _quantise(values, bit_depth), metadata, premultiplied)
        elif suffix in PNG and bit_depth > 8:
            _encode_png16(file, _quantise(values, 16), metadata)
        else:
            _encode_8bit(file, _quantise(values, 8), suffix, metadata)
    except OSError as error:
        raise ImageError(f"{name}: expected to write the file, got: {reason(error)}") from error


def _stack_channels(name: str, pixels: ArrayLike, alpha: ArrayLike | None) -> np.ndarray:
    if np.asarray(pixels).dtype.kind in "iu":
        raise ImageError(f"{name}: expected pixels as numbers in [0, 1], got {np.asarray(pixels).dtype}")
    values = np.asarray(pixels, np.float32)
    shape = values.shape
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] not in (1, 3) or values.size == 0:
        raise ImageError(f"{name}: expected pixels (height, width) or (height, width, 1 or 3), got {shape}")
    if alpha is not None:
        opacity = np.asarray(alpha, np.float32)
        if opacity.shape not in (values.shape[:2], (*values.shape[:2], 1)):
            raise ImageError(f"{name}: expected alpha of shape {values.shape[:2]}, got {opacity.shape}")
        values = np.concatenate([values, opacity.reshape(*values.shape[:2], 1)], axis=-1)
    return values


def _quantise(values: np.ndarray, bit_depth: int) -> np.ndarray:
    scaled = np.rint(np.clip(values, 0, 1) * (2**bit_depth - 1))
    return scaled.astype(np.uint8 if bit_depth == 8 else np.uint16)


_PILLOW: dict[str, tuple[str, dict[str, Any]]] = {
    # The default, 6, takes twice as long for a photograph and saves less than a hundredth.
    **dict.fromkeys(PNG, ("PNG", {"compress_level": 4})),
    **dict.fromkeys(JPEG, ("JPEG", {"quality": 95, "subsampling": 0})),
    **dict.fromkeys(WEBP, ("WEBP", {"lossless": True, "exact": True})),  # exact: hidden pixels keep their colours
    **dict.fromkeys(AVIF, ("AVIF", {"quality": 95, "subsampling": "4:4:4"})),
    **dict.fromkeys(BMP, ("BMP", {})),
}


def _encode_8bit(file: OpenFile, samples: np.ndarray, suffix: str, metadata: Metadata) -> None:
    import PIL.Image

    kind, options = _PILLOW[suffix]
    image = PIL.Image.fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples)
    image.save(file, kind, **options, **around.pillow_options(metadata, kind))


def _encode_png16(file: OpenFile, samples: np.ndarray, metadata: Metadata) -> None:
    import png

    height, width, channels = samples.shape
    plain = io.BytesIO()
    writer = png.Writer(width, height, greyscale=channels < 3, alpha=channels % 2 == 0, bitdepth=16)
    writer.write(plain, samples.reshape(height, width * channels))
    plain.seek(0)
    header, *rest = png.Reader(file=plain).chunks()
    png.write_chunks(file, [header, *around.png_chunks(metadata), *rest])


def _encode_tiff(file: OpenFile, samples: np.ndarray, metadata: Metadata, premultiplied: bool) -> None:
    import tifffile

    channels = samples.shape[-1]
    tags, options = around.tiff_tags(metadata)
    plain = io.BytesIO()
    tifffile.imwrite(
        plain,
        samples[..., 0] if channels == 1 else samples,
        byteorder="<",
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig=None if channels == 1 else "contig",
        extrasamples=["assocalpha" if premultiplied else "unassalpha"] if channels % 2 == 0 else None,
        metadata=None,
        software=False,
        extratags=tags,
        **options,
    )
    content = bytearray(plain.getbuffer())
    around.add_tiff_directories(content, metadata)
    file.write(content)


def _encode_fits(file: OpenFile, values: np.ndarray, name: str) -> None:
    from hvae_jax.images.formats import missing_package

    try:
        from astropy.io import fits
    except ImportError:
        raise missing_package(name, "astropy", "a FITS file") from None
    planes = values[..., 0] if values.shape[-1] == 1 else np.moveaxis(values, -1, 0)
    fits.PrimaryHDU(np.ascontiguousarray(planes)).writeto(file)
