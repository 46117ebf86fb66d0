"""Algorithm 2: restore an image by alternating the hierarchical encoding and a proximal data step.

With x the image, μ the decoded mean, γ the decoder's deviation and f(x) = ‖Ax - y‖²/2σ², iteration k is the map T,

    x_k = argmin_x f(x) + β ‖x - μ_{k-1}‖²/2γ²      (the data step)
    μ_k = HVAE(x_k, τ) = μ_θ(E_τ(x_k))              (Algorithm 1, decoded)

from μ_0 = HVAE(x_0, τ). The returned x is one more data step from the last μ, as in the paper's loop, whose last
operation is the data step.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hvae_jax.encoding import draw_posterior, run_pass
from hvae_jax.gaussian import per_image
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import Pass
from hvae_jax.operators import Operator
from hvae_jax.operators.base import DataStep
from hvae_jax.prior import Prior
from hvae_jax.restoration import iteration
from hvae_jax.restoration.devices import check_mesh, on_mesh
from hvae_jax.restoration.iteration import State, all_finite
from hvae_jax.restoration.orientations import in_orientations
from hvae_jax.restoration.problem import Problem, Terms, pose
from hvae_jax.restoration.recommended import recommended_config
from hvae_jax.restoration.result import Restoration, choose
from hvae_jax.restoration.settings import RestoreConfig, StopState


def restore(
    prior: Prior,
    y: Float[ArrayLike, "*observations"],
    operator: Operator,
    noise_std: ArrayLike,
    config: RestoreConfig | None = None,
    *,
    start: Float[ArrayLike, "*B H W C"] | None = None,
    key: Array | None = None,
    reference: Float[ArrayLike, "*B H W C"] | None = None,
    mesh: Mesh | None = None,
) -> Restoration:
    """Restore images from y = A x + σ ε by Algorithm 2; one compiled program, the loop included.

    Every image of a batch stops by itself; solving a batch gives what solving its images one by one gives.

    Args:
        prior: the prior.
        y: observation(s) in [0, 1] plus noise; not clipped, where possible.
        operator: A. The sides of x must be multiples of `prior.multiple`.
        noise_std: σ in the images' unit (7.65/255, say), a number or one per image (B,). Values below 0.1/255 act
            as that.
        config: the settings; by default those that the prior recommends for the noise level and the task.
        start: x_0; by default `operator.initial(y)`.
        key: of `jax.random`; only `initial="official"` draws anything.
        reference: the clean image(s), for the PSNR of `History`.
        mesh: devices to share the work, `jax.sharding.Mesh(jax.devices(), ("batch",))`: each takes some of the images;
            or, with the axis "rows", of one or more large pictures some of the rows.

    Returns:
        The restored image(s), both iterates, and how it ended. Divergence is no exception but a `Status`.

    Raises:
        ValueError: a shape, a type or a setting does not fit.

    Example:
        >>> out = restore(prior, y, operators.Blur(kernel), noise_std=7.65 / 255)
        >>> out.image.shape
        (256, 256, 3)

    Source:
        Prost et al. 2023, Algorithm 2.
    """
    if config is None:
        config = recommended_config(prior, noise_std, operator)
    problem, single = pose(prior, y, operator, noise_std, config, start, key, reference)
    if mesh is None:
        out = _restore(problem, key)
    else:
        check_mesh(mesh, problem)
        out = on_mesh(_restore_without_key, problem, mesh)
    out = out._replace(image=choose(out, config.returns))
    return jax.tree.map(lambda leaf: leaf[0], out) if single else out


def _restore_without_key(problem: Problem) -> Restoration:
    return _restore(problem, None)


@jax.jit
def _restore(problem: Problem, key: Array | None) -> Restoration:
    data_step = problem.data_step()
    state = iteration.run(partial(step, problem, data_step), init(problem, *first_mean(problem, key)))
    last = problem.decoder_std(jnp.maximum(state.iteration - 1, 0))
    x = data_step(state.mean, problem.ratio(state.own.beta, last))
    return iteration.restoration(state, jnp.where(per_image(all_finite(x), x).astype(bool), x, state.x))


def first_mean(problem: Problem, key: Array | None) -> tuple[Array, Array, Array | None]:
    """x_0, μ_0 as the settings' `initial` says, and the latents' term of J1 where that is known."""
    x, none = problem.x0, jnp.zeros(problem.y.shape[0], jnp.int32)
    if problem.config.initial == "encode":
        beta = jnp.full(x.shape[:1], problem.config.stop.betas[0], x.dtype)
        return x, *encode_decode(problem, x, beta, none)
    if problem.config.initial == "official":
        assert key is not None
        keys = jax.random.split(key, (x.shape[0], problem.prior.levels))
        return x, draw_posterior(problem.prior, x, keys, problem.noise_level(none)), None
    return x, x, None


def init(problem: Problem, x: Array, mean: Array, latent_term: Array | None) -> State:
    """The state before the first iteration.

    Args:
        problem: the problem.
        x: x_0.
        mean: μ_0.
        latent_term: that of J1, for the history; None where it is not known.

    Returns:
        The state.
    """
    batch = x.shape[0]
    beta = jnp.full((batch,), problem.config.stop.betas[0], x.dtype)
    rule = StopState(beta, jnp.full((batch,), jnp.inf, x.dtype), jnp.zeros((batch,), jnp.int32))
    terms = None
    if problem.config.history:
        unknown = jnp.full((batch,), iteration.not_there(), x.dtype)
        decoder_std = problem.decoder_std(jnp.zeros((batch,), jnp.int32))
        terms = problem.terms(x, mean, unknown if latent_term is None else latent_term, decoder_std)
    return iteration.init(problem, x, mean, rule, terms, beta)


def step(problem: Problem, data_step: DataStep, state: State) -> State:
    """One iteration: the data step from μ, then Algorithm 1 and the decoder.

    Args:
        problem: the problem.
        data_step: what its `data_step()` gave.
        state: the state.

    Returns:
        The next state.

    Source:
        Prost et al. 2023, Algorithm 2, with the official code's β schedule.
    """
    config, rule = problem.config, state.own
    decoder_std = problem.decoder_std(state.iteration)
    x = data_step(state.mean, problem.ratio(rule.beta, decoder_std))
    mean, latent_term = encode_decode(problem, x, rule.beta, state.iteration)
    residual = iteration.change(x, state.x)
    terms: Terms | None = None
    if config.needs_objective:
        terms = problem.terms(x, mean, latent_term, decoder_std)
    objective = None if terms is None or not config.stop.tracks_objective else jnp.stack(terms).sum(axis=0)
    following, stopped = config.stop.update(rule, residual, objective)
    if config.initial == "image":  # μ_0 = x_0 is no evaluation: where x_0 fits y, the data step leaves it as it is
        stopped &= state.iteration > 0
    return iteration.advance(problem, state, x, mean, residual, following, stopped, terms, rule.beta)


def encode_decode(
    problem: Problem, x: Array, beta: Array, iteration: Array, square: bool | None = None
) -> tuple[Float[Array, "B H W C"], Float[Array, " B"]]:
    """HVAE(x, τ), and -Σ_l log p(z_l|z_<l)/τ_l² where the settings need it, else zeros; `square`: see there."""
    config = problem.config
    collect = frozenset({"log_prior"} if config.needs_objective else ())
    settings = Pass(hierarchy.tempered_map, jnp.asarray(config.temperature), beta, collect=collect)

    def evaluate(x: Array) -> tuple[Array, Array]:
        decoder, result = run_pass(problem.prior, x, settings, problem.noise_level(iteration))
        if result.log_prior is None:
            return decoder.mean, jnp.zeros(x.shape[:1], x.dtype)
        return decoder.mean, -jnp.sum(result.log_prior / config.temperature**2, axis=1)

    return in_orientations(evaluate, x, iteration, config.orientations, square)
