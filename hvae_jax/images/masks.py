"""Masks of inpainting."""

import numpy as np
from jaxtyping import Float

from hvae_jax.images.read import FilePath, ImageError, read_image


def read_mask(path: FilePath) -> Float[np.ndarray, "height width *channels"]:
    """Read the mask of an inpainting problem.

    Args:
        path: an image, white (above one half) where a pixel was observed; its alpha is ignored.

    Returns:
        1 where observed and 0 where missing: (H, W), or (H, W, 3) if the channels differ.

    Raises:
        ImageError: the file cannot be read, or nothing was observed.
    """
    observed = (read_image(path).pixels > 0.5).astype(np.float32)
    if not observed.any():
        raise ImageError(f"{path}: expected a mask with observed (white) pixels, got none")
    same = bool((observed == observed[..., :1]).all())
    return observed[..., 0] if same else observed
