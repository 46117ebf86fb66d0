"""Restorations that run along with training: their iterates are what the encoder will see when images are restored.

A noise-conditional encoder trained on white noise alone is used on something else: what Algorithm 2 hands to it are
data steps, whose errors are coloured by the operator and by what earlier evaluations made of the image. Here a share
of the batch are such iterates. Each training step advances these restorations by one iteration, with the decoded mean
that the step computes anyway, so they cost no evaluation; one that is finished is replaced by a new one.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from hvae_jax.gaussian import per_image
from hvae_jax.operators import Blur, Inpainting
from hvae_jax.restoration import schedules
from hvae_jax.training.devices import on_shares

ITERATIONS = 8
"""Length of a restoration, and of DPIR's schedule."""
KERNEL_SIZE = 25
"""Side of the kernels in pixels."""
NOISE_RANGE = (1.5 / 255, 15 / 255)
"""Of the observations' noise, drawn uniformly in its logarithm."""


class Restorations(NamedTuple):
    """Restorations in progress, one per image.

    Attributes:
        image: the truth, in [0, 1], shape (B, H, W, 3).
        blurred: whether the image is blurred, else it misses pixels; shape (B,).
        kernel: of those that are blurred, shape (B, 25, 25), of sum 1.
        mask: of the others, True where observed, shape (B, H, W).
        observation: the degraded image, shape (B, H, W, 3).
        noise_std: deviation of its noise.
        mean: the last decoded mean.
        iteration: number of iterations done; those that are finished have 8.
    """

    image: Float[Array, "B H W 3"]
    blurred: Bool[Array, " B"]
    kernel: Float[Array, "B 25 25"]
    mask: Bool[Array, "B H W"]
    observation: Float[Array, "B H W 3"]
    noise_std: Float[Array, " B"]
    mean: Float[Array, "B H W 3"]
    iteration: Int[Array, " B"]


def random_kernels(key: Array, count: int) -> Float[Array, "count 25 25"]:
    """Blur kernels: a disc of random width, drawn along a path of random length and curvature.

    From a point over isotropic and elongated discs to a shaken camera's line.

    Args:
        key: random key.
        count: how many.

    Returns:
        Kernels of sum 1, centred.
    """
    points = 48
    key_length, key_width, key_bend, key_curvature, key_angle = jax.random.split(key, 5)
    length = jax.random.uniform(key_length, (count, 1), maxval=20.0)
    width = jax.random.uniform(key_width, (count, 1, 1, 1), minval=0.4, maxval=2.4)
    bend = 0.35 * jax.random.uniform(key_bend, (count, 1)) * jax.random.normal(key_curvature, (count, points))
    angle = jnp.cumsum(bend, axis=1) + jax.random.uniform(key_angle, (count, 1), maxval=2 * jnp.pi)
    path = jnp.cumsum(jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1), axis=1) * (length / points)[..., None]
    path -= path.mean(axis=1, keepdims=True)
    grid = jnp.arange(KERNEL_SIZE) - KERNEL_SIZE // 2
    row, column = (path[:, None, None, :, i] for i in range(2))
    squared_distance = (grid[:, None, None] - row) ** 2 + (grid[None, :, None] - column) ** 2
    kernels = jnp.exp(-squared_distance / (2 * width**2)).sum(axis=-1)
    return kernels / kernels.sum(axis=(1, 2), keepdims=True)


def start(key: Array, images: Float[Array, "B H W 3"], mesh: Mesh | None = None) -> Restorations:
    """Degrade images: three in four are blurred, the others miss 10 % to 90 % of their pixels.

    Args:
        key: random key.
        images: in [0, 1], shape (B, H, W, 3).
        mesh: the devices that share them; None for one device.

    Returns:
        Restorations before their first iteration.
    """
    key_kind, key_kernel, key_missing, key_mask, key_level, key_noise = jax.random.split(key, 6)
    batch = images.shape[0]
    blurred = jax.random.uniform(key_kind, (batch,)) < 0.75
    kernel = random_kernels(key_kernel, batch)
    missing = jax.random.uniform(key_missing, (batch, 1, 1), minval=0.1, maxval=0.9)
    mask = jax.random.uniform(key_mask, images.shape[:3]) >= missing
    low, high = (math.log(noise_std) for noise_std in NOISE_RANGE)
    noise_std = jnp.exp(jax.random.uniform(key_level, (batch,), minval=low, maxval=high))
    noise = per_image(noise_std, images) * jax.random.normal(key_noise, images.shape)
    blurry, holed = on_shares(_blurred, mesh)(kernel, images) + noise, images + noise
    observation = jnp.where(per_image(blurred, images), blurry, holed)
    first = jnp.where(per_image(blurred, images), blurry, _inpainting(mask).initial(holed))
    return Restorations(images, blurred, kernel, mask, observation, noise_std, first, jnp.zeros(batch, jnp.int32))


def renew(
    restorations: Restorations, key: Array, images: Float[Array, "B H W 3"], mesh: Mesh | None = None
) -> Restorations:
    """Replace the restorations that are finished by new ones of these images."""
    finished = restorations.iteration >= ITERATIONS
    new = start(key, images, mesh)
    return jax.tree.map(lambda a, b: jnp.where(per_image(finished, a), a, b), new, restorations)


def encoder_input(restorations: Restorations) -> tuple[Float[Array, "B H W 3"], Float[Array, " B"]]:
    """The data step of the present iteration, and the noise level that the encoder is told.

    Args:
        restorations: of which none is finished.

    Returns:
        x = argmin ‖Ax - y‖²/2σ² + ‖x - μ‖²/2γ² with γ² = s²/weight, and s, shape (B,), both on DPIR's schedule.
    """
    r = restorations
    noise_level = schedules.at_iteration(schedules.dpir(r.noise_std, ITERATIONS), r.iteration)
    ratio = schedules.DPIR_WEIGHT * (r.noise_std / noise_level) ** 2
    deblurred = _blur(r.kernel).data_step(r.mean, r.observation, ratio)
    filled = _inpainting(r.mask).data_step(r.mean, r.observation, ratio)
    return jnp.where(per_image(r.blurred, deblurred), deblurred, filled), noise_level


def advance(restorations: Restorations, mean: Float[Array, "B H W 3"]) -> Restorations:
    """The restorations after an iteration that gave the decoded means `mean`."""
    return restorations._replace(mean=mean, iteration=restorations.iteration + 1)


def _blur(kernel: Array) -> Blur:
    return Blur(kernel, normalize=False)


def _blurred(kernel: Array, images: Array) -> Array:
    return _blur(kernel)(images)


def _inpainting(mask: Array) -> Inpainting:
    return Inpainting(mask[..., None])
