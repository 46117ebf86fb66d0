"""What stays the same over the iterations of a restoration, checked once; and the terms of what is minimised."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hvae_jax import gaussian
from hvae_jax.encoding import check_deviation, check_shape, level_temperature, per_batch
from hvae_jax.gaussian import per_image
from hvae_jax.metrics import psnr
from hvae_jax.operators import Operator
from hvae_jax.operators.base import DataStep, as_float
from hvae_jax.prior import Prior
from hvae_jax.restoration.schedules import at_iteration
from hvae_jax.restoration.settings import RestoreConfig

LEAST_NOISE = 0.1 / 255
"""A smaller σ acts as this."""

LARGEST_DEVIATION = 5.0
"""Of γ and s in the images' unit: γ may be several s where nothing was observed, but 10 is meant in grey levels."""


class Terms(NamedTuple):
    """The terms of J1 (eq. 15) of each image, as in `History`."""

    data: Array
    latent: Array
    decoder: Array


class Problem(NamedTuple):
    """What stays the same over the iterations: one pytree, batch first, that compiled programs take.

    Attributes:
        prior: the prior, without its metadata.
        operator: A.
        y: the observations.
        noise_std: σ, shape (B,).
        config: the settings, with temperature (B or 1, L), decoder_std and noise_level (B,) or (K, B).
        start: x_0; None for the operator's `initial`.
        reference: the clean images, for the history.
    """

    prior: Prior
    operator: Operator
    y: Array
    noise_std: Float[Array, " B"]
    config: RestoreConfig
    start: Float[Array, "B H W C"] | None
    reference: Float[Array, "B H W C"] | None

    @property
    def x0(self) -> Float[Array, "B H W C"]:
        """x_0."""
        return self.operator.initial(self.y) if self.start is None else self.start

    def data_step(self) -> DataStep:
        """The function (u, ratio) -> x of the settings; what depends on the operator and y alone is computed now."""
        return self.operator.data_step_for(self.y, **self.config.data_step.arguments)

    def decoder_std(self, iteration: ArrayLike) -> Float[Array, " B"]:
        """γ of an iteration, or of each image's own."""
        return at_iteration(jnp.asarray(self.config.decoder_std), iteration)

    def noise_level(self, iteration: ArrayLike) -> Float[Array, " B"]:
        """S of an iteration, or of each image's own."""
        return at_iteration(jnp.asarray(self.config.noise_level), iteration)

    def ratio(self, beta: ArrayLike, decoder_std: Array) -> Float[Array, " B"]:
        """βσ²/γ², the weight of the prior in the data step."""
        return jnp.broadcast_to(beta * (self.noise_std / decoder_std) ** 2, self.noise_std.shape)

    def terms(self, x: Array, mean: Array, latent_term: Array, decoder_std: Array) -> Terms:
        """The terms of J1 (eq. 15); `latent_term` is -Σ_l log p(z_l|z_<l)/τ_l²."""
        misfit = (self.operator(x) - self.operator.observed(self.y)) / per_image(self.noise_std, self.y)
        decoder = gaussian.Gaussian(mean, jnp.broadcast_to(per_image(decoder_std, x), mean.shape))
        return Terms(0.5 * gaussian.sum_per_image(misfit**2), latent_term, -gaussian.log_density(x, decoder))

    def psnrs(self, x: Array, mean: Array) -> tuple[Array | None, Array | None]:
        """PSNR of both iterates against the reference, None where there is none."""
        if self.reference is None:
            return None, None
        return psnr(x, self.reference), psnr(mean, self.reference)


def pose(
    prior: Prior,
    y: ArrayLike,
    operator: Operator,
    noise_std: ArrayLike,
    config: RestoreConfig,
    start: ArrayLike | None,
    key: Array | None,
    reference: ArrayLike | None = None,
) -> tuple[Problem, bool]:
    """Check the arguments of a solver and bring them into arrays of one type and a batch.

    Args:
        prior: see `restore`.
        y: see `restore`.
        operator: see `restore`.
        noise_std: see `restore`.
        config: see `restore`.
        start: see `restore`.
        key: see `restore`.
        reference: see `restore`.

    Returns:
        The problem, and whether y came without a batch axis.

    Raises:
        ValueError: a shape, a type or a setting does not fit.
    """
    y = as_float(y, "the observation")
    shape = operator.image_shape(y.shape)
    single = len(shape) == 3
    if single:
        y, shape = y[None], (1, *shape)
    check_shape(prior, shape, "images")
    start = None if start is None else like_images(start, shape, "start", y.dtype)
    reference = None if reference is None else like_images(reference, shape, "reference", y.dtype)
    check_deviation(noise_std, "noise_std")
    batch = shape[0]
    config.check(key)
    if isinstance(config.returns, tuple) and len(config.returns) != batch:
        raise ValueError(f"returns must name an iterate for each of {batch} images, got {len(config.returns)}")
    level = config.decoder_std if config.noise_level is None else config.noise_level
    # Arrays of one type, so that a second call with other numbers does not compile again.
    arrays = config.replace(
        temperature=level_temperature(prior, batch, config.temperature, y.dtype),
        decoder_std=_per_iteration(config.decoder_std, batch, "decoder_std", y.dtype),
        noise_level=_per_iteration(level, batch, "noise_level", y.dtype),
        returns="x",  # `choose` does the rest: it needs no program of its own
    )
    sigma = jnp.maximum(per_batch(noise_std, batch, "noise_std", y.dtype), LEAST_NOISE)
    return Problem(prior.network, operator, y, sigma, arrays, start, reference), single


def like_images(value: ArrayLike, shape: tuple[int, ...], name: str, dtype: Any) -> Float[Array, "B H W C"]:
    """An image or a batch as a batch of the shape, without copying one image to many."""
    array = as_float(value, name).astype(dtype)
    if array.shape != shape and (1, *array.shape) != shape:
        raise ValueError(f"{name} must have the images' shape {shape}, got {array.shape}")
    return array.reshape(shape)


def _per_iteration(value: ArrayLike, batch: int, name: str, dtype: Any) -> Array:
    """A deviation as one per image (B,) or per iteration and image (K, B), checked where it is known."""
    array = jnp.asarray(value, dtype)
    if not isinstance(value, jax.core.Tracer):
        known = np.asarray(value, np.float64)
        if not (known > 0).all():
            raise ValueError(f"{name} must be positive, got {value}")
        if not (known <= LARGEST_DEVIATION).all():
            raise ValueError(
                f"{name} must be in the unit of the images, [0, 1], got {value}: divide grey levels by 255"
            )
    if array.ndim == 2 and array.shape[1] in (1, batch):
        return jnp.broadcast_to(array, (array.shape[0], batch))
    if array.shape not in ((), (1,), (batch,)):
        raise ValueError(
            f"{name} must be a number, one per image ({batch},), or per iteration and image (K, {batch}), "
            f"got shape {array.shape}"
        )
    return jnp.broadcast_to(array, (batch,))
