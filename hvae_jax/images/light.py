"""Light, and the samples by which a display shows it."""

import numpy as np

LIGHTS = ("display", "linear")


SRGB_CURVE = (2.4, 12.92)
"""The power and the slope at black of sRGB's samples, as LibRaw wants them."""


def to_linear(pixels: np.ndarray) -> np.ndarray:
    """The light of sRGB's samples, continued linearly outside of [0, 1] (IEC 61966-2-1)."""
    inside = np.clip(pixels, 0, 1)
    curved = np.where(inside <= 0.04045, inside / 12.92, ((inside + 0.055) / 1.055) ** 2.4)
    return (curved + np.where(pixels > 1, 2.4 / 1.055, 1 / 12.92) * (pixels - inside)).astype(np.float32)


def to_display(light: np.ndarray) -> np.ndarray:
    """The inverse of `to_linear`."""
    inside = np.clip(light, 0, 1)
    curved = np.where(inside <= 0.0031308, 12.92 * inside, 1.055 * inside ** (1 / 2.4) - 0.055)
    return (curved + np.where(light > 1, 1.055 / 2.4, 12.92) * (light - inside)).astype(np.float32)
