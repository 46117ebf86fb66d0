"""Blurs that a few numbers describe: a Gaussian, a disc, a straight motion."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize

from hvae_jax.images import parse_kernel

EVALUATIONS = 120
"""Of a search for the numbers."""


class Family(NamedTuple):
    """Kernels that a few numbers describe.

    Attributes:
        kind: as in `images.parse_kernel`.
        least: of each number; angles have none.
        most: likewise.
    """

    kind: str
    least: tuple[float, ...]
    most: tuple[float, ...]

    def within(self, numbers: Iterable[float]) -> tuple[float, ...]:
        """Within their bounds; angles from 0 to 180."""
        given = tuple(numbers)
        values = [min(max(n, a), b) for n, a, b in zip(given, self.least, self.most, strict=False)]
        return (*values, *(number % 180 for number in given[len(values) :]))

    def describe(self, numbers: Sequence[float]) -> str:
        """As `--kernel` takes it."""
        return f"{self.kind}:{','.join(f'{value:.3f}' for value in self.within(numbers))}"

    def at_bound(self, numbers: Sequence[float]) -> bool:
        """Whether a search ended where there is no more, and so found nothing."""
        bounded = zip(self.within(numbers), self.least, self.most, strict=False)
        return any(n < 1.01 * a or n > 0.99 * b for n, a, b in bounded)

    def kernel(self, numbers: Sequence[float], side: int) -> Float[np.ndarray, "side side"]:
        """Of this side; what is outside is cut off."""
        return in_square(parse_kernel(self.describe(numbers)), side)

    def fit(
        self, cost: Callable[[np.ndarray], float], side: int, starts: Sequence[Sequence[float]]
    ) -> tuple[float, ...]:
        """The numbers of the kernel of least cost, by the simplex of Nelder and Mead (Computer Journal 7, 1965).

        Args:
            cost: of a kernel (side, side).
            side: of the kernels in pixels.
            starts: numbers, of which the best are started from.
        """

        def at(numbers: Float[np.ndarray, " n"]) -> float:
            return cost(self.kernel(numbers.tolist(), side))

        first = min((np.array(start, np.float64) for start in starts), key=at)
        steps = [0.15 * n if i < len(self.least) else 8.0 for i, n in enumerate(first)]
        simplex = [first] + [first + step * unit for step, unit in zip(steps, np.eye(len(first)), strict=True)]
        options = {"maxfev": EVALUATIONS, "xatol": 0.02, "fatol": 1e-9, "initial_simplex": np.array(simplex)}
        return tuple(float(n) for n in optimize.minimize(at, first, method="Nelder-Mead", options=options).x)


def in_square(kernel: Float[np.ndarray, "h w"], side: int) -> Float[np.ndarray, "side side"]:
    """A kernel in the middle of a square, its centre at side // 2."""
    square = np.zeros((side, side), np.float32)
    cut = tuple(slice(max(0, n // 2 - side // 2), n // 2 - side // 2 + side) for n in kernel.shape)
    part = kernel[cut]
    rows, columns = (max(0, side // 2 - n // 2) for n in kernel.shape)
    square[rows : rows + part.shape[0], columns : columns + part.shape[1]] = part
    return square / square.sum()


FAMILIES = {
    "gaussian": Family("gaussian", (0.4, 0.4), (8.0, 8.0)),
    "disk": Family("disk", (0.6,), (12.0,)),
    "motion": Family("motion", (2.0,), (30.0,)),
}

SHAPES = ((1.0, 0), *itertools.product((0.4, 0.65), range(0, 180, 30)))
"""Ratios of a Gaussian's deviations, and angles in degrees, from which a search starts."""

GAUSSIANS = tuple((width, width * ratio, float(angle)) for width in (1.0, 1.6, 2.4, 3.5) for ratio, angle in SHAPES)


def ran_away(kind: str) -> bool:
    """Whether the numbers of a kernel's description are at a bound of its family; a free kernel has none.

    Of seven such kernels of training photographs six lost 6 to 12 dB.
    """
    name, _, numbers = kind.partition(":")
    return name in FAMILIES and FAMILIES[name].at_bound([float(number) for number in numbers.split(",")])
