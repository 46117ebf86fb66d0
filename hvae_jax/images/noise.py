"""The noise of a picture, estimated."""

import math

import numpy as np
from jaxtyping import Float


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
