"""Posterior sampling: what the observation leaves undecided, pixel by pixel.

Algorithm 2 with each maximum replaced by a draw is a Gibbs sampler. With μ the decoded mean, γ the decoder's deviation
and ρ = βσ²/γ² the ratio of the data step, a sweep draws

    z ~ q(z|x)^β p(z)^λ, λ = 1/τ² - β, level by level           (eq. 18, drawn)
    x ~ p(y|x) p(x|z)^β = N(M⁻¹(Aᵀy + ρ μ(z)), σ² M⁻¹), M = AᵀA + ρ  (eq. 19, drawn)

and x is, where q is the model's own posterior, in the end distributed as ∫ p(y|x) p(x|z)^β p(z)^(1/τ²) dz: the exact
posterior p(x|y) for τ = β = 1.

The draw of x needs no code for each operator: it is the data step from disturbed data (perturb-and-MAP),

    x = argmin_x ½‖A x - (y + σ ε₁)‖² + ρ/2 ‖x - (μ + γ ε₂/√β)‖²,

linear in ε with the mean above and the covariance M⁻¹(σ² AᵀA + ρ² γ²/β) M⁻¹ = σ² M⁻¹. So it is as exact as the data
step: a closed form for masks, blur and super-resolution, conjugate gradient to round-off for any other operator.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from hvae_jax import gaussian
from hvae_jax.encoding import run_pass
from hvae_jax.gaussian import Gaussian, per_image
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import Pass
from hvae_jax.operators import Operator
from hvae_jax.prior import Prior
from hvae_jax.restoration.iteration import all_finite
from hvae_jax.restoration.problem import Problem, pose
from hvae_jax.restoration.recommended import recommended_config
from hvae_jax.restoration.result import Status
from hvae_jax.restoration.schedules import geometric
from hvae_jax.restoration.settings import RestoreConfig


class Posterior(NamedTuple):
    """What `sample_posterior` returns; without the batch axis if y has none.

    Attributes:
        samples: x at the end of each chain, not clipped, shape (chains, *B, H, W, C).
        mean: mean over the chains and their counted sweeps.
        std: standard deviation over them, of each pixel, in the images' unit.
        r_hat: split R-hat of each image, √(((n-1)/n W + B/n)/W) with the variance W within half chains of n sweeps and
            that B/n of their means, both averaged over the pixels: near 1 where the chains have mixed, above where they
            drift or differ; infinite for fewer than 4 sweeps, which do not tell.
        status: a `Status` for each image: NOT_FINITE, or COMPLETED, the regular end.
    """

    samples: Float[Array, "chains *B H W C"]
    mean: Float[Array, "*B H W C"]
    std: Float[Array, "*B H W C"]
    r_hat: Float[Array, "*B"]
    status: Int[Array, "*B"]


ANNEALING = (49 / 255, 3 / 255, 12)
"""First and last noise level of a draw, and the number of sweeps between them."""


def sampling_config(config: RestoreConfig) -> RestoreConfig:
    """Settings for `restore`, made fit for sampling: a noise-conditional prior is annealed to nearly no noise.

    With γ = s, geometrically from 49/255 to 3/255. The maximisation of Algorithm 2 may have a γ of several s, and may
    end at an s above σ, for its x carries less noise than γ. A drawn x carries noise of deviation γ wherever y says
    nothing: told of less, the prior lets it grow from sweep to sweep, and at the end it is part of the draw.

    Args:
        config: settings for `restore`.

    Returns:
        The settings; the same ones where `noise_level` is None.
    """
    if config.noise_level is None:
        return config
    level = geometric(*ANNEALING)
    return config.replace(decoder_std=level, noise_level=level, temperature=1.0)


class Lengths(NamedTuple):
    """How many chains there are, and how many sweeps of each are counted and are not."""

    chains: int
    sweeps: int
    burn_in: int


ANNEALED, STATIONARY = Lengths(4, 1, 0), Lengths(4, 32, 16)
"""Of settings with a schedule, and without one.

A real prior is no exact model, and chains held at a small noise level neither mix nor stay at photographs (their R-hat
tells). So there a draw is the end of a chain of its own.
"""


def sample_posterior(
    prior: Prior,
    y: Float[ArrayLike, "*observations"],
    operator: Operator,
    noise_std: ArrayLike,
    key: Key[Array, ""],
    config: RestoreConfig | None = None,
    *,
    chains: int | None = None,
    sweeps: int | None = None,
    burn_in: int | None = None,
    start: Float[ArrayLike, "*B H W C"] | None = None,
) -> Posterior:
    """Draw images from p(x|y) for y = A x + σ ε; one compiled program, the loop included.

    Chain c of image i depends on the key, c and i, and not on how many chains and images there are. The memory does
    not grow with the number of sweeps.

    Args:
        prior: the prior.
        y: observation(s), as for `restore`.
        operator: A.
        noise_std: σ in the images' unit, a number or one per image (B,). Values below 0.1/255 act as that.
        key: a key of `jax.random` (`jax.random.key`).
        config: settings as for `restore`, of which temperature, decoder_std, noise_level, the last β and data_step
            are used; by default the `sampling_config` of those that the prior recommends. The draws are exact with
            `Exact()` data steps only. A schedule is gone through once, before the burn-in, and its last row stays.
        chains: number of independent chains, which run at once; by default 8 of settings with a schedule, else 4.
        sweeps: number of sweeps of each chain that are counted, at least 2 together with the chains; by default 1
            and 32.
        burn_in: number of sweeps before those (and after the schedule, if there is one); by default 0 and 16.
        start: x of all chains before the first sweep; by default `operator.initial(y)`.

    Returns:
        A sample of each chain, mean, standard deviation and R-hat. Divergence is no exception but a `Status`.

    Raises:
        ValueError: a shape, a type or a setting does not fit.

    Example:
        >>> out = sample_posterior(prior, y, operators.Blur(kernel), 7.65 / 255, jax.random.key(0))
        >>> out.samples.shape, out.std.shape
        ((8, 256, 256, 3), (256, 256, 3))

    Source:
        The official code's `mode=sample`; Papandreou and Yuille, "Gaussian sampling by local perturbations", 2010.
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()):
        raise ValueError(f"key must be one key of jax.random.key, got {key!r}")
    if config is None:
        config = sampling_config(recommended_config(prior, noise_std, operator))
    default = ANNEALED if _schedule_length(config) else STATIONARY
    chains, sweeps, burn_in = (
        usual if given is None else given for given, usual in zip((chains, sweeps, burn_in), default, strict=True)
    )
    if chains < 1 or sweeps < 1 or chains * sweeps < 2:
        raise ValueError(
            f"expected chains >= 1 and sweeps >= 1 that make at least 2 samples, got {chains} and {sweeps}"
        )
    if burn_in < 0:
        raise ValueError(f"burn_in must not be negative, got {burn_in}")
    problem, single = pose(prior, y, operator, noise_std, config, start, key)
    image_keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(problem.y)))
    keys = jax.vmap(lambda chain: jax.vmap(lambda k: jax.random.fold_in(k, chain))(image_keys))(jnp.arange(chains))
    out = _sample_posterior(problem, keys, burn_in, sweeps)
    return Posterior(out.samples[:, 0], *(leaf[0] for leaf in out[1:])) if single else out


@jax.jit
def _sample_posterior(
    problem: Problem, keys: Key[Array, "chains B"], burn_in: Int[Array, ""], sweeps: Int[Array, ""]
) -> Posterior:
    prior, operator, y, noise_std, config, *_ = problem
    x, levels, beta = problem.x0, prior.levels, config.stop.betas[1]
    first = _schedule_length(config) + burn_in

    def sweep(x: Array, keys: Array, k: Array) -> Array:
        gamma, level = problem.decoder_std(k), problem.noise_level(k)
        keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, k), levels + 2))(keys)
        latents = Pass(
            hierarchy.tempered_sample, jnp.asarray(config.temperature), jnp.full((1,), beta, x.dtype), noise=keys[:, 2:]
        )
        mean = run_pass(prior, x, latents, level)[0].mean
        disturbed_mean = gaussian.sample(Gaussian(mean, per_image(gamma * beta**-0.5, mean)), keys[:, 0])
        disturbed_y = gaussian.sample(Gaussian(y, per_image(noise_std, y)), keys[:, 1])
        # What depends on the operator only, the compiler takes out of the loop.
        solve = operator.data_step_for(disturbed_y, **config.data_step.arguments)
        return solve(disturbed_mean, problem.ratio(beta, gamma))

    half = sweeps // 2

    def step(k: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, means, within = state
        x = jax.vmap(partial(sweep, k=k))(x, keys)
        # Welford's update of the half that the sweep is in; until the first sweep that counts it starts anew.
        counts, second = k > first, (k - first >= half).astype(int)
        means, within = (jnp.where(counts, total, 0) for total in (means, within))
        before = means[second]
        after = before + (x - before) / (jnp.maximum(k - first - second * half, 0) + 1).astype(x.dtype)
        return x, means.at[second].set(after), within + ((x - before) * (x - after)).sum(axis=0)

    chains = len(keys)
    state = jnp.broadcast_to(x, (chains, *x.shape)), jnp.zeros((2, chains, *x.shape), x.dtype), jnp.zeros_like(x)
    samples, means, within = lax.fori_loop(0, first + sweeps, step, state)
    weights = (jnp.stack([half, sweeps - half]) / sweeps).astype(x.dtype).reshape(2, 1, 1, 1, 1)
    mean = (weights * means.mean(axis=1)).sum(axis=0)
    between = (weights * ((means - mean[None, None]) ** 2).sum(axis=1)).sum(axis=0) * sweeps
    std = jnp.sqrt((within + between) / (chains * sweeps - 1))
    finite = all_finite(std) & all_finite(mean) & jax.vmap(all_finite)(samples).all(axis=0)
    status = jnp.where(finite, Status.COMPLETED, Status.NOT_FINITE).astype(jnp.int32)
    return Posterior(samples, mean, std, _split_r_hat(means, within, sweeps), status)


def _split_r_hat(
    means: Float[Array, "2 chains B H W C"], within: Float[Array, "B H W C"], sweeps: Int[Array, ""]
) -> Float[Array, " B"]:
    """Split R-hat of each image; see `Posterior`. Source: Gelman et al., Bayesian Data Analysis, 3rd ed., 11.4."""
    halves = 2 * means.shape[1]
    count = jnp.maximum(sweeps / 2, 2)
    pixels = (1, 2, 3)
    inside = (within / (halves * (count - 1))).mean(axis=pixels)
    apart = means.reshape(halves, *within.shape).var(axis=0, ddof=1).mean(axis=pixels)
    r_hat = jnp.sqrt((count - 1) / count + apart / jnp.maximum(inside, jnp.finfo(within.dtype).tiny))
    return jnp.where(sweeps < 4, jnp.inf, r_hat).astype(within.dtype)


def _schedule_length(config: RestoreConfig) -> int:
    """Sweeps that the settings' schedules take before their last rows."""
    rows = [np.shape(value) for value in (config.decoder_std, config.noise_level) if value is not None]
    return max(shape[0] - 1 if len(shape) == 2 else 0 for shape in rows)
