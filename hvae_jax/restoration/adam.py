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
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hvae_jax import gaussian
from hvae_jax.gaussian import Gaussian, per_image
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import Pass
from hvae_jax.models.vdvae import VDVAEConfig
from hvae_jax.operators import Operator
from hvae_jax.prior import Prior, run_pass
from hvae_jax.restoration import pnp_hvae
from hvae_jax.restoration.pnp_hvae import History, Problem, Restoration, RestoreConfig, Status, all_finite, prepare

Latents = tuple[Float[Array, "B n h w c"], ...]
Objective = Literal["paper", "official"]


class State(NamedTuple):
    """The state of the baseline.

    Attributes:
        solver: what it has in common with Algorithm 2: x_k, the decoded mean μ_θ(z_k), who goes on, the history.
        latents: z_k, as in `Encoding`.
        gradient: of J1/d with respect to x_k and z_k.
        optimizer: Adam's moments.
    """

    solver: pnp_hvae.State
    latents: Latents
    gradient: tuple[Array, Latents]
    optimizer: Any


def restore_adam(
    prior: Prior,
    y: Float[ArrayLike, "*B h w c"],
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
            (of the encoded x_0), max_iterations, tolerance, returns and history are used. `initial` says what z_0 is:
            "encode", E_τ(x_0), or "official", an untempered draw from q(z|x_0), which needs a key.
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
        >>> config = RestoreConfig(temperature=0.8, max_iterations=500, tolerance=0.0, history=True)
        >>> out = restore_adam(prior, y, operators.Blur(kernel), 7.65 / 255, config, learning_rate=0.001)
        >>> out.history.objective.shape
        (501,)

    Source:
        Prost et al. 2023, section 5.2 and Fig. 2; the official code's AdamBaseline; Kingma and Ba 2015 (Adam).
    """
    for name, value, choices in (
        ("objective", objective, ("paper", "official")),
        ("stop", config.stop, ("residual",)),
        ("initial", config.initial, ("encode", "official")),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices} for restore_adam, got {value!r}")
    if not isinstance(learning_rate, jax.core.Tracer) and not 0 < np.asarray(learning_rate) < np.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate}")
    given = prepare(prior, y, operator, noise_std, config, start, key)
    shape, dtype = given.shape, given.y.dtype
    if jnp.ndim(given.config.decoder_std) != 1:
        raise ValueError(
            f"decoder_std must be a number or one per image ({shape[0]},) for restore_adam, as J1 does not change "
            f"over the iterations, got a schedule of {jnp.shape(given.config.decoder_std)[0]}"
        )
    if reference is not None:
        reference = pnp_hvae.like_images(reference, shape, "reference", dtype)
    if latents is not None:
        latents = _check_latents(prior, latents, shape, dtype, given.single)
    # `returns` is taken out: it needs no program of its own.
    static = given.config.replace(returns="x")
    rate = jnp.asarray(learning_rate, dtype)
    out = _restore_adam(
        prior.network, operator, given.y, given.noise_std, static, given.start, latents, rate, key, reference, objective
    )
    out = out._replace(image=pnp_hvae.choose(out, config.returns))
    return jax.tree.map(lambda leaf: leaf[0], out) if given.single else out


@partial(jax.jit, static_argnames="objective")
def _restore_adam(
    prior: Prior,
    operator: Operator,
    y: Array,
    noise_std: Array,
    config: RestoreConfig,
    start: Array | None,
    latents: Latents | None,
    learning_rate: Array,
    key: Array | None,
    reference: Array | None,
    objective: Objective,
) -> Restoration:
    x = operator.initial(y) if start is None else start
    problem = Problem.of(prior, operator, y, noise_std, config, reference)
    if latents is None:
        latents = first_latents(problem, x, key)
    optimizer = optax.adam(learning_rate)
    state = lax.while_loop(
        lambda s: ~pnp_hvae.terminate(problem, s.solver),
        partial(step, problem, objective, optimizer),
        init(problem, objective, optimizer, x, latents),
    ).solver
    return Restoration(
        image=state.x,
        x=state.x,
        mean=state.mean,
        iterations=state.iterations,
        residual=state.residual,
        status=state.status,
        history=state.history,
    )


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
    solver = pnp_hvae.init(problem, x, mean)
    solver = solver._replace(history=_record(problem, solver, 0, x, mean, solver.residual, terms))
    return State(solver, latents, gradient, optimizer.init((x, latents)))


def step(problem: Problem, objective: Objective, optimizer: optax.GradientTransformation, state: State) -> State:
    """One step of Adam; images that ended stay as they are.

    Args:
        problem: the problem.
        objective: see `restore_adam`.
        optimizer: Adam.
        state: the state.

    Returns:
        The next state.
    """
    old = state.solver
    updates, moments = optimizer.update(state.gradient, state.optimizer)
    x, latents = optax.apply_updates((old.x, state.latents), updates)
    mean, terms, gradient = evaluate(problem, objective, x, latents)
    residual = jnp.sqrt(jnp.mean((x - old.x) ** 2, axis=(1, 2, 3)))
    finite = all_finite(x) & all_finite(mean)
    advance = old.active & finite
    stopped = residual < problem.config.tolerance
    status = jnp.where(advance & stopped, Status.CONVERGED, old.status)
    status = jnp.where(old.active & ~finite, Status.NOT_FINITE, status)

    def keep(new: Array, before: Array) -> Array:
        return jnp.where(per_image(advance, new).astype(bool), new, before)

    solver = old._replace(
        iteration=old.iteration + 1,
        x=keep(x, old.x),
        mean=keep(mean, old.mean),
        residual=keep(residual, old.residual),
        active=advance & ~stopped,
        iterations=old.iterations + advance,
        status=status.astype(jnp.int32),
        history=_record(problem, old, old.iteration + 1, x, mean, residual, terms),
    )
    return State(solver, jax.tree.map(keep, latents, state.latents), gradient, moments)


def evaluate(
    problem: Problem, objective: Objective, x: Float[Array, "B H W C"], latents: Latents
) -> tuple[Float[Array, "B H W C"], pnp_hvae.Terms, tuple[Array, Latents]]:
    """μ_θ(z), the terms of J1 (eq. 15) for each image, and the gradient of J1/d with respect to x and z."""

    def total(x: Array, latents: Latents) -> tuple[Array, tuple[Array, pnp_hvae.Terms]]:
        mean, latent_term = decode(problem, objective, latents, x.shape[:3])
        terms = pnp_hvae.objective_terms(problem, x, mean, latent_term, problem.decoder_std)
        if objective == "official":
            terms = terms._replace(data=terms.data * (x[0].size / problem.y[0].size))
        return jnp.sum(terms.data + terms.latent + terms.decoder) / x[0].size, (mean, terms)

    (_, (mean, terms)), gradient = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(x, latents)
    return mean, terms, gradient


def decode(
    problem: Problem, objective: Objective, latents: Latents, shape: tuple[int, ...]
) -> tuple[Float[Array, "B H W C"], Float[Array, " B"]]:
    """μ_θ(z) for images of the shape (B, H, W), and the latents' term of J1; one top-down pass."""
    prior, tau = problem.prior, problem.temperature
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
    settings = Pass(rule, problem.temperature, jnp.ones((1,), x.dtype), noise=noise, collect=frozenset({"latent"}))
    return run_pass(problem.prior, x, settings, problem.first_noise_level)[1].latents


def _record(
    problem: Problem,
    state: pnp_hvae.State,
    row: ArrayLike,
    x: Array,
    mean: Array,
    residual: Array,
    terms: pnp_hvae.Terms,
) -> History | None:
    """The history with a row of the images that go on."""
    if state.history is None:
        return None
    values = History(residual, *terms, state.beta, *pnp_hvae.psnrs(problem, x, mean))
    return jax.tree.map(
        lambda log, value: log.at[:, row].set(jnp.where(state.active, value, jnp.nan)), state.history, values
    )


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
