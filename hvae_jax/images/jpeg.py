"""What a JPEG file says of a picture: the cosine coefficients of its blocks, each to within its quantisation step."""

import io
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.fft import dctn, idctn

SIDE = 8
"""Pixels along a side of a block."""

SNAPPED = 3
"""Steps of at least so many grey levels are found again in the decoded samples, which are rounded to whole ones."""


class Coefficients(NamedTuple):
    """The coefficients of a JPEG, as `operators.Jpeg` has them, with the units that its picture fills.

    Attributes:
        values: of each unit, luminance's blocks in reading order and then the colour differences', in the images'
            unit, offsets added: (rows, columns, coefficients).
        steps: quantisation tables in grey levels of 255, of the luminance and, if it has colours, of the differences.
        sampling: rows and columns of pixels that share a colour.
        size: height and width of the picture in pixels, as it is stored (EXIF may turn it).
        orientation: by EXIF, 1 to 8.
    """

    values: Float[np.ndarray, "rows columns coefficients"]
    steps: tuple[Float[np.ndarray, "8 8"], ...]
    sampling: tuple[int, int]
    size: tuple[int, int]
    orientation: int


def quantisation(file: bytes) -> Float[np.ndarray, "8 8"] | None:
    """The quantisation steps of the luminance, in grey levels of 255, lowest frequency first."""
    import PIL.Image

    with PIL.Image.open(io.BytesIO(file), formats=("JPEG",)) as image:
        return _tables(image).get(0)


def rounding_std(steps: Float[np.ndarray, "8 8"]) -> float:
    """Deviation of the error of coefficients that are rounded to steps in grey levels of 255, in the images' unit."""
    return math.sqrt(float(np.mean(steps**2)) / 12) / 255


def coefficients(file: bytes, multiple: int = 1) -> Coefficients | None:
    """Find the coefficients that a file holds.

    They are computed from the decoded luminance and colour differences, whose rounding to whole grey levels is
    undone by rounding to multiples of the steps. The smoothing by which libjpeg enlarges colour differences is undone
    too: its mean over the pixels that share a colour is a filter (1, 6, 1)/8, diagonal in a cosine transform.

    Args:
        file: the file's bytes.
        multiple: of the result's sides in pixels: beyond what the picture fills it is mirrored.

    Returns:
        The coefficients; None for what is no usual JPEG (CMYK, RGB, another sampling).
    """
    import PIL.Image

    with PIL.Image.open(io.BytesIO(file), formats=("JPEG",)) as image:
        layers, tables = getattr(image, "layer", []), _tables(image)
        grey = image.mode == "L" and len(layers) == 1
        colour = image.mode == "RGB" and len(layers) == 3 and image.info.get("adobe_transform", 1) == 1
        if not (grey or colour) or any(layer[3] not in tables for layer in layers):
            return None
        sampling = (layers[0][2], layers[0][1]) if colour else (1, 1)
        if sampling not in ((1, 1), (1, 2), (2, 1), (2, 2)) or any(layer[1:3] != (1, 1) for layer in layers[1:]):
            return None
        orientation = image.getexif().get(0x0112, 1)
        if colour:
            image.draft("YCbCr", image.size)
        image.load()
        planes = np.asarray(image, np.float64).reshape(image.height, image.width, -1)
    planes = planes - np.array([0, 128, 128])[: planes.shape[-1]]
    size = planes.shape[:2]
    steps = tuple(tables[layer[3]].astype(np.float64) for layer in layers)
    known = tuple(side - side % (SIDE * s) for side, s in zip(size, sampling, strict=True))
    multiples = [math.lcm(SIDE * s, multiple) for s in sampling]
    padding = [(0, -side % one) for side, one in zip(size, multiples, strict=True)]
    luminance = np.pad(planes[..., 0], padding, mode="symmetric")
    parts = [_in_units(_snapped(_blocks(luminance), steps[0], known, offset=128), sampling)]
    for plane, step in zip(np.moveaxis(planes[..., 1:], -1, 0), steps[1:], strict=True):
        shared = _unsmoothed(plane, sampling)
        wanted = [(side + more[1]) // s for side, more, s in zip(size, padding, sampling, strict=True)]
        room = [(0, side - have) for side, have in zip(wanted, shared.shape, strict=True)]
        small = np.pad(shared, room, mode="symmetric")
        inside = tuple(side // s for side, s in zip(known, sampling, strict=True))
        parts.append(_in_units(_snapped(_blocks(small), step, inside), (1, 1)))
    values = np.concatenate(parts, axis=-1) / 255
    return Coefficients(values.astype(np.float32), steps, sampling, (size[0], size[1]), orientation)


def _tables(image: Any) -> dict[int, np.ndarray]:
    found = getattr(image, "quantization", {})
    return {index: np.array(table, np.float32).reshape(SIDE, SIDE) for index, table in found.items()}


def _unsmoothed(plane: np.ndarray, sampling: tuple[int, int]) -> np.ndarray:
    """A colour difference at the resolution that the file has, from libjpeg's smooth enlargement."""
    if sampling == (1, 1):
        return plane
    plane = np.pad(plane, [(0, -side % s) for side, s in zip(plane.shape, sampling, strict=True)], mode="edge")
    height, width = plane.shape[0] // sampling[0], plane.shape[1] // sampling[1]
    mean = plane.reshape(height, sampling[0], width, sampling[1]).mean(axis=(1, 3))
    gains = [
        0.75 + 0.25 * np.cos(np.pi * np.arange(side) / side) if s == 2 else np.ones(side)
        for side, s in zip(mean.shape, sampling, strict=True)
    ]
    return idctn(dctn(mean, norm="ortho") / np.outer(*gains), norm="ortho")


def _blocks(plane: np.ndarray) -> np.ndarray:
    """The transforms of a plane's blocks, (rows, columns, 8, 8)."""
    rows, columns = plane.shape[0] // SIDE, plane.shape[1] // SIDE
    cut = plane.reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2)
    return dctn(cut, axes=(-2, -1), norm="ortho")


def _snapped(blocks: np.ndarray, step: np.ndarray, known: tuple[int, ...], offset: float = 0) -> np.ndarray:
    """Coefficients as multiples of their steps, in the blocks that the picture fills; `offset` is a plane's."""
    rows, columns = known[0] // SIDE, known[1] // SIDE
    shift = np.zeros((SIDE, SIDE))
    shift[0, 0] = SIDE * offset
    inner = blocks[:rows, :columns] - shift
    snapped = blocks.copy()
    snapped[:rows, :columns] = np.where(step >= SNAPPED, np.rint(inner / step) * step, inner) + shift
    return snapped


def _in_units(blocks: np.ndarray, sampling: tuple[int, int]) -> np.ndarray:
    """The coefficients of the blocks of each unit, (rows, columns, count)."""
    rows, columns = blocks.shape[0] // sampling[0], blocks.shape[1] // sampling[1]
    cut = blocks.reshape(rows, sampling[0], columns, sampling[1], SIDE * SIDE).swapaxes(1, 2)
    return cut.reshape(rows, columns, -1)
