"""Algorithm 2: restore an image by alternating the hierarchical encoding and a proximal data step.

With x the image, μ the decoded mean, γ the decoder's deviation and f(x) = ‖Ax - y‖²/2σ², iteration k is

    x_k = argmin_x f(x) + β ‖x - μ_{k-1}‖²/2γ²      (the data step)
    μ_k = HVAE(x_k, τ) = μ_θ(E_τ(x_k))              (Algorithm 1, decoded)

from μ_0 = HVAE(x_0, τ). The returned x is one more data step from the last μ, as in the paper's loop, whose last
operation is the data step. A solver is `init`, `step` and `terminate`; `restore` wires them into one
`lax.while_loop`.
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from hvae_jax import gaussian
from hvae_jax.gaussian import per_image
from hvae_jax.metrics import psnr
from hvae_jax.models import hierarchy
from hvae_jax.models.hierarchy import Pass
from hvae_jax.operators import Operator, SuperResolution
from hvae_jax.operators.base import DataStep, as_float
from hvae_jax.prior import (
    Prior,
    check_deviation,
    check_shape,
    check_temperature,
    draw_posterior,
    level_temperature,
    per_batch,
    run_pass,
)
from hvae_jax.restoration.schedules import at_iteration, geometric


class Status(enum.IntEnum):
    """How an image's restoration ended."""

    ITERATION_LIMIT = 0
    """`max_iterations` were done; for a schedule of fixed length that is the regular end."""
    CONVERGED = 1
    """The stopping rule was met."""
    NOT_FINITE = 2
    """NaN or infinity appeared; the image is the last finite one, if there was one."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["temperature", "decoder_std", "noise_level"],
    meta_fields=[
        "max_iterations",
        "stop",
        "tolerance",
        "patience",
        "track",
        "beta_min",
        "beta_max",
        "beta_step",
        "data_step",
        "cg_steps",
        "cg_tolerance",
        "initial",
        "returns",
        "history",
    ],
)
@dataclasses.dataclass(frozen=True)
class RestoreConfig:
    """Settings of Algorithm 2; a pytree whose leaves are the first three.

    Attributes:
        temperature: τ: a number, one per level (L,) (`schedules.linear`), or one per image and level (B, L) or
            (B, 1).
        decoder_std: γ in the images' unit: a number, one per image (B,), or one per iteration and image (K, B) or
            (K, 1) (`schedules.geometric`), whose last row also is that of later iterations. The official presets have
            10/255.
        noise_level: s, what a noise-conditional prior is told of the noise in x_k: like `decoder_std`; None
            for γ (`recommended_config` pairs another s with a γ). Of no effect on other priors.
        max_iterations: K; iterations after μ_0.
        stop: "residual": when the RMS of x_k - x_{k-1} is below the tolerance, in the images' unit (the paper, whose
            norm would depend on the image's size); "plateau": when the tracked value has not
            improved by the relative tolerance for more than `patience` iterations and β is at its end (the
            official code).
        tolerance: of the stopping rule; 0 never stops early.
        patience: of "plateau".
        track: what "plateau" watches: "residual", mean((x_k - x_{k-1})²), or "objective", J1 (eq. 15).
        beta_min: first β; only "plateau" changes it.
        beta_max: last β.
        beta_step: what β rises by on a plateau.
        data_step: "exact", or "cg" for conjugate gradient from μ.
        cg_steps: number of conjugate-gradient steps; None to go to `cg_tolerance`. The official code does one.
        cg_tolerance: relative tolerance of the conjugate gradient.
        initial: μ_0: "encode", HVAE(x_0, τ); "official", a decoded untempered draw from q(z|x_0), which needs a
            key; "image", x_0 itself.
        returns: which iterate `Restoration.image` is: "x", the last data step, or "mean", the last decoded mean; a
            tuple says it for each image.
        history: record `History` in the loop.
    """

    temperature: ArrayLike = 0.8
    decoder_std: ArrayLike = 10 / 255
    noise_level: ArrayLike | None = None
    max_iterations: int = 50
    stop: Literal["residual", "plateau"] = "residual"
    tolerance: float = 1e-4
    patience: int = 50
    track: Literal["residual", "objective"] = "residual"
    beta_min: float = 1.0
    beta_max: float = 1.0
    beta_step: float = 0.1
    data_step: Literal["exact", "cg"] = "exact"
    cg_steps: int | None = None
    cg_tolerance: float = 1e-6
    initial: Literal["encode", "official", "image"] = "encode"
    returns: Literal["x", "mean"] | tuple[Literal["x", "mean"], ...] = "x"
    history: bool = False

    def replace(self, **changes: Any) -> "RestoreConfig":
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)


def _official(noise_std: float, temperature: float | list[float], **changes: Any) -> dict[str, Any]:
    """A row of settings as the official configuration files have them."""
    return {
        "noise_std": noise_std,
        "temperature": temperature,
        "decoder_std": 10.0,
        "max_iterations": 50,
        "stop": "plateau",
        "tolerance": 1e-3,
        "patience": 50,
        "returns": "mean",
        **changes,
    }


EXPERIMENTS: dict[str, dict[str, Any]] = {
    "bsd-deblurring-2.55": _official(2.55, 0.95),
    "bsd-deblurring-7.65": _official(7.65, 0.8),
    "bsd-deblurring-12.75": _official(12.75, 0.6),
    "bsd-inpainting": _official(3.0, 0.6, max_iterations=200, tolerance=1e-5),
    "face-deblurring": _official(8.0, [0.99, 0.8], decoder_std=5.0, patience=10),
    "face-super-resolution": _official(3.0, [0.8, 0.5], decoder_std=5.0, patience=10),
    "face-inpainting": _official(3.0, 0.5, max_iterations=100, tolerance=1e-5),
}
"""The paper's experiments as rows of a `prior.json`'s settings, deviations in grey levels of 255 there and here.

A pair of temperatures is the coarsest and the finest level's.
"""


def paper_config(experiment: str, levels: int = 66) -> RestoreConfig:
    """The settings of one of the paper's experiments, with the values of the official configuration files.

    Args:
        experiment: a key of `EXPERIMENTS`.
        levels: of the prior, over which the temperature of some experiments with faces changes.

    Returns:
        The settings: the official plateau rule and returned iterate, the better data step and start.

    Raises:
        ValueError: there is no such experiment.

    Source:
        Section 6 and the official conf/exp/*.yaml; the BSD inpainting has no such file: its γ is taken to be that
        of the face inpainting.
    """
    if experiment not in EXPERIMENTS:
        raise ValueError(f"expected an experiment of {sorted(EXPERIMENTS)}, got {experiment!r}")
    row = EXPERIMENTS[experiment]
    return config_from_rows([row], row["noise_std"] / 255, levels)


def recommended_config(prior: Prior, noise_std: ArrayLike, operator: Operator, **changes: Any) -> RestoreConfig:
    """The settings that a prior's `prior.json` recommends for a noise level and a task, with some changed.

    Numbers are interpolated between the table's noise levels; the rest is that of the nearest row; both per image. A
    row (deviations in grey levels of 255) that anneals a noise-conditional prior gives, over K = `max_iterations`,

        s_K = max(anneal_to, anneal_to_per_noise_std σ),  s_1 = max(anneal_from, s_K),  s_k geometric in between,
        γ_k = decoder_std_per_noise_level s (s_k/s)^decoder_std_exponent,  s = √(s_1 s_K),

    where anneal_to_per_noise_std and decoder_std_exponent are 1 if the row does not have them.

    Args:
        prior: the prior.
        noise_std: σ in the images' unit, a number or one per image (B,), known (not traced).
        operator: the degradation; its class names the task, and of super-resolution the nearest factor is taken.
        changes: fields of `RestoreConfig` to have instead. What belongs to them follows: with another
            `max_iterations` the annealing is spread over those; a `decoder_std` of one's own takes its place, with the
            `noise_level` that the row pairs with it (γ over decoder_std_per_noise_level).

    Returns:
        The settings.

    Raises:
        ValueError: the prior recommends nothing for the task, `noise_std` is traced, or its values need different
            numbers of iterations.

    Example:
        >>> faster = recommended_config(prior, 7.65 / 255, A, max_iterations=4)
        >>> out = restore(prior, y, A, 7.65 / 255, faster)
    """
    if isinstance(noise_std, jax.core.Tracer):
        raise ValueError("recommended settings need a known noise_std, got a traced one; pass a RestoreConfig")
    tables = prior.info.get("settings")
    if not tables:
        raise ValueError("this prior recommends no settings in its prior.json; pass a RestoreConfig")
    task = type(operator).__name__
    rows = tables.get(task, tables.get("default"))
    if not rows:
        raise ValueError(f"this prior recommends settings for {sorted(tables)}, got {task}; pass a RestoreConfig")
    if isinstance(operator, SuperResolution):
        rows = _nearest_factor(rows, operator.factor)
    return config_from_rows(rows, noise_std, prior.levels, **changes)


def _nearest_factor(rows: Sequence[Mapping[str, Any]], factor: int) -> list[Mapping[str, Any]]:
    """The rows of the factor of super-resolution that is nearest, in ratio; rows that name none are for all."""
    named = {row["factor"] for row in rows if "factor" in row}
    nearest = min(named, key=lambda other: abs(np.log(other / factor)), default=None)
    return [row for row in rows if row.get("factor", nearest) == nearest]


_STATIC = ("max_iterations", "initial", "stop", "tolerance", "patience")


def config_from_rows(
    rows: Sequence[Mapping[str, Any]], noise_std: ArrayLike, levels: int, **changes: Any
) -> RestoreConfig:
    """The settings of a table of a `prior.json` for a noise level, or one per image; see `recommended_config`."""
    sigmas = np.array([row["noise_std"] for row in rows])  # grey levels of 255, as all deviations in the table
    sigma = 255 * np.asarray(noise_std, np.float64)
    fixed = {name: changes[name] for name in _STATIC if name in changes}
    nearest = [{**rows[i], **fixed} for i in np.argmin(abs(sigmas - sigma.reshape(-1, 1)), axis=1)]
    row = nearest[0]
    for name in _STATIC:
        if len({other.get(name) for other in nearest}) > 1:
            raise ValueError(f"the noise levels of this batch need settings that differ in {name}; restore them apart")

    def number(name: str, default: float | None = None) -> np.ndarray:
        return np.interp(sigma, sigmas, [r[name] if default is None else r.get(name, default) for r in rows])

    common: dict[str, Any] = {"temperature": _temperature(rows, sigmas, sigma, levels), "tolerance": 0.0}
    common |= {name: row[name] for name in _STATIC if name in row}
    common["returns"] = tuple(other["returns"] for other in nearest) if sigma.size > 1 else row["returns"]
    if "anneal_from" not in row:
        return RestoreConfig(**{"decoder_std": number("decoder_std") / 255, **common, **changes})
    ratio = number("decoder_std_per_noise_level")
    if "decoder_std" in changes:
        return RestoreConfig(**{"noise_level": changes["decoder_std"] / ratio, **common, **changes})
    stop = np.maximum(number("anneal_to"), number("anneal_to_per_noise_std", 1.0) * sigma) / 255
    start = np.maximum(number("anneal_from") / 255, stop)
    level, middle = geometric(start, stop, row["max_iterations"]), np.sqrt(start * stop)
    gamma = ratio * middle * (level / middle) ** number("decoder_std_exponent", 1.0)
    return RestoreConfig(**{"decoder_std": gamma, "noise_level": level, **common, **changes})


def _temperature(rows: Sequence[Mapping[str, Any]], sigmas: np.ndarray, sigma: np.ndarray, levels: int) -> ArrayLike:
    """τ: a number, or one per image (B, 1); (L,) or (B, L) where a row has it change over the levels."""
    ends = np.array([np.broadcast_to(row["temperature"], 2) for row in rows])
    coarsest, finest = (np.interp(sigma, sigmas, ends[:, i])[..., None] for i in (0, 1))
    if (ends[:, 0] == ends[:, 1]).all():
        return coarsest if sigma.ndim else coarsest[0]
    return coarsest + (finest - coarsest) * np.linspace(0, 1, levels)


class History(NamedTuple):
    """What `history=True` records; entry k is iteration k, 0 the start; NaN after an image's end.

    Attributes:
        residual: RMS of x_k - x_{k-1}, shape (B, K + 1); NaN at 0.
        data_term: f(x_k) = ‖A x_k - y‖²/2σ².
        latent_term: -Σ_l log p(z_l|z_<l)/τ_l² of z_k = E_τ(x_k).
        decoder_term: -log p(x_k|z_k) = ‖x_k - μ_k‖²/2γ² + (d/2) log 2πγ².
        beta: β.
        psnr_x: PSNR of x_k in dB against the reference, if one is given.
        psnr_mean: PSNR of μ_k.
    """

    residual: Float[Array, "B K"]
    data_term: Float[Array, "B K"]
    latent_term: Float[Array, "B K"]
    decoder_term: Float[Array, "B K"]
    beta: Float[Array, "B K"]
    psnr_x: Float[Array, "B K"] | None
    psnr_mean: Float[Array, "B K"] | None

    @property
    def objective(self) -> Float[Array, "B K"]:
        """J1(x_k, z_k) (eq. 15), up to constants."""
        return self.data_term + self.latent_term + self.decoder_term


class Restoration(NamedTuple):
    """What `restore` returns; without the batch axis if y has none.

    Attributes:
        image: x or mean, as the settings' `returns` says.
        x: the last data step, not clipped.
        mean: the last decoded mean, in [0, 1].
        iterations: iterations done.
        residual: RMS of x_K - x_{K-1}, the data steps of the last two iterations, in the images' unit.
        status: a `Status`.
        history: a `History` if it was asked for.
    """

    image: Float[Array, "*B H W C"]
    x: Float[Array, "*B H W C"]
    mean: Float[Array, "*B H W C"]
    iterations: Int[Array, "*B"]
    residual: Float[Array, "*B"]
    status: Int[Array, "*B"]
    history: History | None


class Problem(NamedTuple):
    """What stays the same over the iterations; batch first.

    Attributes:
        prior: the prior.
        operator: A.
        y: the observations.
        noise_std: σ, shape (B,).
        temperature: τ, shape (B or 1, L).
        decoder_std: γ, shape (B,) or (K, B).
        noise_level: s, shape (B,) or (K, B).
        data_step: (u, ratio) -> x.
        config: the static settings.
        reference: the clean images, for the history.
    """

    prior: Prior
    operator: Operator
    y: Array
    noise_std: Float[Array, " B"]
    temperature: Float[Array, "b L"]
    decoder_std: Float[Array, "*K B"]
    noise_level: Float[Array, "*K B"]
    data_step: DataStep
    config: RestoreConfig
    reference: Float[Array, "B H W C"] | None

    @classmethod
    def of(
        cls,
        prior: Prior,
        operator: Operator,
        y: Array,
        noise_std: Float[Array, " B"],
        config: RestoreConfig,
        reference: Float[Array, "B H W C"] | None = None,
    ) -> "Problem":
        """From what `prepare` made; what depends on the operator and y alone is computed here, once."""
        given = (config.temperature, config.decoder_std, config.noise_level)
        temperature, decoder_std, noise_level = map(jnp.asarray, given)
        data_step = operator.data_step_for(y, config.data_step, config.cg_steps, config.cg_tolerance)
        return cls(prior, operator, y, noise_std, temperature, decoder_std, noise_level, data_step, config, reference)

    @property
    def first_noise_level(self) -> Float[Array, " B"]:
        """The noise level s of the first iteration."""
        return at_iteration(self.noise_level, jnp.zeros((), jnp.int32))


class State(NamedTuple):
    """The state of Algorithm 2.

    Attributes:
        iteration: k.
        x: x_k.
        mean: μ_k.
        residual: RMS of x_k - x_{k-1}, shape (B,).
        beta: β, shape (B,).
        best: best tracked value since β last changed.
        waited: iterations without improvement since.
        active: images that go on.
        iterations: iterations that each image did.
        status: a `Status` for each image.
        history: arrays (B, K + 1), or None.
    """

    iteration: Int[Array, ""]
    x: Float[Array, "B H W C"]
    mean: Float[Array, "B H W C"]
    residual: Float[Array, " B"]
    beta: Float[Array, " B"]
    best: Float[Array, " B"]
    waited: Int[Array, " B"]
    active: Bool[Array, " B"]
    iterations: Int[Array, " B"]
    status: Int[Array, " B"]
    history: History | None


class Terms(NamedTuple):
    """The terms of J1 (eq. 15) of each image, as in `History`."""

    data: Array
    latent: Array
    decoder: Array


def init(problem: Problem, x: Float[Array, "B H W C"], mean: Float[Array, "B H W C"]) -> State:
    """The state before the first iteration.

    Args:
        problem: the problem.
        x: x_0.
        mean: μ_0.

    Returns:
        The state.
    """
    batch, config = x.shape[0], problem.config
    nothing = jnp.full((batch,), jnp.nan, x.dtype)
    finite = all_finite(x) & all_finite(mean)
    history = None
    if config.history:
        empty = jnp.full((batch, config.max_iterations + 1), jnp.nan, x.dtype)
        psnr = None if problem.reference is None else empty
        history = History(empty, empty, empty, empty, empty, psnr, psnr)
    beta = jnp.full((batch,), config.beta_min, x.dtype)
    return State(
        iteration=jnp.zeros((), jnp.int32),
        x=x,
        mean=mean,
        residual=nothing,
        beta=beta,
        best=jnp.full((batch,), jnp.inf, x.dtype),
        waited=jnp.zeros((batch,), jnp.int32),
        active=finite,
        iterations=jnp.zeros((batch,), jnp.int32),
        status=jnp.where(finite, Status.ITERATION_LIMIT, Status.NOT_FINITE).astype(jnp.int32),
        history=history,
    )


def step(problem: Problem, state: State) -> State:
    """One iteration: the data step from μ, then Algorithm 1 and the decoder; images that ended stay as they are.

    Args:
        problem: the problem.
        state: the state.

    Returns:
        The next state.

    Source:
        Prost et al. 2023, Algorithm 2, with the official code's β schedule.
    """
    config = problem.config
    decoder_std = at_iteration(problem.decoder_std, state.iteration)
    x = problem.data_step(state.mean, _ratio(problem, state.beta, decoder_std))
    mean, latent_term = encode_decode(problem, x, state.beta, at_iteration(problem.noise_level, state.iteration))
    residual = jnp.sqrt(jnp.mean((x - state.x) ** 2, axis=(1, 2, 3)))
    finite = all_finite(x) & all_finite(mean)

    terms = None
    if _needs_terms(config):
        terms = objective_terms(problem, x, mean, latent_term, decoder_std)
    if config.stop == "residual":
        beta, best, waited = state.beta, state.best, state.waited
        stopped = residual < config.tolerance
        if config.initial == "image":  # μ_0 = x_0 is no evaluation: where x_0 fits y, the data step leaves it as it is
            stopped &= state.iteration > 0
    else:
        tracked = residual**2 if config.track == "residual" or terms is None else sum(terms)
        improved = tracked < (1 - jnp.sign(state.best) * config.tolerance) * state.best
        waited = jnp.where(improved, 0, state.waited + 1)
        plateau = waited > config.patience
        best = jnp.where(plateau, jnp.inf, jnp.where(improved, tracked, state.best))
        waited = jnp.where(plateau, 0, waited)
        beta = jnp.where(plateau, state.beta + config.beta_step, state.beta)
        stopped = beta > config.beta_max + 1e-6

    def keep(new: Array, old: Array, where: Array) -> Array:
        return jnp.where(per_image(where, new).astype(bool), new, old)

    advance = state.active & finite
    status = jnp.where(advance & stopped, Status.CONVERGED, state.status)
    status = jnp.where(state.active & ~finite, Status.NOT_FINITE, status)
    history = state.history
    if history is not None:
        assert terms is not None
        rows = History(residual, *terms, state.beta, *psnrs(problem, x, mean))
        history = jax.tree.map(
            lambda log, row: log.at[:, state.iteration + 1].set(jnp.where(state.active, row, jnp.nan)),
            history,
            rows,
        )
    return State(
        iteration=state.iteration + 1,
        x=keep(x, state.x, advance),
        mean=keep(mean, state.mean, advance),
        residual=keep(residual, state.residual, advance),
        beta=keep(jnp.minimum(beta, config.beta_max), state.beta, advance),  # the end of the schedule is not used
        best=keep(best, state.best, advance),
        waited=keep(waited, state.waited, advance),
        active=advance & ~stopped,
        iterations=state.iterations + advance,
        status=status.astype(jnp.int32),
        history=history,
    )


def terminate(problem: Problem, state: State) -> Bool[Array, ""]:
    """Whether no image goes on, or the iteration limit is reached."""
    return ~jnp.any(state.active) | (state.iteration >= problem.config.max_iterations)


def encode_decode(
    problem: Problem, x: Array, beta: Array, noise_level: Array
) -> tuple[Float[Array, "B H W C"], Float[Array, " B"] | None]:
    """HVAE(x, τ), and -Σ_l log p(z_l|z_<l)/τ_l² where the settings need it."""
    config = problem.config
    collect = frozenset({"log_prior"} if _needs_terms(config) else ())
    settings = Pass(hierarchy.tempered_map, problem.temperature, beta, collect=collect)
    decoder, result = run_pass(problem.prior, x, settings, noise_level)
    if result.log_prior is None:
        return decoder.mean, None
    return decoder.mean, -jnp.sum(result.log_prior / problem.temperature**2, axis=1)


def restore(
    prior: Prior,
    y: Float[ArrayLike, "*B h w c"],
    operator: Operator,
    noise_std: ArrayLike,
    config: RestoreConfig | None = None,
    *,
    start: Float[ArrayLike, "*B H W C"] | None = None,
    key: Array | None = None,
    reference: Float[ArrayLike, "*B H W C"] | None = None,
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
    given = prepare(prior, y, operator, noise_std, config, start, key)
    if reference is not None:
        reference = like_images(reference, given.shape, "reference", given.y.dtype)
    # `returns` is taken out: it needs no program of its own.
    static = given.config.replace(returns="x")
    out = _restore(prior.network, operator, given.y, given.noise_std, static, given.start, key, reference)
    out = out._replace(image=choose(out, given.config.returns))
    return jax.tree.map(lambda leaf: leaf[0], out) if given.single else out


class Prepared(NamedTuple):
    """Checked arguments of `restore`; batch first.

    Attributes:
        y: the observations.
        start: x_0; None for the operator's `initial`, computed in the compiled program.
        shape: of x, (B, H, W, C).
        noise_std: σ, shape (B,).
        config: the settings, with temperature (B or 1, L), decoder_std and noise_level (B,) or (K, B).
        single: whether y came without a batch axis.
    """

    y: Array
    start: Float[Array, "B H W C"] | None
    shape: tuple[int, ...]
    noise_std: Float[Array, " B"]
    config: RestoreConfig
    single: bool


def prepare(
    prior: Prior,
    y: ArrayLike,
    operator: Operator,
    noise_std: ArrayLike,
    config: RestoreConfig | None,
    start: ArrayLike | None,
    key: Array | None,
) -> Prepared:
    """Check the arguments of `restore` and bring them into arrays of one type and a batch; see there."""
    y = as_float(y, "the observation")
    x_shape = operator.image_shape(y.shape)
    single = len(x_shape) == 3
    if single:
        y, x_shape = y[None], (1, *x_shape)
    check_shape(prior, x_shape, "images")
    start = None if start is None else like_images(start, x_shape, "start", y.dtype)
    check_deviation(noise_std, "noise_std")
    batch = x_shape[0]
    if config is None:
        config = recommended_config(prior, noise_std, operator)
    _check(config, key)
    # Arrays of one type, so that a second call with other numbers does not compile again.
    arrays = config.replace(
        temperature=level_temperature(prior, batch, config.temperature, y.dtype),
        decoder_std=_per_iteration(config.decoder_std, batch, "decoder_std", y.dtype),
        noise_level=_per_iteration(
            config.decoder_std if config.noise_level is None else config.noise_level, batch, "noise_level", y.dtype
        ),
    )
    sigma = jnp.maximum(per_batch(noise_std, batch, "noise_std", y.dtype), 0.1 / 255)
    return Prepared(y, start, x_shape, sigma, arrays, single)


@jax.jit
def _restore(
    prior: Prior,
    operator: Operator,
    y: Array,
    noise_std: Array,
    config: RestoreConfig,
    start: Array | None,
    key: Array | None,
    reference: Array | None,
) -> Restoration:
    x = operator.initial(y) if start is None else start
    problem = Problem.of(prior, operator, y, noise_std, config, reference)
    first_level = problem.first_noise_level
    beta = jnp.full((x.shape[0],), config.beta_min, x.dtype)
    latent_term = None
    if config.initial == "encode":
        mean, latent_term = encode_decode(problem, x, beta, first_level)
    elif config.initial == "official":
        assert key is not None
        mean = draw_posterior(prior, x, jax.random.split(key, (x.shape[0], prior.levels)), first_level)
    else:
        mean = x
    state = init(problem, x, mean)
    if state.history is not None:
        state = state._replace(history=_first_row(problem, state, latent_term))
    state = lax.while_loop(lambda s: ~terminate(problem, s), partial(step, problem), state)

    last = jnp.maximum(state.iterations - 1, 0)
    x = problem.data_step(state.mean, _ratio(problem, state.beta, _at_each(problem.decoder_std, last)))
    x = jnp.where(per_image(all_finite(x), x).astype(bool), x, state.x)
    return Restoration(
        image=x,
        x=x,
        mean=state.mean,
        iterations=state.iterations,
        residual=state.residual,
        status=state.status,
        history=state.history,
    )


def choose(out: Restoration, returns: str | tuple[str, ...]) -> Float[Array, "B H W C"]:
    """The iterate that `returns` names, for all or for each image."""
    if isinstance(returns, str):
        return out.x if returns == "x" else out.mean
    if len(returns) != out.x.shape[0]:
        raise ValueError(f"returns must name an iterate for each of {out.x.shape[0]} images, got {len(returns)}")
    return jnp.stack([out.x[i] if name == "x" else out.mean[i] for i, name in enumerate(returns)])


def like_images(value: ArrayLike, shape: tuple[int, ...], name: str, dtype: Any) -> Float[Array, "B H W C"]:
    """An image or a batch as a batch of the shape, without copying one image to many."""
    array = jnp.asarray(value, dtype)
    if array.shape != shape and (1, *array.shape) != shape:
        raise ValueError(f"{name} must have the images' shape {shape}, got {array.shape}")
    return array.reshape(shape)


def _ratio(problem: Problem, beta: Array, decoder_std: Array) -> Float[Array, " B"]:
    """βσ²/γ², the weight of the prior in the data step."""
    return jnp.broadcast_to(beta * (problem.noise_std / decoder_std) ** 2, problem.noise_std.shape)


def _needs_terms(config: RestoreConfig) -> bool:
    """Whether the settings ask for the terms of J1."""
    return config.history or (config.stop == "plateau" and config.track == "objective")


def objective_terms(problem: Problem, x: Array, mean: Array, latent_term: Array | None, decoder_std: Array) -> Terms:
    """The terms of J1 (eq. 15)."""
    assert latent_term is not None
    misfit = (problem.operator(x) - problem.operator.observed(problem.y)) / per_image(problem.noise_std, problem.y)
    std = per_image(decoder_std, x)
    decoder = gaussian.Gaussian(mean, jnp.broadcast_to(std, mean.shape))
    return Terms(0.5 * gaussian.sum_per_image(misfit**2), latent_term, -gaussian.log_density(x, decoder))


def psnrs(problem: Problem, x: Array, mean: Array) -> tuple[Array | None, Array | None]:
    """PSNR of both iterates against the reference, None where there is none."""
    if problem.reference is None:
        return None, None
    return psnr(x, problem.reference), psnr(mean, problem.reference)


def _first_row(problem: Problem, state: State, latent_term: Array | None) -> History:
    """The history with the start written into it."""
    assert state.history is not None
    nothing = jnp.full_like(state.beta, jnp.nan)
    decoder_std = at_iteration(problem.decoder_std, state.iteration)
    known = nothing if latent_term is None else latent_term
    terms = objective_terms(problem, state.x, state.mean, known, decoder_std)
    rows = History(nothing, *terms, state.beta, *psnrs(problem, state.x, state.mean))
    return jax.tree.map(lambda log, row: log.at[:, 0].set(row), state.history, rows)


def all_finite(x: Float[Array, "B H W C"]) -> Bool[Array, " B"]:
    """Whether nothing of an image is NaN or infinite."""
    return jnp.all(jnp.isfinite(x), axis=(1, 2, 3))


def _at_each(value: Array, iteration: Int[Array, " B"]) -> Float[Array, " B"]:
    """`at_iteration` for images at different iterations."""
    if value.ndim < 2:
        return value
    rows = jnp.minimum(iteration, value.shape[0] - 1)
    wide = jnp.broadcast_to(value, (value.shape[0], iteration.shape[0]))
    return jnp.take_along_axis(wide, rows[None], axis=0)[0]


def _per_iteration(value: ArrayLike, batch: int, name: str, dtype: Any) -> Array:
    """A deviation as one per image (B,) or per iteration and image (K, B), checked where it is known."""
    array = jnp.asarray(value, dtype)
    if not isinstance(value, jax.core.Tracer) and not (np.asarray(value) > 0).all():
        raise ValueError(f"{name} must be positive, got {value}")
    if array.ndim == 2 and array.shape[1] in (1, batch):
        return jnp.broadcast_to(array, (array.shape[0], batch))
    if array.shape not in ((), (1,), (batch,)):
        raise ValueError(
            f"{name} must be a number, one per image ({batch},), or per iteration and image (K, {batch}), "
            f"got shape {array.shape}"
        )
    return jnp.broadcast_to(array, (batch,))


def _check(config: RestoreConfig, key: Array | None) -> None:
    """Refuse settings that cannot be meant."""
    for name, choices in (
        ("stop", ("residual", "plateau")),
        ("track", ("residual", "objective")),
        ("data_step", ("exact", "cg")),
        ("initial", ("encode", "official", "image")),
        ("returns", ("x", "mean")),
    ):
        value = getattr(config, name)
        if any(one not in choices for one in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{name} must be one of {choices}, got {getattr(config, name)!r}")
    if config.max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {config.max_iterations}")
    if config.tolerance < 0:
        raise ValueError(f"tolerance must not be negative, got {config.tolerance}")
    if not 0 < config.beta_min <= config.beta_max:
        raise ValueError(f"expected 0 < beta_min <= beta_max, got {config.beta_min} and {config.beta_max}")
    if config.patience < 0 or config.beta_step <= 0:
        raise ValueError(f"expected patience >= 0 and beta_step > 0, got {config.patience} and {config.beta_step}")
    if config.initial == "official" and key is None:
        raise ValueError('initial="official" draws the first latent at random: give a key')
    check_temperature(config.temperature, max(config.beta_max, config.beta_min))
