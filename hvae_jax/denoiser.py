"""The prior as a denoiser (x, σ) -> x̂, for algorithms of others: plug-and-play, RED, diffusion.

It is one evaluation HVAE(x, τ) of Proposition 1, with the temperature τ, and the noise level s that a noise-conditional
prior is told, which the prior recommends for denoising at σ: as functions of σ, so that it may be traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hvae_jax.encoding import check_deviation, check_temperature, per_batch, run_pass
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import Pass
from hvae_jax.operators import Denoising
from hvae_jax.prior import Prior
from hvae_jax.restoration.orientations import in_orientations
from hvae_jax.restoration.recommended import rows_for
from hvae_jax.restoration.settings import Orientations


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["prior", "noise_std", "temperature", "least_level", "level_per_noise_std"],
    meta_fields=["orientations"],
)
@dataclasses.dataclass(frozen=True)
class Denoiser:
    """The function (x, σ) -> x̂, made by `as_denoiser`; a pytree, that may be an argument of compiled functions.

    With R noise levels in the prior's table, between which is interpolated, the prior is told
    s = max(least_level, level_per_noise_std σ).

    Attributes:
        prior: the prior, without its metadata.
        noise_std: σ of the table in the images' unit, ascending, shape (R,).
        temperature: τ of the coarsest and the finest level, (R, 2); linear over the levels between.
        least_level: in the images' unit, (R,).
        level_per_noise_std: a ratio, (R,).
        orientations: see `RestoreConfig`.
    """

    prior: Prior
    noise_std: Float[ArrayLike, " R"]
    temperature: Float[ArrayLike, "R 2"]
    least_level: Float[ArrayLike, " R"]
    level_per_noise_std: Float[ArrayLike, " R"]
    orientations: Orientations = "fixed"

    def __call__(self, x: Float[ArrayLike, "*B H W C"], noise_std: ArrayLike) -> Float[Array, "*B H W C"]:
        """Take the noise out of images.

        Args:
            x: (H, W, C) or (B, H, W, C), in [0, 1] plus noise; of any size (it is reflected at its borders as far as
                the prior needs), but for a prior of one size; grey (C = 1) images of a prior of colour ones are taken
                as such.
            noise_std: σ of the noise in the images' unit (7.65/255, say), a number or one per image (B,).

        Returns:
            The denoised images, of x's shape, in [0, 1].

        Raises:
            ValueError: a shape, a type or a known σ does not fit.
        """
        x = jnp.asarray(x)
        channels = self.prior.config.channels
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"images must be floating-point numbers in [0, 1], got {x.dtype}")
        if x.ndim not in (3, 4) or x.shape[-1] not in (1, channels) or 0 in x.shape:
            raise ValueError(f"images must be (H, W, C) or (B, H, W, C) with C of 1 or {channels}, got {x.shape}")
        size = self.prior.image_size
        if size is not None and x.shape[-3:-1] != (size, size):
            raise ValueError(f"images must be {size}x{size}, the only size of this prior, got {x.shape}")
        check_deviation(noise_std, "noise_std")
        batch = x if x.ndim == 4 else x[None]
        denoised = _denoise(self, batch, per_batch(noise_std, len(batch), "noise_std", x.dtype))
        return denoised if x.ndim == 4 else denoised[0]


def as_denoiser(
    prior: Prior, *, temperature: ArrayLike | None = None, orientations: Orientations = "fixed"
) -> Denoiser:
    """A prior as a denoiser (x, σ) -> x̂, a pure function that may be compiled, mapped and differentiated.

    Args:
        prior: the prior. A noise-conditional one is told σ; another one is as strong as its temperature says, which
            follows σ only as far as its table does.
        temperature: τ > 0 at every σ and level; by default what the prior recommends for denoising, or 1 for a
            noise-conditional prior that recommends nothing.
        orientations: "fixed" for one evaluation; n for the mean over n flips and turns of the image, n times the work.
            With as many as its table has for denoising (2 for the bundled prior) it is what `restore` gives.

    Returns:
        The denoiser.

    Raises:
        ValueError: the prior is not noise-conditional and recommends nothing, or the temperature is none.

    Example:
        >>> denoise = hj.as_denoiser(hj.load_prior())
        >>> x = denoise(y, 15 / 255)
        >>> gradient = jax.grad(lambda x: jnp.sum(denoise(x, 0.1) ** 2))(y)

    Source:
        Prost et al. 2023, Proposition 1.
    """
    rows = rows_for(prior, Denoising())
    if temperature is not None:
        check_temperature(temperature, 1.0)
    elif rows is None and not prior.config.noise_conditional:
        raise ValueError("expected a temperature, for this prior recommends no settings in its prior.json; got none")
    rows = sorted(rows or [{"noise_std": 0.0, "temperature": 1.0}], key=lambda row: row["noise_std"])
    ends = np.array([np.broadcast_to(row["temperature"], 2) for row in rows], np.float32)
    if temperature is not None:
        ends = np.broadcast_to(np.asarray(temperature, np.float32), ends.shape)
    return Denoiser(
        prior.network,
        _numbers(rows, "noise_std", 0.0) / 255,
        ends,
        _numbers(rows, "anneal_to", 0.0) / 255,
        _numbers(rows, "anneal_to_per_noise_std", 1.0),
        orientations,
    )


def _numbers(rows: Sequence[Mapping[str, Any]], name: str, default: float) -> Float[np.ndarray, " R"]:
    return np.array([row.get(name, default) for row in rows], np.float32)


@jax.jit
def _denoise(denoiser: Denoiser, x: Float[Array, "B H W C"], noise_std: Float[Array, " B"]) -> Float[Array, "B H W C"]:
    prior = denoiser.prior

    def at(values: ArrayLike) -> Array:
        return jnp.interp(noise_std, jnp.asarray(denoiser.noise_std), jnp.asarray(values))

    level = jnp.maximum(at(denoiser.least_level), at(denoiser.level_per_noise_std) * noise_std).astype(x.dtype)
    ends = jnp.asarray(denoiser.temperature)
    coarsest, finest = at(ends[:, 0])[:, None], at(ends[:, 1])[:, None]
    tau = (coarsest + (finest - coarsest) * jnp.linspace(0, 1, prior.levels)).astype(x.dtype)
    settings = Pass(hierarchy.tempered_map, tau, jnp.ones((1,), x.dtype))

    def evaluate(x: Array) -> tuple[Array, Array]:
        return run_pass(prior, x, settings, level)[0].mean, level

    height, width, channels = x.shape[1:]
    colour = jnp.repeat(x, prior.config.channels // channels, axis=-1)
    bottom, right = -height % prior.multiple, -width % prior.multiple
    padded = jnp.pad(colour, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="reflect")
    mean = in_orientations(evaluate, padded, jnp.zeros(len(x), jnp.int32), denoiser.orientations)[0]
    mean = mean[:, :height, :width]
    return mean if channels > 1 else mean.mean(axis=-1, keepdims=True)
