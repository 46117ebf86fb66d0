"""The search for the best settings of a task at a noise level.

It looks for the largest mean PSNR over images that are degraded each in another way, over the settings that
`recommended_config` explains: γ/s and its exponent, by which the data step trusts the prior, the first noise level s of
the annealing, the last one in units of σ (also below σ), the temperature τ, and the number of iterations K.

A round measures a centre and two neighbours in each setting, on half of the images. The next centre takes of each
setting, all at once, where the parabola through its three points is highest; a setting that made no difference stays as
it is. The last centre and the best candidate are then compared on all images, and the better one gets longer schedules
as long as these gain something, or else a shorter one. Two things make this cheaper than one setting after the other
over a grid, and it is finer. A round is one batch: temperature, γ and s are numbers per image, so that all its
candidates run in one program, compiled once per task and K. And the settings are ratios, whose best values change
little with σ: a noise level starts from what the one before chose.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from hvae_jax.restoration.schedules import DPIR_NOISE_LEVELS, DPIR_WEIGHT

Row: TypeAlias = dict[str, Any]
"""Of a table of settings in a `prior.json`: see `recommended_config`."""

START: Row = {
    "temperature": 1.0,
    "anneal_from": 255 * DPIR_NOISE_LEVELS[0],
    "anneal_to": 1.0,  # for small σ: no image is cleaner than its 8 bits and its camera
    "anneal_to_per_noise_std": 1.0,
    "decoder_std_per_noise_level": round(DPIR_WEIGHT**-0.5, 2),
    "decoder_std_exponent": 1.0,
    "max_iterations": 8,
    "orientations": "cycle",  # better, at no cost
    "initial": "image",
    "returns": "x",  # the better iterate is found when all else is
}
"""Where the search begins: the schedule of DPIR (Zhang et al. 2021)."""

ONCE: Row = {**START, "anneal_from": 0.0, "decoder_std_exponent": 0.0, "max_iterations": 1, "orientations": 2}
"""Where that of denoising does: one evaluation at s = σ is what a prior is trained for."""

STEPS = {
    "decoder_std_per_noise_level": 1.4,
    "decoder_std_exponent": 1.3,
    "anneal_from": 1.6,
    "anneal_to_per_noise_std": 1.5,
    "temperature": 1.06,
}
"""Ratios of a setting to its neighbours; a setting that is 0 has no meaning at this start and is left."""

LEAST_GAIN = 0.02
"""What makes a difference, in dB: what a longer schedule must bring."""

LONGEST = 24
"""Most iterations."""


class Scores(NamedTuple):
    """PSNR of the two iterates, of each image.

    Attributes:
        x: of the last data step.
        mean: of the last decoded mean.
    """

    x: tuple[float, ...]
    mean: tuple[float, ...]

    @property
    def returns(self) -> str:
        """The better iterate."""
        return "x" if np.mean(self.x) > np.mean(self.mean) else "mean"

    @property
    def better(self) -> tuple[float, ...]:
        """Its PSNR."""
        return self.x if self.returns == "x" else self.mean


Measure: TypeAlias = Callable[[Sequence[Row], int], list[Scores]]
"""Of candidates with one number of iterations, on the first images."""


def neighbours(row: Row, name: str) -> list[float]:
    """The values on both sides of a row's setting; τ is at most 1, and the last s at least `anneal_to`."""
    least = row["anneal_to"] / row["noise_std"] if name == "anneal_to_per_noise_std" else 0.0
    most = 1.0 if name == "temperature" else np.inf
    values = {rounded(min(max(row[name] * ratio, least), most)) for ratio in (1 / STEPS[name], STEPS[name])}
    return sorted(values - {row[name]})


def peak(line: Mapping[float, float]) -> float:
    """Where the parabola through a line of value -> quality is highest, over log value; else the best value."""
    best = max(line, key=line.__getitem__)
    if len(line) < 3:
        return best
    curvature, slope, _ = np.polyfit(np.log(list(line)), list(line.values()), 2)
    if curvature > -1e-6:  # no parabola that has a top
        return best
    return rounded(np.clip(np.exp(-slope / (2 * curvature)), min(line), max(line)))


def rounded(value: float) -> float:
    """To three digits, so that `prior.json` can be read."""
    return float(f"{value:.3g}")


def longer(row: Row) -> Row:
    """With half as many iterations more."""
    return {**row, "max_iterations": row["max_iterations"] * 3 // 2}


def search(measure: Measure, start: Row, count: int, rounds: int = 2) -> tuple[Row, Scores]:
    """Find the settings with the best PSNR; the module says how.

    Args:
        measure: gives candidates' scores on the first images.
        start: the first centre, with its "noise_std".
        count: number of images.
        rounds: of neighbours.

    Returns:
        The row and its scores on all images.
    """

    def quality(scores: Scores) -> float:
        return float(np.mean(scores.better))

    half, centre = max(count // 2, 1), start
    names = [name for name in STEPS if start[name] > 0]
    best = (-np.inf, start)
    for _ in range(rounds):
        around = {(name, value): {**centre, name: value} for name in names for value in neighbours(centre, name)}
        rows = [centre, *around.values()]
        middle, *qualities = map(quality, measure(rows, half))
        best = max([best, *zip([middle, *qualities], rows, strict=True)], key=itemgetter(0))
        lines = {name: {centre[name]: middle} for name in names}
        for (name, value), one in zip(around, qualities, strict=True):
            lines[name][value] = one
        names = [name for name, line in lines.items() if np.ptp(list(line.values())) > LEAST_GAIN]
        centre = {**centre, **{name: peak(lines[name]) for name in names}}
    finalists = [best[1]] if centre == best[1] else [best[1], centre]  # the last centre was not measured yet
    scored = zip(measure(finalists, count), finalists, strict=True)
    scores, row = max(scored, key=lambda pair: quality(pair[0]))

    # A single evaluation stays one: as a schedule it would not hold at noise levels between and beyond the table's.
    while row["max_iterations"] > 1 and (more := longer(row))["max_iterations"] <= LONGEST:
        (new,) = measure([more], count)
        if quality(new) < quality(scores) + LEAST_GAIN:
            break
        scores, row = new, more
    if start["max_iterations"] == row["max_iterations"] > 1:
        fewer = {**row, "max_iterations": row["max_iterations"] * 2 // 3}
        (new,) = measure([fewer], count)
        if quality(new) >= quality(scores):
            scores, row = new, fewer
    return row, scores
