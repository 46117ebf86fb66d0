"""Masks of inpainting: made, or read from files."""

import re

import numpy as np
from jaxtyping import Float

from hvae_jax.images.formats import FilePath, ImageError
from hvae_jax.images.read import read_image


def read_mask(path: FilePath, *, invert: bool = False) -> Float[np.ndarray, "height width *channels"]:
    """Read the mask of an inpainting problem.

    Args:
        path: an image, white (above one half) where a pixel was observed; samples of 0 and 1 in 8 or 16 bits are
            understood. Of one colour with an alpha that varies, the opaque pixels are the white ones.
        invert: white is missing instead.

    Returns:
        1 where observed and 0 where missing: (H, W), or (H, W, 3) if the channels differ.

    Raises:
        ImageError: the file cannot be read, or nothing was observed, or nothing is missing.
    """
    image = read_image(path)
    values = image.pixels
    if image.alpha is not None and np.ptp(values) == 0 < np.ptp(image.alpha):
        values = image.alpha
    if image.bit_depth < 32 and 0 < values.max() <= 1 / (2**image.bit_depth - 1):
        values = values / values.max()
    observed = ((values > 0.5) != invert).astype(np.float32)
    if not observed.any():
        raise ImageError(f"{path}: expected a mask with observed (white) pixels, got none; --invert-mask swaps them")
    if observed.all():
        raise ImageError(f"{path}: expected a mask with missing (black) pixels, got none")
    same = bool((observed == observed[..., :1]).all())
    return observed[..., 0] if same else observed


def make_mask(kind: str, size: int, seed: int) -> Float[np.ndarray, "size size"]:
    """Make a square mask for inpainting, the same for the same seed.

    Args:
        kind: "objects", ellipses of 6 to 14 pixels, as small objects that were cut out; "boxes", rectangles with sides
            of 12 to 32 pixels; "text"; "random50", half of the pixels missing, and so on from "random01" to "random99".
        size: its side in pixels.
        seed: of the random places, at least 0.

    Returns:
        1 where observed and 0 where missing, float32.

    Raises:
        ValueError: there is no such kind.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    observed = np.ones((size, size), np.float32)
    if kind == "objects":
        for _ in range(max(round(10 * (size / 256) ** 2), 1)):
            centre, axes, angle = rng.uniform(0, size, 2), rng.uniform(6, 14, 2), rng.uniform(0, np.pi)
            v, u = rows - centre[0], columns - centre[1]
            across, along = v * np.cos(angle) - u * np.sin(angle), v * np.sin(angle) + u * np.cos(angle)
            observed[(across / axes[0]) ** 2 + (along / axes[1]) ** 2 < 1] = 0
    elif kind == "boxes":
        for _ in range(max(round(12 * (size / 256) ** 2), 1)):
            height, width = rng.integers(12, 33, 2)
            top, left = rng.integers(0, max(size - height, 0) + 1), rng.integers(0, max(size - width, 0) + 1)
            observed[top : top + height, left : left + width] = 0
    elif kind == "text":
        import PIL.Image
        import PIL.ImageDraw

        page = PIL.Image.new("L", (size, size), 255)
        line = "hierarchical variational autoencoders restore images; " * 4
        for i, top in enumerate(range(4, size - 12, 24)):
            PIL.ImageDraw.Draw(page).text((4 - 29 * i % 60, top), line, fill=0, font_size=14)
        observed = (np.asarray(page) > 127).astype(np.float32)
    elif re.fullmatch(r"random\d\d", kind):
        observed = (rng.random((size, size)) >= int(kind[-2:]) / 100).astype(np.float32)
    else:
        raise ValueError(f"expected a mask 'objects', 'boxes', 'text' or 'randomNN' (NN % missing), got {kind!r}")
    return observed
