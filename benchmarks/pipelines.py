"""Ordinary files of photographs, simulated: what happens between a scene and the picture that a user has.

A scene is blurred, measured with noise, and goes through one of nine pipelines to 8 bits. The clean picture is the
part of the scene whose blur it determines, so that the borders are those of a photograph.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import PIL.Image
from jaxtyping import Float
from scipy import ndimage

from hvae_jax.images import parse_kernel, read_image
from hvae_jax.training.iterates import random_kernels

BLURS = ("none", "gaussian", "disc", "bent")
"""Kernels; without one the task is denoising."""


class Picture(NamedTuple):
    """A simulated file.

    Attributes:
        name: pipeline and blur.
        pixels: what the file shows, in [0, 1].
        clean: what the scene was.
        kernel: of the blur, or None.
        file: its bytes.
    """

    name: tuple[str, str]
    pixels: Float[np.ndarray, "H W 3"]
    clean: Float[np.ndarray, "H W 3"]
    kernel: Float[np.ndarray, "kh kw"] | None
    file: bytes


def blur_kernel(blur: str, seed: int) -> Float[np.ndarray, "kh kw"] | None:
    """A kernel of sum 1: a Gaussian, a disc, or a bent path, of random size."""
    rng = np.random.default_rng(seed)
    if blur == "none":
        return None
    if blur == "gaussian":
        return parse_kernel(f"gaussian:{rng.uniform(1.2, 2.2):.2f}")
    if blur == "disc":
        radius = rng.uniform(2, 4)
        y, x = np.mgrid[-5:6, -5:6]
        disc = np.clip(radius + 0.5 - np.hypot(y, x), 0, 1)
        return (disc / disc.sum()).astype(np.float32)
    return np.asarray(random_kernels(jax.random.key(seed), 1)[0])


def _noise(rng: np.random.Generator, image: np.ndarray, sigma: float) -> np.ndarray:
    return image + sigma / 255 * rng.standard_normal(image.shape)


def _mosaic(rng: np.random.Generator, image: np.ndarray, sigma: float) -> np.ndarray:
    """A Bayer sensor's noisy samples, interpolated bilinearly."""
    masks = np.zeros((*image.shape[:2], 3))
    masks[::2, ::2, 0] = masks[::2, 1::2, 1] = masks[1::2, ::2, 1] = masks[1::2, 1::2, 2] = 1
    weights = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    samples = _noise(rng, image, sigma) * masks
    sums = [ndimage.convolve(samples[..., c], weights, mode="mirror") for c in range(3)]
    counts = [ndimage.convolve(masks[..., c], weights, mode="mirror") for c in range(3)]
    return np.stack(sums, -1) / np.stack(counts, -1)


def _grain(rng: np.random.Generator, image: np.ndarray, sigma: float) -> np.ndarray:
    """Film grain: correlated over about a pixel, mostly the same in all channels."""
    grey, colour = rng.standard_normal((*image.shape[:2], 1)), rng.standard_normal(image.shape)
    grain = ndimage.gaussian_filter(0.9 * grey + 0.45 * colour, (0.6, 0.6, 0))
    return image + sigma / 255 * grain / grain.std()


PIPELINES: dict[str, tuple[Callable[[np.random.Generator, np.ndarray], np.ndarray], int | None]] = {
    "png": (lambda rng, y: _noise(rng, y, 2), None),
    "jpeg-95": (lambda rng, y: _noise(rng, y, 1), 95),
    "jpeg-85": (lambda rng, y: _noise(rng, y, 3), 85),
    "jpeg-60": (lambda rng, y: _noise(rng, y, 2), 60),
    "bayer": (lambda rng, y: _mosaic(rng, y, 3), None),
    "bayer-jpeg": (lambda rng, y: _mosaic(rng, y, 3), 90),
    "night-jpeg": (lambda rng, y: _noise(rng, y, 8), 90),
    "grain": (lambda rng, y: _grain(rng, y, 8), None),
    "lights": (lambda rng, y: _noise(rng, y, 1.5), None),
}
"""What makes a file of an exposure, and the quality if it is a JPEG."""


def photograph(scene: Float[np.ndarray, "H W 3"], pipeline: str, blur: str, seed: int) -> Picture:
    """A file of a scene.

    Args:
        scene: in [0, 1].
        pipeline: of `PIPELINES`.
        blur: of `BLURS`.
        seed: of kernel, noise and lights.

    Returns:
        The picture, smaller than the scene by the kernel's size less one.
    """
    rng = np.random.default_rng(seed)
    expose, quality = PIPELINES[pipeline]
    scene = np.asarray(scene, np.float64)
    if pipeline == "lights":  # far brighter than white
        scene = scene.copy()
        for _ in range(8):
            row, column = (rng.integers(4, side - 4) for side in scene.shape[:2])
            scene[row - 1 : row + 2, column - 1 : column + 2] = rng.uniform(3, 8)
    kernel = blur_kernel(blur, seed)
    light, clean = scene, scene
    if kernel is not None:
        height, width = kernel.shape
        light = np.stack([ndimage.convolve(scene[..., c], kernel, mode="constant") for c in range(3)], -1)
        rows = slice(height // 2, scene.shape[0] - height // 2)
        columns = slice(width // 2, scene.shape[1] - width // 2)
        light, clean = light[rows, columns], scene[rows, columns]
    samples = np.rint(255 * np.clip(expose(rng, light), 0, 1)).astype(np.uint8)
    file = io.BytesIO()
    kind, options = ("PNG", {}) if quality is None else ("JPEG", {"quality": quality})
    PIL.Image.fromarray(samples).save(file, kind, **options)
    pixels = read_image(file).pixels
    return Picture((pipeline, blur), pixels, np.clip(clean, 0, 1).astype(np.float32), kernel, file.getvalue())
