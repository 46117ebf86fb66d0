"""The middle squares of photographs, which make one array."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hvae_jax.images.formats import FilePath, ImageError, list_images, reason
from hvae_jax.images.read import read_image


class Squares(NamedTuple):
    """Images of one size.

    Attributes:
        names: of their files.
        pixels: in [0, 1].
        source: where they come from, in words.
    """

    names: tuple[str, ...]
    pixels: Float[np.ndarray, "N S S 3"]
    source: str

    @property
    def digest(self) -> str:
        """Of the pixels, to tell whether a result that was kept is of the same images."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()[:16]


def read_squares(path: FilePath, size: int, count: int | None = None) -> Squares:
    """Read the middle squares of photographs, grey ones with three equal channels.

    Args:
        path: a folder, whose images are taken by name; a text file (.txt) that names images, one path a line,
            relative to the folder above its own (`data/test/cbsd10.txt` names `test/bsds500_val/3096.jpg`); or one
            image.
        size: side of the squares in pixels.
        count: take the first ones only.

    Returns:
        The squares, as many as there are images, at most `count`.

    Raises:
        ImageError: there is no image, one cannot be read, or is smaller than the square.
    """
    path = Path(path)
    files = (_listed(path) if path.is_file() and path.suffix == ".txt" else list_images(path))[:count]
    squares = []
    for file in files:
        pixels = read_image(file).pixels
        if min(pixels.shape[:2]) < size:
            raise ImageError(f"{file}: expected at least {size}x{size} pixels, got {pixels.shape[0]}x{pixels.shape[1]}")
        top, left = ((side - size) // 2 for side in pixels.shape[:2])
        squares.append(np.broadcast_to(pixels[top : top + size, left : left + size], (size, size, 3)))
    names = tuple(file.stem for file in files)
    return Squares(names, np.stack(squares), f"{len(names)} of {path.name}, the middle {size}x{size} pixels")


def _listed(path: Path) -> list[Path]:
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{path}: expected a list of images, got: {reason(error)}") from error
    files = [path.resolve().parent.parent / name.strip() for name in names if name.strip()]
    if not files:
        raise ImageError(f"{path}: expected a list of images, one path a line, found none")
    return files
