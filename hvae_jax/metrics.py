"""How close an image is to a reference: PSNR and SSIM."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

_WINDOW = 11  # of the structural similarity, in pixels


def psnr(
    image: Float[ArrayLike, "*batch height width channels"],
    reference: Float[ArrayLike, "*batch height width channels"],
) -> Float[Array, "*batch"]:
    """Peak signal-to-noise ratio in decibels, after clipping to [0, 1].

    PSNR = −10 log10 mean (x − r)², over all pixels and channels (RGB, not luma), as in the paper.

    Args:
        image: float, (H, W, C) or (B, H, W, C).
        reference: of the same shape, in [0, 1].

    Returns:
        A scalar, or one number per image; infinity where the two are equal.

    Raises:
        ValueError: other ranks or types, or shapes that differ.
    """
    import dm_pix  # here, because it takes long to import

    return dm_pix.psnr(*_clipped_pair(image, reference))


def ssim(
    image: Float[ArrayLike, "*batch height width channels"],
    reference: Float[ArrayLike, "*batch height width channels"],
) -> Float[Array, "*batch"]:
    """Structural similarity, after clipping to [0, 1].

    Gaussian window of 11x11 pixels with deviation 1.5, k1 = 0.01, k2 = 0.03, mean over the channels and over
    the windows that lie wholly inside the image. This is what scikit-image computes with
    `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1`.

    Args:
        image: float, (H, W, C) or (B, H, W, C), at least 11x11.
        reference: of the same shape, in [0, 1].

    Returns:
        A scalar, or one number per image, at most 1.

    Raises:
        ValueError: other ranks or types, shapes that differ, or a side below 11 pixels.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE TIP 13(4), 2004.
    """
    x, r = _clipped_pair(image, reference)
    if min(x.shape[-3:-1]) < _WINDOW:
        raise ValueError(f"expected images of at least {_WINDOW}x{_WINDOW} pixels, got shape {x.shape}")
    import dm_pix  # here, because it takes long to import

    return dm_pix.ssim(x, r, filter_size=_WINDOW, filter_sigma=1.5)


def _clipped_pair(image: ArrayLike, reference: ArrayLike) -> tuple[jax.Array, jax.Array]:
    x, r = jnp.asarray(image), jnp.asarray(reference)
    if x.shape != r.shape or x.ndim not in (3, 4):
        raise ValueError(f"expected two images (H, W, C) or (B, H, W, C) of one shape, got {x.shape} and {r.shape}")
    if not (jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(r.dtype, jnp.floating)):
        raise ValueError(f"expected float images in [0, 1], got {x.dtype} and {r.dtype}")
    return jnp.clip(x, 0, 1), jnp.clip(r, 0, 1)
