"""The baseline of Fig. 2: minimise J1 (eq. 15) over the image and all latents by Adam, through the decoder.

Where Algorithm 2 encodes, this descends: with f(x) = ‖Ax - y‖²/2σ² and γ the decoder's deviation,

    J1(x, z) = f(x) - Σ_l log p(z_l|z_<l)/τ_l² + ‖x - μ_θ(z)‖²/2γ² + (d/2) log 2πγ²

from x_0 and its latents z_0. Given latents are one top-down pass, and the gradient goes back through it. Adam sees J1
divided by the image's number of values d, as in the official code; that only sets what its ε = 1e-8 means.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hvae_jax import gaussian
from hvae_jax.encoding import run_pass
from hvae_jax.gaussian import Gaussian
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import Pass
from hvae_jax.models.vdvae import VDVAEConfig
from hvae_jax.operators import Operator
from hvae_jax.prior import Prior
from hvae_jax.restoration import iteration
from hvae_jax.restoration.iteration import State
from hvae_jax.restoration.problem import Problem, Terms, pose
from hvae_jax.restoration.result import Restoration, choose
from hvae_jax.restoration.settings import Residual, RestoreConfig

Latents = tuple[Float[Array, "B n h w c"], ...]
Objective = Literal["paper", "official"]


class Descent(NamedTuple):
    """What Adam carries beside the `iteration.State`; batch first throughout.

    Attributes:
        latents: z_k, as in `Encoding`.
        gradient: of J1/d with respect to x_k and z_k.
        optimizer: optax's state of each image.
    """

    latents: Latents
    gradient: tuple[Array, Latents]
    optimizer: Any


def restore_adam(
    prior: Prior,
    y: Float[ArrayLike, "*observations"],
    operator: Operator,
    noise_std: ArrayLike,
    config: RestoreConfig,
    *,
    learning_rate: ArrayLike = 0.01,
    objective: Objective = "paper",
    start: Float[ArrayLike, "*B H W C"] | None = None,
    latents: tuple[Float[ArrayLike, "*B n h w c"], ...] | None = None,
    key: Array | None = None,
    reference: Float[ArrayLike, "*B H W C"] | None = None,
) -> Restoration:
    """Restore images from y = A x + σ ε by Adam on J1 (eq. 15); one compiled program, the loop included.

    It is here to compare `restore` with: slower, and unstable at large learning rates. Every image of a batch stops by
    itself; solving a batch gives what solving its images one by one gives.

    The official code's objective is another one, which `objective="official"` reproduces:

    - p(z_l|z_<l) has its deviation scaled, by τ for VDVAE and by 1/τ for PatchVDVAE, in place of the power 1/τ²;
    - f is a mean over y, so that it counts more where y has fewer values than x (super-resolution).

    Two more of its choices are the caller's: it correlates with the kernel where `Blur` convolves (flip the kernel),
    and it does not shift the mean that the 5-bit face model decodes (a prior whose configuration has `mean_shift` 0).

    Args:
        prior: the prior.
        y: observation(s), as for `restore`.
        operator: A.
        noise_std: σ in the images' unit, a number or one per image (B,). Values below 0.1/255 act as that.
        config: settings as for `restore`, of which temperature, decoder_std (no schedule: J1 has one γ), noise_level
            (of the encoded x_0), max_iterations, stop (a `Residual`), returns and history are used. `initial` says
            what z_0 is: "encode", E_τ(x_0), or "official", an untempered draw from q(z|x_0), which needs a key.
        learning_rate: of Adam, for x (in the images' unit) and z alike, positive; the paper has 0.01 and 0.001.
        objective: "paper", eq. 15, or "official".
        start: x_0; by default `operator.initial(y)`.
        latents: z_0 as in `Encoding`, instead of what `config.initial` says.
        key: of `jax.random`; only `initial="official"` draws anything.
        reference: the clean image(s), for the PSNR of `History`.

    Returns:
        As `restore`; `x` is x_K and `mean` is μ_θ(z_K). Entry k of the history has the objective's terms at (x_k, z_k).

    Raises:
        ValueError: a shape, a type or a setting does not fit.

    Example:
        >>> config = RestoreConfig(temperature=0.8, max_iterations=500, stop=Residual(0.0), history=True)
        >>> out = restore_adam(prior, y, operators.Blur(kernel), 7.65 / 255, config, learning_rate=0.001)
        >>> out.history.objective.shape
        (501,)

    Source:
        Prost et al. 2023, section 5.2 and Fig. 2; the official code's AdamBaseline; Kingma and Ba 2015 (Adam).
    """
    for name, value, choices in (
        ("objective", objective, ("paper", "official")),
        ("initial", config.initial, ("encode", "official")),
        ("orientations", config.orientations, ("fixed",)),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices} for restore_adam, got {value!r}")
    if not isinstance(config.stop, Residual):
        raise ValueError(f"stop must be a Residual for restore_adam, got {config.stop!r}")
    if not isinstance(learning_rate, jax.core.Tracer) and not 0 < np.asarray(learning_rate) < np.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate}")
    problem, single = pose(prior, y, operator, noise_std, config, start, key, reference)
    shape, dtype = operator.image_shape(problem.y.shape), problem.y.dtype
    if jnp.ndim(problem.config.decoder_std) != 1:
        raise ValueError(
            f"decoder_std must be a number or one per image ({shape[0]},) for restore_adam, as J1 does not change "
            f"over the iterations, got a schedule of {jnp.shape(problem.config.decoder_std)[0]}"
        )
    if latents is not None:
        latents = _check_latents(prior, latents, shape, dtype, single)
    out = _restore_adam(problem, latents, jnp.asarray(learning_rate, dtype), key, objective)
    out = out._replace(image=choose(out, config.returns))
    return jax.tree.map(lambda leaf: leaf[0], out) if single else out


@partial(jax.jit, static_argnames="objective")
def _restore_adam(
    problem: Problem, latents: Latents | None, learning_rate: Array, key: Array | None, objective: Objective
) -> Restoration:
    x, optimizer = problem.x0, optax.adam(learning_rate)
    if latents is None:
        latents = first_latents(problem, x, key)
    state = init(problem, objective, optimizer, x, latents)
    state = iteration.run(partial(step, problem, objective, optimizer), state)
    return iteration.restoration(state, state.x)


def init(
    problem: Problem,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    x: Float[Array, "B H W C"],
    latents: Latents,
) -> State:
    """The state before the first iteration.

    Args:
        problem: the problem.
        objective: see `restore_adam`.
        optimizer: Adam.
        x: x_0.
        latents: z_0.

    Returns:
        The state.
    """
    mean, terms, gradient = evaluate(problem, objective, x, latents)
    own = Descent(latents, gradient, jax.vmap(optimizer.init)((x, latents)))
    return iteration.init(problem, x, mean, own, terms, jnp.ones(x.shape[:1], x.dtype))


def step(problem: Problem, objective: Objective, optimizer: optax.GradientTransformation, state: State) -> State:
    """One step of Adam.

    Args:
        problem: the problem.
        objective: see `restore_adam`.
        optimizer: Adam.
        state: the state.

    Returns:
        The next state.
    """
    own = state.own
    updates, moments = jax.vmap(optimizer.update)(own.gradient, own.optimizer)
    x, latents = optax.apply_updates((state.x, own.latents), updates)
    mean, terms, gradient = evaluate(problem, objective, x, latents)
    residual = iteration.change(x, state.x)
    following = Descent(latents, gradient, moments)
    beta = jnp.ones(x.shape[:1], x.dtype)
    stopped = residual < problem.config.stop.tolerance
    return iteration.advance(problem, state, x, mean, residual, following, stopped, terms, beta)


def evaluate(
    problem: Problem, objective: Objective, x: Float[Array, "B H W C"], latents: Latents
) -> tuple[Float[Array, "B H W C"], Terms, tuple[Array, Latents]]:
    """μ_θ(z), the terms of J1 (eq. 15) for each image, and the gradient of J1/d with respect to x and z."""

    def total(x: Array, latents: Latents) -> tuple[Array, tuple[Array, Terms]]:
        mean, latent_term = decode(problem, objective, latents, x.shape[:3])
        terms = problem.terms(x, mean, latent_term, jnp.asarray(problem.config.decoder_std))
        if objective == "official":
            terms = terms._replace(data=terms.data * (x[0].size / problem.y[0].size))
        return jnp.sum(terms.data + terms.latent + terms.decoder) / x[0].size, (mean, terms)

    (_, (mean, terms)), gradient = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(x, latents)
    return mean, terms, gradient


def decode(
    problem: Problem, objective: Objective, latents: Latents, shape: tuple[int, ...]
) -> tuple[Float[Array, "B H W C"], Float[Array, " B"]]:
    """μ_θ(z) for images of the shape (B, H, W), and the latents' term of J1; one top-down pass."""
    prior, tau = problem.prior, jnp.asarray(problem.config.temperature)
    collect = frozenset({"log_prior" if objective == "paper" else "prior"})
    settings = Pass(hierarchy.given, tau, jnp.ones((1,), tau.dtype), latents=latents, collect=collect)
    apply: Any = partial(prior.model.apply, {"params": prior.params})
    result = apply(None, settings, shape, method="top_down")
    mean = prior.model.to_image(apply(result.features, method="decode")).mean
    if objective == "paper":
        return mean, -jnp.sum(result.log_prior / tau**2, axis=1)
    scale = tau if isinstance(prior.config, VDVAEConfig) else 1 / tau
    first = itertools.pairwise(prior.config.first_levels)
    densities = [
        gaussian.log_density(z, Gaussian(p.mean, p.std * scale[:, start:stop, None, None, None]))
        for z, p, (start, stop) in zip(latents, result.prior, first, strict=True)
    ]
    return mean, -jnp.sum(jnp.stack(densities), axis=0)


def first_latents(problem: Problem, x: Float[Array, "B H W C"], key: Array | None) -> Latents:
    """z_0 of x_0, as the settings' `initial` says."""
    rule, noise = hierarchy.tempered_map, None
    if problem.config.initial == "official":
        assert key is not None
        rule, noise = hierarchy.posterior_sample, jax.random.split(key, (x.shape[0], problem.prior.levels))
    temperature = jnp.asarray(problem.config.temperature)
    settings = Pass(rule, temperature, jnp.ones((1,), x.dtype), noise=noise, collect=frozenset({"latent"}))
    return run_pass(problem.prior, x, settings, problem.noise_level(0))[1].latents


def _check_latents(
    prior: Prior, latents: Sequence[ArrayLike], shape: tuple[int, ...], dtype: Any, single: bool
) -> Latents:
    """Given latents as a batch in the type of the images, which have the shape (B, H, W, C)."""
    batch, height, width, _ = shape
    first = itertools.pairwise(prior.config.first_levels)
    shapes = tuple(
        (batch, stop - start, height // stride, width // stride, channels)
        for (start, stop), (stride, channels) in zip(first, prior.config.latent_maps, strict=True)
    )
    arrays = tuple(jnp.asarray(z, dtype)[None] if single else jnp.asarray(z, dtype) for z in latents)
    if tuple(z.shape for z in arrays) != shapes:
        wanted, got = (tuple(shape[single:] for shape in each) for each in (shapes, [z.shape for z in arrays]))
        raise ValueError(f"latents must have the shapes {wanted}, got {got}")
    return arrays
