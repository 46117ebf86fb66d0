"""The deblurring protocol that the benchmarks share: images, kernels, noise, metrics, tables."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hvae_jax.images import read_image
from hvae_jax.metrics import psnr, ssim
from hvae_jax.operators import Blur

KERNELS = ("k4", "k7", "k9", "k11")
"""The paper's: two Gaussian, two motion blurs."""

NOISE_LEVELS = (2.55, 7.65, 12.75)
"""Grey levels of 255."""


class Case(NamedTuple):
    """The images of the protocol, blurred by one kernel at one noise level; arrays (B, H, W, 3)."""

    kernel: np.ndarray
    sigma: float  # grey levels of 255
    clean: np.ndarray
    observed: np.ndarray


def load_images(listing: Path, size: int = 256) -> np.ndarray:
    """The centre crops of the images that a text file names, one path a line, relative to the data's root.

    The root is the folder above the listing's: `data/test/cbsd10.txt` names `test/bsds500_val/3096.jpg`.
    """
    root = listing.resolve().parent.parent
    crops = []
    for name in listing.read_text().split():
        pixels = read_image(root / name).pixels
        top, left = ((side - size) // 2 for side in pixels.shape[:2])
        crops.append(pixels[top : top + size, left : left + size])
    return np.stack(crops)


def deblurring_cases(
    listing: Path, kernels: Path, noise_levels: Sequence[float] = NOISE_LEVELS, size: int = 256
) -> Iterator[Case]:
    """Circular blur with each kernel at each noise level; one noise draw (seed 0) for all images and kernels."""
    clean = load_images(listing, size)
    noise = np.random.default_rng(0).standard_normal((size, size, 3))
    with np.load(kernels) as arrays:
        loaded = [np.asarray(arrays[name], np.float32) for name in KERNELS]
    for sigma in noise_levels:
        for kernel in loaded:
            observed = np.asarray(Blur(kernel)(clean)) + (sigma / 255 * noise).astype(np.float32)
            yield Case(kernel, sigma, clean, observed)


def scores(image, clean) -> np.ndarray:
    """PSNR and SSIM of each image after clipping to [0, 1], shape (2, B)."""
    return np.stack([psnr(jnp.asarray(image), clean), ssim(jnp.asarray(image), clean)])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
