"""How close an image is to a reference: PSNR, SSIM and LPIPS."""

import functools
from importlib import resources

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hvae_jax.operators.base import is_concrete

_WINDOW = 11  # of the structural similarity, in pixels

LARGEST_VALUE = 2.0
"""Of a reference, whose noise may exceed 1; above it grey levels are meant."""

LPIPS_SIDE = 31
"""Smallest side of an image that `lpips` takes: AlexNet's last layers then see one pixel."""


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


def lpips(
    image: Float[ArrayLike, "*batch height width channels"],
    reference: Float[ArrayLike, "*batch height width channels"],
) -> Float[Array, "*batch"]:
    """Learned perceptual image patch similarity (LPIPS v0.1, AlexNet), after clipping to [0, 1]; lower is closer.

    LPIPS = Σ_l mean_hw Σ_c w_lc (f_lc(x) - f_lc(r))², with f_l the features after AlexNet's l-th of five
    convolutions, of unit norm over the channels at each pixel, and w_l the learned weights. The weights of both are
    stored as float16 in the package, which changes the result by less than 1e-3.

    Args:
        image: float, (H, W, C) or (B, H, W, C), at least 31x31, of 3 channels (RGB), or of 1, which counts as grey.
        reference: of the same shape, in [0, 1].

    Returns:
        A scalar, or one number per image, 0 where the two are equal.

    Raises:
        ValueError: other ranks or types, shapes that differ, a side below 31 pixels, or other numbers of channels.

    Zhang, Isola, Efros, Shechtman and Wang, "The unreasonable effectiveness of deep features as a perceptual metric",
    CVPR 2018.
    """
    x, r = _clipped_pair(image, reference)
    if min(x.shape[-3:-1]) < LPIPS_SIDE or x.shape[-1] not in (1, 3):
        raise ValueError(
            f"expected images of at least {LPIPS_SIDE}x{LPIPS_SIDE} pixels with 1 or 3 channels, got shape {x.shape}"
        )
    return _lpips(_lpips_weights(), x, r)


class _AlexNetDistance(nn.Module):
    """The distance of images (B, H, W, 3) in [-1, 1]."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"], r: Float[Array, "B H W 3"]) -> Float[Array, " B"]:
        shift, scale = jnp.array([-0.030, -0.088, -0.188]), jnp.array([0.458, 0.448, 0.450])
        h = (jnp.concatenate([x, r]) - shift[None, None, None]) / scale[None, None, None]
        distance = jnp.zeros(x.shape[0])
        # Channels, side, stride and padding of each convolution, and whether pooling precedes it.
        layers = ((64, 11, 4, 2, False), (192, 5, 1, 2, True), (384, 3, 1, 1, True), (256, 3, 1, 1, False))
        for i, (channels, side, stride, padding, pooled) in enumerate((*layers, layers[-1])):
            if pooled:
                h = nn.max_pool(h, (3, 3), (2, 2))
            h = nn.relu(nn.Conv(channels, (side, side), stride, padding, name=f"conv{i}")(h))
            unit = h / (jnp.linalg.norm(h, axis=-1, keepdims=True) + 1e-10)
            difference = jnp.subtract(*jnp.split(unit, 2)) ** 2
            head = self.param(f"head{i}", nn.initializers.ones, (channels,))
            distance += jnp.mean(difference @ head, axis=(1, 2))
        return distance


@jax.jit
def _lpips(weights: dict, x: Array, r: Array) -> Array:
    """`lpips` of a checked pair."""
    pair = (2 * jnp.broadcast_to(image, (*image.shape[:-1], 3)).astype(jnp.float32) - 1 for image in (x, r))
    batches = (image.reshape(-1, *image.shape[-3:]) for image in pair)
    distance = _AlexNetDistance().apply({"params": weights}, *batches)
    return jnp.reshape(jnp.asarray(distance), x.shape[:-3])


@functools.cache
def _lpips_weights() -> dict:
    """The parameters of `_AlexNetDistance`, read once."""
    file = resources.files("hvae_jax") / "pretrained" / "lpips" / "alexnet_v0.1.npz"
    # Kept for all later calls, so not as tracers where the first call is inside a compiled function.
    with file.open("rb") as stream, np.load(stream) as arrays, jax.ensure_compile_time_eval():
        return unflatten_dict({name: jnp.asarray(arrays[name], jnp.float32) for name in arrays.files}, sep="/")


def _clipped_pair(image: ArrayLike, reference: ArrayLike) -> tuple[jax.Array, jax.Array]:
    try:
        x, r = jnp.asarray(image), jnp.asarray(reference)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"expected two float images in [0, 1], got {error}") from error
    if x.shape != r.shape or x.ndim not in (3, 4):
        raise ValueError(f"expected two images (H, W, C) or (B, H, W, C) of one shape, got {x.shape} and {r.shape}")
    if not (jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(r.dtype, jnp.floating)):
        raise ValueError(f"expected float images in [0, 1], got {x.dtype} and {r.dtype}")
    if is_concrete(r) and r.size and float(jnp.max(r)) > LARGEST_VALUE:
        raise ValueError(f"expected a reference in [0, 1], got values up to {jnp.max(r):g}: divide grey levels by 255")
    return jnp.clip(x, 0, 1), jnp.clip(r, 0, 1)
