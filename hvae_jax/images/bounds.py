"""What a damaged or hostile file may ask for: no more than its size and its header account for."""

import math
import os
import warnings
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from hvae_jax.images.formats import FilePath, ImageError, OpenFile, Source, name_of

MOST_PACKED = 1100
"""Bytes of samples that a byte of a file stands for, at most, in the formats that lose nothing but AVIF and WebP."""

MOST_VALUES = 10**9
"""Of a picture, over all channels; Pillow has such a bound of its own for the formats that it reads."""


def check_declared(source: Source, file: OpenFile, height: int, width: int) -> None:
    """Refuse a header that tells of more pixels than a file of this size can hold, before there is room made for them.

    Deflate, LZW and runs of equal samples pack at most about a thousand bytes, of at least an eighth of a pixel each,
    into one.
    """
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    if height * width > 8 * MOST_PACKED * size:
        raise ImageError(f"{name_of(source)}: expected a picture that fits its {size} bytes, got {height}x{width}")


def declared_size(path: FilePath) -> tuple[int, int] | None:
    """Height and width that a file's header tells, without decoding it; None where only decoding it does."""
    import PIL.Image

    try:
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(path) as image:  # of many pixels it warns
            return image.height, image.width
    except Exception:  # it is of another format, or damaged; reading it says which
        return None


def check_inflated(name: str, parts: Iterable[bytes], size: int) -> None:
    """Refuse deflated data of more than so many bytes, without inflating more; decoders would inflate it all."""
    inflate, left = zlib.decompressobj(), size
    for part in parts:
        while part:
            inflated = len(inflate.decompress(part, min(left + 1, 1 << 20)))
            left -= inflated
            if left < 0:
                raise ImageError(f"{name}: expected {size} bytes of samples, as its header says, got more")
            part = inflate.unconsumed_tail
            if inflate.eof:
                return


def decode_npy(file: BinaryIO | OpenFile, size: int) -> np.ndarray:
    """The array of a NPY file of so many bytes."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"expected version 1 or 2 of the NPY format, got {version}")
    shape, _, dtype = read_header(file)
    if math.prod(shape) * dtype.itemsize > size:  # before so much memory is asked for
        raise ValueError(f"expected an array of at most the file's {size} bytes, got {shape} of {dtype}")
    file.seek(0)
    # Unlike numpy.load, this never takes it for an archive or a pickle.
    return np.lib.format.read_array(file, allow_pickle=False)
