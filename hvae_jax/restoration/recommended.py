"""Settings for a task and a noise level: the tables of a prior's `prior.json`, and the paper's experiments."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from hvae_jax.operators import Jpeg, Operator, SuperResolution, Weighted
from hvae_jax.prior import Prior
from hvae_jax.restoration.schedules import geometric
from hvae_jax.restoration.settings import Plateau, Residual, RestoreConfig, check_iterations


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


QUALITIES = ("fast", "default", "best")
"""Half the iterations; what the prior recommends; each iteration a mean over 8 orientations.

More iterations than recommended bring nothing, the eight orientations up to 0.05 dB.
"""


def recommended_config(
    prior: Prior, noise_std: ArrayLike, operator: Operator, *, quality: str = "default", **changes: Any
) -> RestoreConfig:
    """The settings that a prior's `prior.json` recommends for a noise level and a task, with some changed.

    Numbers are interpolated between the table's noise levels; the rest is that of the nearest row; both per image. A
    row (deviations in grey levels of 255) that anneals a noise-conditional prior gives, over K = `max_iterations`,

        s_K = max(anneal_to, anneal_to_per_noise_std σ),  s_1 = max(anneal_from, s_K),  s_k geometric in between,
        γ_k = decoder_std_per_noise_level s (s_k/s)^decoder_std_exponent,  s = √(s_1 s_K),

    where anneal_to_per_noise_std and decoder_std_exponent are 1 if the row does not have them.

    Args:
        prior: the prior.
        noise_std: σ in the images' unit, a number or one per image (B,), known (not traced).
        operator: the degradation; it names the task, and of super-resolution the nearest factor is taken.
        quality: of `QUALITIES`; it changes iterations and orientations, `changes` have the last word.
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
    rows = rows_for(prior, operator)
    if rows is None:
        known = sorted(tables_of(prior))
        raise ValueError(
            f"this prior recommends settings for {known}, got {operator.task}; pass a RestoreConfig"
            if known
            else "this prior recommends no settings in its prior.json; pass a RestoreConfig"
        )
    return config_from_rows([_of_quality(row, quality) for row in rows], noise_std, prior.levels, **changes)


def _of_quality(row: Mapping[str, Any], quality: str) -> Mapping[str, Any]:
    """A row for more or less work."""
    if quality not in QUALITIES:
        raise ValueError(f"expected a quality of {', '.join(QUALITIES)}, got {quality!r}")
    if quality == "fast":
        orientations = "cycle" if row.get("orientations", "fixed") != "fixed" else "fixed"
        return {**row, "max_iterations": max(row["max_iterations"] // 2, 1), "orientations": orientations}
    return {**row, "orientations": 8} if quality == "best" else row


def tables_of(prior: Prior) -> dict[str, list[Mapping[str, Any]]]:
    """A prior's tables of settings by task, older names of the tasks translated."""
    return {_FORMER_NAMES.get(name, name): rows for name, rows in (prior.info.get("settings") or {}).items()}


def rows_for(prior: Prior, operator: Operator) -> list[Mapping[str, Any]] | None:
    """The rows of a prior's table for a task, or None; of super-resolution those of the nearest factor.

    A task without a table takes "default"; JPEG, and an operator that is none of ours, else take that of deblurring.
    """
    tables = tables_of(prior)
    rows = tables.get(operator.task) or tables.get("default")
    if not rows and operator.task in (Operator.task, Jpeg.task):
        rows = tables.get("deblur")
    inner = operator.operator if isinstance(operator, Weighted) else operator
    if rows and isinstance(inner, SuperResolution):
        return nearest_factor(rows, inner.factor)
    return rows or None


_FORMER_NAMES = {"Blur": "deblur", "SuperResolution": "sr", "Inpainting": "inpaint", "Denoising": "denoise"}


def nearest_factor(rows: Sequence[Mapping[str, Any]], factor: int) -> list[Mapping[str, Any]]:
    """The rows of the factor of super-resolution that is nearest, in ratio; rows that name none are for all."""
    named = {row["factor"] for row in rows if "factor" in row}
    nearest = min(named, key=lambda other: abs(np.log(other / factor)), default=None)
    return [row for row in rows if row.get("factor", nearest) == nearest]


_SHARED = ("max_iterations", "initial", "orientations")
"""What all images of a batch have in common, beside the stop rule."""


def config_from_rows(
    rows: Sequence[Mapping[str, Any]], noise_std: ArrayLike, levels: int, **changes: Any
) -> RestoreConfig:
    """The settings of a table of a `prior.json` for a noise level, or one per image; see `recommended_config`."""
    sigmas = np.array([row["noise_std"] for row in rows])  # grey levels of 255, as all deviations in the table
    sigma = 255 * np.asarray(noise_std, np.float64)
    fixed = {name: changes[name] for name in _SHARED if name in changes}
    if "max_iterations" in fixed:  # before so many are scheduled
        check_iterations(fixed["max_iterations"])
    nearest = [{**rows[i], **fixed} for i in np.argmin(abs(sigmas - sigma.reshape(-1, 1)), axis=1)]
    row = nearest[0]
    shared = {name: {other.get(name) for other in nearest} for name in _SHARED}
    shared["stop"] = {changes.get("stop", _stop_rule(other)) for other in nearest}
    for name, values in shared.items():
        if len(values) > 1:
            raise ValueError(f"the noise levels of this batch need settings that differ in {name}; restore them apart")

    def number(name: str, default: float | None = None) -> np.ndarray | np.floating:
        return np.interp(sigma, sigmas, [r[name] if default is None else r.get(name, default) for r in rows])

    common: dict[str, Any] = {"temperature": _temperature(rows, sigmas, sigma, levels), "stop": _stop_rule(row)}
    common |= {name: row[name] for name in _SHARED if name in row}
    common["returns"] = tuple(other["returns"] for other in nearest) if sigma.size > 1 else row["returns"]
    if "anneal_from" not in row:
        return RestoreConfig(**{"decoder_std": number("decoder_std") / 255, **common, **changes})
    ratio = number("decoder_std_per_noise_level")
    if "decoder_std" in changes:
        return RestoreConfig(**{"noise_level": changes["decoder_std"] / ratio, **common, **changes})
    stop = np.maximum(number("anneal_to"), number("anneal_to_per_noise_std", 1.0) * sigma) / 255
    start = np.maximum(number("anneal_from") / 255, stop)
    level, middle = geometric(start, stop, row["max_iterations"]), np.atleast_2d(np.sqrt(start * stop))
    exponent = np.atleast_2d(number("decoder_std_exponent", 1.0))
    gamma = np.atleast_2d(ratio) * middle * (level / middle) ** exponent
    return RestoreConfig(**{"decoder_std": gamma, "noise_level": level, **common, **changes})


def _stop_rule(row: Mapping[str, Any]) -> Residual | Plateau:
    """A row's stop rule; none, a tolerance of 0, where it names none."""
    named = {name: row[name] for name in ("tolerance", "patience") if name in row}
    return Plateau(**named) if row.get("stop") == "plateau" else Residual(named.get("tolerance", 0.0))


def _temperature(
    rows: Sequence[Mapping[str, Any]], sigmas: np.ndarray, sigma: np.ndarray | np.floating, levels: int
) -> ArrayLike:
    """τ: a number, or one per image (B, 1); (L,) or (B, L) where a row has it change over the levels."""
    ends = np.array([np.broadcast_to(row["temperature"], 2) for row in rows])
    coarsest, finest = (np.interp(sigma, sigmas, ends[:, i])[..., None] for i in (0, 1))
    if (ends[:, 0] == ends[:, 1]).all():
        return coarsest if sigma.ndim else coarsest[0]
    return coarsest + (finest - coarsest) * np.linspace(0, 1, levels)
