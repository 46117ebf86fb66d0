"""The settings of a restoration: stop rules, data-step solvers, and what Algorithm 2 is run with."""

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from hvae_jax.encoding import check_temperature

Iterate = Literal["x", "mean"]
Orientations = Literal["fixed", "cycle"] | int


class StopState(NamedTuple):
    """What a stop rule carries from iteration to iteration, of each image.

    Attributes:
        beta: β of eq. 18 and of the data step.
        best: best tracked value since β last changed.
        waited: iterations without improvement since.
    """

    beta: Float[Array, " B"]
    best: Float[Array, " B"]
    waited: Int[Array, " B"]


@partial(jax.tree_util.register_dataclass, data_fields=["tolerance"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Residual:
    """Stop when the RMS of x_k - x_{k-1} is below the tolerance (the paper, whose norm depends on the image's size).

    Attributes:
        tolerance: in the images' unit; 0 never stops early.
    """

    tolerance: ArrayLike = 1e-4

    @property
    def betas(self) -> tuple[ArrayLike, ArrayLike]:
        """The first and the last β."""
        return 1.0, 1.0

    def check(self) -> None:
        """ValueError for a tolerance that cannot be meant."""
        _check_tolerance(self.tolerance)

    def update(self, state: StopState, residual: Array, objective: Array | None) -> tuple[StopState, Bool[Array, " B"]]:
        """The next state, and which images stop.

        Args:
            state: of the iterations so far.
            residual: RMS of x_k - x_{k-1}, shape (B,).
            objective: J1 (eq. 15), where `tracks_objective` is true.
        """
        return state, residual < self.tolerance

    @property
    def tracks_objective(self) -> bool:
        """Whether `update` needs J1."""
        return False


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["tolerance", "patience", "beta_min", "beta_max", "beta_step"],
    meta_fields=["track"],
)
@dataclasses.dataclass(frozen=True)
class Plateau:
    """Raise β where the tracked value has not improved for more than `patience` iterations; stop after the last β.

    Attributes:
        tolerance: smallest relative improvement that counts.
        patience: iterations without one that are waited for.
        track: "residual", mean((x_k - x_{k-1})²), or "objective", J1 (eq. 15).
        beta_min: first β.
        beta_max: last β.
        beta_step: what β rises by.

    Source:
        The official code.
    """

    tolerance: ArrayLike = 1e-3
    patience: ArrayLike = 50
    track: Literal["residual", "objective"] = "residual"
    beta_min: ArrayLike = 1.0
    beta_max: ArrayLike = 1.0
    beta_step: ArrayLike = 0.1

    @property
    def betas(self) -> tuple[ArrayLike, ArrayLike]:
        """The first and the last β."""
        return self.beta_min, self.beta_max

    @property
    def tracks_objective(self) -> bool:
        """Whether `update` needs J1."""
        return self.track == "objective"

    def check(self) -> None:
        """ValueError for numbers that cannot be meant."""
        if self.track not in ("residual", "objective"):
            raise ValueError(f"track must be 'residual' or 'objective', got {self.track!r}")
        _check_tolerance(self.tolerance)
        if not _known(self.beta_min, self.beta_max, self.beta_step, self.patience):
            return
        if not 0 < self.beta_min <= self.beta_max:  # type: ignore[operator]
            raise ValueError(f"expected 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")
        if not (self.patience >= 0 and self.beta_step > 0):  # type: ignore[operator]
            raise ValueError(f"expected patience >= 0 and beta_step > 0, got {self.patience} and {self.beta_step}")

    def update(self, state: StopState, residual: Array, objective: Array | None) -> tuple[StopState, Bool[Array, " B"]]:
        """The next state, and which images stop; see `Residual.update`."""
        tracked = residual**2 if objective is None else objective
        improved = tracked < (1 - jnp.sign(state.best) * self.tolerance) * state.best
        waited = jnp.where(improved, 0, state.waited + 1)
        plateau = waited > self.patience
        beta = jnp.where(plateau, state.beta + self.beta_step, state.beta)
        stopped = beta > self.beta_max + 1e-6
        best = jnp.where(plateau, jnp.inf, jnp.where(improved, tracked, state.best))
        # The value past the end of the schedule is not used.
        return StopState(jnp.minimum(beta, self.beta_max), best, jnp.where(plateau, 0, waited)), stopped


Stop = Residual | Plateau


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Exact:
    """The data step in closed form, or by conjugate gradient to round-off where an operator has none."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of `Operator.data_step_for`."""
        return {"method": "exact"}


@partial(jax.tree_util.register_dataclass, data_fields=["tolerance"], meta_fields=["steps"])
@dataclasses.dataclass(frozen=True)
class ConjugateGradient:
    """The data step by conjugate gradient from μ.

    Attributes:
        steps: their number; None to go to the tolerance. The official code does one, whatever its tolerance says.
        tolerance: relative, of the residual.
    """

    steps: int | None = None
    tolerance: ArrayLike = 1e-6

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of `Operator.data_step_for`."""
        return {"method": "cg", "cg_steps": self.steps, "cg_tolerance": self.tolerance}


DataStepSolver = Exact | ConjugateGradient


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["temperature", "decoder_std", "noise_level", "stop", "data_step"],
    meta_fields=["max_iterations", "initial", "returns", "orientations", "history"],
)
@dataclasses.dataclass(frozen=True)
class RestoreConfig:
    """Settings of Algorithm 2; a pytree, whose numbers can change without compiling anew.

    Attributes:
        temperature: τ: a number, one per level (L,) (`schedules.linear`), or one per image and level (B, L) or
            (B, 1).
        decoder_std: γ in the images' unit: a number, one per image (B,), or one per iteration and image (K, B) or
            (K, 1) (`schedules.geometric`), whose last row also is that of later iterations. The official presets have
            10/255.
        noise_level: s, what a noise-conditional prior is told of the noise in x_k: like `decoder_std`; None
            for γ (`recommended_config` pairs another s with a γ). Of no effect on other priors.
        max_iterations: K; iterations after μ_0.
        stop: `Residual(tolerance)` or `Plateau(...)`.
        data_step: `Exact()` or `ConjugateGradient(steps, tolerance)`.
        initial: μ_0: "encode", HVAE(x_0, τ); "official", a decoded untempered draw from q(z|x_0), which needs a
            key; "image", x_0 itself.
        returns: which iterate `Restoration.image` is: "x", the last data step, or "mean", the last decoded mean; a
            tuple says it for each image.
        orientations: "fixed": the network sees the image as it is; "cycle": flipped differently in each iteration, and
            turned where height equals width, at no cost, so that its preferred direction leaves no trace; a number n:
            likewise, the mean over n of these in each iteration, for n times the work.
        history: record `History` in the loop.
    """

    temperature: ArrayLike = 0.8
    decoder_std: ArrayLike = 10 / 255
    noise_level: ArrayLike | None = None
    max_iterations: int = 50
    stop: Stop = Residual()
    data_step: DataStepSolver = Exact()
    initial: Literal["encode", "official", "image"] = "encode"
    returns: Iterate | tuple[Iterate, ...] = "x"
    orientations: Orientations = "fixed"
    history: bool = False

    def replace(self, **changes: Any) -> "RestoreConfig":
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)

    @property
    def needs_objective(self) -> bool:
        """Whether the terms of J1 (eq. 15) are to be computed."""
        return self.history or self.stop.tracks_objective

    def check(self, key: Array | None) -> None:
        """ValueError for settings that cannot be meant.

        Args:
            key: the caller's, which `initial="official"` needs.
        """
        for name, kinds in (("stop", Stop), ("data_step", DataStepSolver)):
            if not isinstance(getattr(self, name), kinds):
                names = " or ".join(kind.__name__ for kind in kinds.__args__)
                raise ValueError(f"{name} must be {names}, got {getattr(self, name)!r}")
        returns = self.returns if isinstance(self.returns, tuple) else (self.returns,)
        for name, values, choices in (
            ("initial", (self.initial,), ("encode", "official", "image")),
            ("returns", returns, ("x", "mean")),
        ):
            if any(value not in choices for value in values):
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.orientations not in ("fixed", "cycle") and not 1 <= _whole(self.orientations) <= 8:
            raise ValueError(
                f"orientations must be 'fixed', 'cycle' or a number from 1 to 8, got {self.orientations!r}"
            )
        check_iterations(self.max_iterations)
        self.stop.check()
        if self.initial == "official" and key is None:
            raise ValueError('initial="official" draws the first latent at random: give a key')
        check_temperature(self.temperature, self.stop.betas[1])


MOST_ITERATIONS = 1_000_000
"""A history of more would not fit the memory."""


def check_iterations(count: Any) -> None:
    """ValueError for a number of iterations that cannot be meant."""
    if not 1 <= _whole(count) <= MOST_ITERATIONS:
        raise ValueError(f"max_iterations must be a whole number from 1 to {MOST_ITERATIONS}, got {count}")


def _whole(value: Any) -> int:
    """The value if it is a whole number, else one that no bound admits."""
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _known(*values: Any) -> bool:
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def _check_tolerance(tolerance: ArrayLike) -> None:
    if _known(tolerance) and not tolerance >= 0:  # type: ignore[operator]
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
