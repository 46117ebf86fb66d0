"""Cameras' raw files: demosaicked to sRGB's samples, with the noise that a DNG says its sensor has."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, UInt16

from hvae_jax.images.formats import TIFF_SIGNATURES, OpenFile, Source, missing_package
from hvae_jax.images.light import SRGB_CURVE, to_linear

NOISE_PROFILE = 51041
"""The tag of a DNG's noise model."""

Profile: TypeAlias = tuple[float, float]
"""S and O of a sensor whose sample x, of light in [0, 1], has noise of variance S x + O."""


def decode(source: Source, file: OpenFile) -> tuple[UInt16[np.ndarray, "height width 3"], Profile | None]:
    """A raw file's samples, and its noise profile where it is a DNG that has one."""
    try:
        import rawpy
    except ImportError:
        raise missing_package(source, "rawpy", "a camera's raw file") from None
    with rawpy.imread(file) as raw:
        samples = raw.postprocess(use_camera_wb=True, no_auto_bright=True, output_bps=16, gamma=SRGB_CURVE)
    file.seek(0)
    return samples, _profile(file) if file.read(4) in TIFF_SIGNATURES else None


def _profile(file: OpenFile) -> Profile | None:
    import tifffile

    file.seek(0)
    with quiet(), tifffile.TiffFile(file) as tiff:
        pages: list[Any] = list(tiff.pages)
        found = next((page.tags[NOISE_PROFILE].value for page in pages if NOISE_PROFILE in page.tags), None)
    if found is None:
        return None
    scale, offset = np.asarray(found, np.float64).reshape(-1, 2).mean(axis=0)
    return (float(scale), float(offset)) if 0 <= scale <= 1 and 0 <= offset <= 1 else None


def noise_std(profile: Profile, pixels: Float[np.ndarray, "height width channels"]) -> float:
    """The deviation of the noise of a picture in sRGB's samples, whose curve stretches that of the light."""
    scale, offset = profile
    shown, step = np.clip(pixels, 0, 1), 1e-3
    slope = (to_linear(shown + step) - to_linear(shown)) / step
    return math.sqrt(float(np.mean((scale * to_linear(shown) + offset) / slope**2)))


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps off stderr what tifffile says of a damaged file besides raising an error."""
    logger = logging.getLogger("tifffile")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    yield
