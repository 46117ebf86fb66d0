"""The trials of a restoration: whether each helped, and what the next one does otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from hvae_jax.images import Image
from hvae_jax.photographs.checking import (
    GREY_LEVELS,
    MOST_TRIALS,
    NOISE_BY_LIGHTS,
    RINGING,
    RINGING_AGAIN,
    RINGING_IF_UNSURE,
    Noise,
    ringing,
    unexplained,
)
from hvae_jax.photographs.degradation import Degradation
from hvae_jax.photographs.posing import MOST_NOISE, Posed, enlarge
from hvae_jax.photographs.sharpness import MOST_STEEP, WARY_STEEP
from hvae_jax.restoration import RestoreConfig, Status


class Solved(NamedTuple):
    """A problem, and what the solver made of it.

    Attributes:
        posed: the problem.
        std: the noise that was assumed.
        level: that it was solved with, see `excess_of_noise`.
        config: the settings.
        pixels: the photograph's result.
        status: of the solver.
        iterations: likewise.
        left: whether the pixels are the picture's own.
    """

    posed: Posed
    std: float
    level: float
    config: RestoreConfig
    pixels: Float[np.ndarray, "H W C"]
    status: Status
    iterations: int
    left: bool = False


def solve_checked(
    attempt: Callable[[Bool[np.ndarray, "H W"] | None, float], Solved],
    image: Image,
    degradation: Degradation,
    boundary: str,
    noise: Noise,
    excess: float,
    hidden: Bool[np.ndarray, "H W"] | None,
    warnings: list[str],
) -> tuple[Solved, Bool[np.ndarray, "H W"] | None]:
    """Solve, see whether it helped, and if not leave lights out, or try again with more noise.

    Returns:
        The last attempt, its pixels those of the picture itself if none helped, and the pixels that were not used.
    """
    std, unusable, given = noise.std, hidden, noise.source == "given"
    too_sharp = excess > MOST_STEEP
    for _ in range(MOST_TRIALS):
        solved = attempt(unusable, std)
        if solved.status is Status.NOT_FINITE:
            return solved._replace(pixels=enlarge(image.pixels, degradation.factor)), unusable
        looking = unusable is hidden and boundary == "natural" and (given or not too_sharp)
        lights = unexplained(solved.pixels, image, degradation, std) if looking else None
        if lights is not None and unusable is not None:
            lights = lights | unusable if (lights & ~unusable).any() else None
        left_out = unusable if lights is None else lights
        most = RINGING if image.quantisation is None and excess < WARY_STEEP else RINGING_IF_UNSURE
        most = RINGING_AGAIN if solved.std > noise.std else most
        helped = ringing(solved.pixels, image, degradation, left_out) <= most
        # Where the rest of a JPEG oscillates too, it is the noise, and what does not fit may not be lights.
        if lights is not None and (helped or given or image.quantisation is None):
            unusable = lights
            if degradation.task == "sr" and not given:
                std = max(std, NOISE_BY_LIGHTS)
            continue
        too_sharp = too_sharp or (excess > WARY_STEEP and not helped)
        if helped or given or too_sharp or solved.std >= MOST_NOISE:
            break
        std = min(2 * solved.std, MOST_NOISE)
    if too_sharp:
        warnings.append(
            "the picture has sharper edges than this kernel leaves any, so the kernel does not fit"
            + ("" if given else "; the picture was left as it was")
        )
    elif not helped and given:
        warnings.append("the restoration oscillates: with the kernel right, more noise (noise_std) would help")
    elif not helped:
        warnings.append(
            "the restoration oscillates whatever the noise, so the kernel does not fit; the picture was left as it was"
        )
    elif degradation.task == "deblur" and solved.std > noise.std:
        warnings.append(
            f"with the noise that was estimated ({GREY_LEVELS * noise.std:.1f} grey levels) the restoration "
            f"oscillated; {GREY_LEVELS * solved.std:.1f} were assumed"
        )
    if not given and (too_sharp or not helped):
        pixels = enlarge(image.pixels, degradation.factor)
        if image.missing is not None:  # which show nothing that could be left
            lost = enlarge(image.missing[..., None].astype(np.float32), degradation.factor) > 0
            pixels = np.where(lost, solved.pixels, pixels)
        return solved._replace(pixels=pixels, left=True), hidden
    return solved, unusable
