"""Kernels that a picture may have been blurred with, each refined by the prior and restored with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hvae_jax import images
from hvae_jax.encoding import reconstruct
from hvae_jax.images import Image
from hvae_jax.photographs.blind.families import FAMILIES, GAUSSIANS, in_square
from hvae_jax.photographs.blind.fitting import Fit
from hvae_jax.photographs.blind.free import free_kernel
from hvae_jax.photographs.degradation import Degradation
from hvae_jax.photographs.posing import MOST_NOISE, Posed, excess_of_noise, pose
from hvae_jax.prior import Prior
from hvae_jax.restoration import recommended_config, restore

FREE_LEVELS = (10 / 255, 5 / 255)
"""Noise that is assumed in the iterations for a kernel of any shape, at least."""

NARROWER = 0.6
"""Sides over the largest kernel's, of the kernels that the second search for one of any shape is among. Of 24 training
photographs its start was the more alike to the true kernel in 12, that of the search among the large ones in 5."""

LEVEL = 4 / 255
"""And in all others: an estimated kernel wants more noise than there is."""

ITERATIONS = 2
"""For the numbers of a Gaussian, a disc or a motion."""

ELONGATED = 0.6
"""Ratio of a Gaussian's deviations below which a motion is tried, above which a disc."""

LENGTH_OF_A_LINE = math.sqrt(12)
"""Over its deviation."""

RADIUS_OF_A_DISC = 2.0
"""Likewise."""

PULL = 1.7
"""By so much further than it is fitted a kernel's numbers are moved, for the iteration is slow."""


class Attempt(NamedTuple):
    """The part of a picture, restored with a kernel.

    Attributes:
        kind: of the kernel: "free", or as `images.parse_kernel` takes it.
        kernel: in a square, of sum 1.
        noise_std: σ of the picture that was assumed.
        level: of noise that it was restored with, see `excess_of_noise`.
        pixels: the restored picture.
        restored: likewise, extended beyond its borders.
        posed: the problem.
        fit: how other kernels explain the picture by the restored one.
    """

    kind: str
    kernel: Float[np.ndarray, "side side"]
    noise_std: float
    level: float
    pixels: Float[np.ndarray, "h w C"]
    restored: Float[np.ndarray, "H W C"]
    posed: Posed
    fit: Fit


class Part:
    """The part of a picture by which its blur is estimated.

    Args:
        image: the part.
        prior: of any size of image.
        side: of the kernels in pixels, odd.
        noise_std: σ of the picture.
    """

    def __init__(self, image: Image, prior: Prior, side: int, noise_std: float) -> None:
        self.image, self.prior, self.side, self.noise_std = image, prior, side, noise_std
        colour = np.repeat(image.pixels, prior.config.channels // image.pixels.shape[-1], axis=-1)
        self.denoised = self.evaluate(colour, max(noise_std, 2 / 255))

    def evaluate(self, colour: Float[np.ndarray, "h w C"], noise_std: float) -> Float[np.ndarray, "h w C"]:
        """A picture of this size denoised by one evaluation of the prior."""
        padded, box = images.pad_to_multiple(colour, self.prior.multiple)
        level = noise_std if self.prior.config.noise_conditional else None
        return np.asarray(images.crop(reconstruct(self.prior, padded, 1.0, noise_level=level), box))

    def attempt(self, kind: str, kernel: Float[np.ndarray, "kh kw"], noise_std: float = LEVEL) -> Attempt:
        """Restore with a kernel, assuming this noise or what counts for the kernel, whichever is more."""
        kernel = in_square(kernel, self.side)
        found = images.estimate_noise(self.image.pixels, kernel, self.image.quantisation).std
        posed = pose(self.image, Degradation("deblur", kernel), "natural", self.prior)
        excess = excess_of_noise(posed, "deblur")
        std = min(max(noise_std / excess, self.noise_std, found), MOST_NOISE)
        level = min(excess * std, MOST_NOISE)
        config = recommended_config(self.prior, level, posed.operator, quality="fast")
        restored = np.asarray(restore(self.prior, posed.y, posed.operator, level, config).image)
        assert posed.box is not None
        fit = Fit(restored, posed.y, posed.box, kernel, level, self.side)
        return Attempt(kind, kernel, std, level, np.asarray(images.crop(restored, posed.box)), restored, posed, fit)

    def attempts(self) -> list[Attempt]:
        """Two kernels of any shape, a Gaussian and, by its shape, a motion or a disc, by expectation maximization."""
        grey = self.image.pixels.mean(axis=-1, dtype=np.float64)
        free = [self._free(free_kernel(grey, side)) for side in (self.side, int(NARROWER * self.side) | 1)]
        start = FAMILIES["gaussian"].fit(_total_cost(free), self.side, GAUSSIANS)
        gaussian, numbers = self._of_family("gaussian", start)
        long, short, angle = numbers if numbers[0] >= numbers[1] else (numbers[1], numbers[0], numbers[2] + 90)
        kind, start = "disk", (RADIUS_OF_A_DISC * math.sqrt(long * short),)
        if short < ELONGATED * long:
            kind, start = "motion", (LENGTH_OF_A_LINE * long, angle)
        other, _ = self._of_family(kind, FAMILIES[kind].fit(_total_cost([*free, gaussian]), self.side, [start]))
        return [*free, gaussian, other]

    def _free(self, kernel: Float[np.ndarray, "kh kw"]) -> Attempt:
        """The attempt with a kernel of any shape that starts from this one."""
        for level in FREE_LEVELS:
            kernel = self.attempt("free", kernel, level).fit.free_kernel()
        return self.attempt("free", kernel)

    def _of_family(self, kind: str, numbers: tuple[float, ...]) -> tuple[Attempt, tuple[float, ...]]:
        """The attempt with a family's kernel whose numbers start from these, and its numbers."""
        family = FAMILIES[kind]
        for _ in range(ITERATIONS):
            there = self.attempt(kind, family.kernel(numbers, self.side))
            wanted = family.fit(there.fit.cost, self.side, [numbers])
            numbers = family.within(a + PULL * (b - a) for a, b in zip(numbers, wanted, strict=True))
        return self.attempt(family.describe(numbers), family.kernel(numbers, self.side)), numbers


def _total_cost(attempts: Sequence[Attempt]) -> Callable[[np.ndarray], float]:
    return lambda kernel: sum(one.fit.cost(kernel) for one in attempts)
