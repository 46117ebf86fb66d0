"""Restore a photograph of any size."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

from hvae_jax.images import Image
from hvae_jax.images.light import LIGHTS, to_display, to_linear
from hvae_jax.operators import Operator
from hvae_jax.photographs.blind.estimating import KERNEL_SIZE, check_estimation, estimate_kernel
from hvae_jax.photographs.checking import (
    GREY_LEVELS,
    Noise,
    blend,
    hidden_pixels,
    keep_where,
    noise_before,
    noise_of,
)
from hvae_jax.photographs.degradation import Degradation
from hvae_jax.photographs.posing import (
    MOST_NOISE,
    Posed,
    as_image,
    check,
    enlarge,
    excess_of_noise,
    fit,
    fitting_side,
    pose,
    pose_jpeg,
    range_of,
    shared_multiple,
)
from hvae_jax.photographs.restored import Restored, left_as_it_was
from hvae_jax.photographs.room import LARGEST_WHOLE, Room
from hvae_jax.photographs.sharpness import excess_of_sharpness
from hvae_jax.photographs.trials import Solved, solve_checked
from hvae_jax.prior import Prior, load_prior
from hvae_jax.restoration import (
    RestoreConfig,
    Status,
    recommended_config,
    sample_posterior,
    sampling_config,
)
from hvae_jax.restoration.calibration import calibration_for, local_deviation, missing_pixels
from hvae_jax.restoration.recommended import QUALITIES, tables_of
from hvae_jax.restoration.tiles import Progress


def restore_photograph(
    photo: Image | Float[np.ndarray, "H W C"],
    task: str,
    *,
    kernel: str | Float[np.ndarray, "kh kw"] | None = None,
    factor: int | None = None,
    align: str = "center",
    keep_origin: bool = False,
    kernel_size: int = KERNEL_SIZE,
    mask: np.ndarray | None = None,
    noise_std: float | Float[np.ndarray, "H W"] | Float[np.ndarray, "H W C"] | None = None,
    noise_gain: float = 0.0,
    boundary: str = "natural",
    value_range: tuple[float, float] | None = None,
    light: str = "display",
    prior: Prior | None = None,
    resize: bool = False,
    uncertainty: Array | None = None,
    quality: str = "default",
    memory: float | None = None,
    progress: Progress | None = None,
    resume: Path | None = None,
    few_sizes: bool = False,
    **changes: Any,
) -> Restored:
    """Restore a photograph of any size: all that the command line does, without the files.

    Args:
        photo: what `read_photograph` gave, or pixels in [0, 1].
        task: "deblur", "sr", "inpaint", "denoise", or "jpeg" for a JPEG file's artefacts.
        kernel: of the blur, as text (`images.parse_kernel`) or a matrix of sum 1, centre at size // 2, or "estimate",
            see `estimate_kernel`: where it is not known the picture is left. Needed by "deblur"; for "sr" the default
            is the mean of factor x factor pixels.
        factor: of super-resolution, 2 or more.
        align: of super-resolution with a kernel: where in its cell a reduced pixel lies, "center" or "corner".
        keep_origin: leave a kernel from a file where it is, see `images.read_kernel`.
        kernel_size: of a kernel that is estimated, the largest side in pixels, odd.
        mask: of inpainting, (H, W) or (H, W, C), 1 (or True) where a pixel was observed.
        noise_std: σ in the images' unit (7.65/255, say), a number or one of each pixel, (H, W) or (H, W, C); None to
            estimate it, of each channel where they differ.
        noise_gain: g of noise that grows with the signal, of variance σ² + g x (Poisson's, for x in [0, 1]).
        boundary: what a blur sees beyond the borders. "natural": more of the scene; "circular": the other side.
        value_range: the values that are black and white, for float pictures that are not in [0, 1]; None to find out.
            The result is in the picture's own values, σ in the unit of black to white.
        light: of a blur or a loss of resolution, what was averaged: "linear", the light itself, as in a camera, or
            "display", the file's samples, as in most programs and simulations.
        prior: by default the bundled one.
        resize: for a prior of one size: cut the middle square out and scale it to fit.
        uncertainty: a key of `jax.random`, to draw from the posterior too; None for no `deviation`.
        quality: "fast", "default" or "best", see `recommended_config`.
        memory: bytes that the process may take: what does not fit the prior sees in tiles. By default that are pictures
            of more than four megapixels, and what the machine has free.
        progress: told (done, count) of the evaluations of a picture in tiles.
        resume: a folder where the last iteration of a picture in tiles is kept, for the same call to go on after an
            interruption.
        few_sizes: continue a picture that is restored whole to one of eight sides per octave, so that pictures of many
            sizes share their compiled programs; not where `memory` is given, which it takes a little more of.
        changes: fields of `RestoreConfig` to have instead of what the prior recommends.

    Returns:
        The result and what was assumed.

    Raises:
        ValueError: something does not fit; nothing was computed then.

    Example:
        >>> photo = hj.read_photograph("holiday.jpg")
        >>> done = hj.restore_photograph(photo, "deblur", kernel="motion:13,30")
        >>> hj.write_photograph("out.png", done.image)
    """
    image = as_image(photo)
    degradation = Degradation.of(task, kernel, factor, mask, align, keep_origin)
    prior = load_prior() if prior is None else prior
    if quality not in QUALITIES:
        raise ValueError(f"expected a quality of {', '.join(QUALITIES)}, got {quality!r}")
    if light not in LIGHTS:
        raise ValueError(f"expected a light of {' or '.join(LIGHTS)}, got {light!r}")
    if not 0 <= noise_gain <= 1:
        raise ValueError(f"expected a noise_gain from 0 to 1, got {noise_gain:g}")
    check_changes(prior, changes)
    if degradation.is_unknown:
        check_estimation(kernel_size, prior)
    side = fitting_side(prior, degradation.factor, resize)
    image, degradation = fit(image, side), degradation.fitted(side)
    size = check(image, degradation, boundary, prior, noise_std)
    given = image
    room = Room.of(prior, *size, memory, progress, resume)
    if uncertainty is not None and room.tile is not None:
        raise ValueError(
            f"expected a picture of at most {LARGEST_WHOLE / 1e6:.0f} megapixels for uncertainty (or more memory), got "
            f"{size[0]}x{size[1]}"
        )
    multiple = prior.multiple
    if few_sizes and memory is None and room.tile is None and prior.image_size is None:
        multiple = shared_multiple(prior, degradation.factor, size)
    warnings: list[str] = [*degradation.notes]
    values = range_of(image, value_range)
    if values is not None:
        image = image._replace(pixels=values.to_unit(image.pixels), jpeg=None)  # whose values are others
        if value_range is None:
            warnings.append(f"the values were taken to reach from {values.low:g} to {values.high:g} (black and white)")
    is_linear = light == "linear" and task in ("deblur", "sr")
    if is_linear:
        image = image._replace(pixels=to_linear(image.pixels), noise_std=None)  # which is of the samples
    hidden, estimate, noise_is_given = hidden_pixels(image), None, noise_std is not None
    if degradation.is_unknown:
        estimate = estimate_kernel(image, kernel_size=kernel_size, prior=prior)
        if estimate.kernel is None:
            return left_as_it_was(given, estimate, 1.0 if values is None else values.high - values.low, warnings)
        degradation = dataclasses.replace(degradation, kernel=estimate.kernel)
        noise_std = estimate.noise_std if noise_std is None else noise_std
        check(image, degradation, boundary, prior, noise_std)

    def solve(posed: Posed, std: float) -> Solved:
        level = min(excess_of_noise(posed, task) * std, max(std, MOST_NOISE))
        config = configure(prior, level, posed.operator, quality, changes)
        end = room.restore(prior, posed.y, posed.operator, level, config)
        return Solved(posed, std, level, config, posed.finish(end.image), Status(int(end.status)), int(end.iterations))

    found = None
    known = task in ("denoise", "jpeg") or (task == "deblur" and boundary == "natural" and not is_linear)
    if image.jpeg is not None and known and prior.image_size is None and noise_std is None and not noise_gain:
        before = noise_before(image, task)
        found = pose_jpeg(image, degradation, prior, before, multiple)
    if found is None:
        noise = noise_of(image, degradation, noise_std, noise_gain, hidden)
    else:
        words = "the JPEG's quantisation" if task == "jpeg" else "the finest detail and the JPEG's quantisation"
        noise = Noise(found[1], words, None)

    def attempt(unusable: Bool[np.ndarray, "H W"] | None, std: float) -> Solved:
        if found is not None and unusable is None:
            if std == noise.std:
                return solve(*found)
            posed = pose_jpeg(image, degradation, prior, before * std / noise.std, multiple)
            assert posed is not None
            return solve(*posed)
        if found is not None:  # coefficients are of whole blocks, and cannot leave pixels out
            std = max(std, noise_of(image, degradation, None).std)
        return solve(pose(image, degradation, boundary, prior, unusable, noise.weight, multiple), std)

    excess = 0.0
    if estimate is not None and not noise_is_given:
        noise = noise._replace(source="the picture and its kernel")
    elif task == "deblur" and estimate is None:  # the evidence for an estimated kernel counts sharp edges already
        excess = excess_of_sharpness(image.pixels, degradation.point_spread, image.quantisation)
    solved, unusable = solve_checked(attempt, image, degradation, boundary, noise, excess, hidden, warnings)
    source, by_white_noise = noise.source, noise.weight is None
    pixels = solved.pixels
    if solved.status is not Status.NOT_FINITE:
        if task in ("denoise", "jpeg") and solved.posed.box is not None and solved.std > 0 and by_white_noise:
            shown = image.pixels if hidden is None else np.where(hidden[..., None], pixels, image.pixels)
            pixels = blend(
                pixels, image._replace(pixels=shown), solved.std, partial(_denoise_changed, prior, solved, room)
            )
        pixels = _with_what_was_hidden(pixels, image, degradation, hidden, unusable, warnings)
    deviation = calibration = None
    if uncertainty is not None and solved.status is not Status.NOT_FINITE:
        if solved.left:
            warnings.append("how sure the result is was not computed, for the picture was left as it was")
        else:
            deviation = _deviation(prior, solved, uncertainty, degradation, unusable)
            calibration = None if is_linear else calibration_for(prior, solved.posed.operator, solved.level)
        if calibration is not None and calibration.extrapolated:
            warnings.append(
                f"the intervals of noise of {GREY_LEVELS * solved.level:.2f} grey levels are those of the nearest "
                "noise that they were fitted for"
            )
    alpha = None if image.alpha is None else np.clip(enlarge(image.alpha, degradation.factor), 0, 1)
    if is_linear:
        pixels = to_display(pixels)
    if values is not None:
        pixels = values.from_unit(pixels)
    return Restored(
        image=image._replace(pixels=pixels, alpha=alpha, missing=None, jpeg=None),
        noise_std=solved.std,
        noise_source=source,
        kernel=degradation.kernel,
        status=solved.status,
        iterations=solved.iterations,
        deviation=deviation,
        missing=None if degradation.mask is None else missing_pixels(degradation.mask),
        calibration=calibration,
        unit=1.0 if values is None else values.high - values.low,
        warnings=tuple(warnings),
        estimate=estimate,
        left=solved.left,
    )


def _deviation(
    prior: Prior, solved: Solved, key: Array, degradation: Degradation, unusable: Bool[np.ndarray, "H W"] | None
) -> Float[np.ndarray, "H W"] | None:
    """The deviation of draws from the posterior; None where the sampling diverged."""
    posed = solved.posed
    draws = sample_posterior(prior, posed.y, posed.operator, solved.level, key, sampling_config(solved.config))
    if draws.status == Status.NOT_FINITE:
        return None
    deviation = local_deviation(posed.finish(draws.std), degradation.mask)
    if unusable is None or degradation.task == "inpaint":
        return deviation
    left = enlarge(unusable[..., None].astype(np.float32), degradation.factor)[..., 0] > 0
    return np.where(left, np.float32(np.nan), deviation)


def _denoise_changed(prior: Prior, solved: Solved, room: Room, change: np.ndarray) -> np.ndarray:
    """What the picture plus a change is denoised to."""
    posed, changed = solved.posed, solved.posed.y.copy()
    assert posed.box is not None
    changed[posed.box] += change
    return posed.finish(room.restore(prior, changed, posed.operator, solved.level, solved.config).image)


def _with_what_was_hidden(
    pixels: np.ndarray,
    image: Image,
    degradation: Degradation,
    hidden: Bool[np.ndarray, "H W"] | None,
    unusable: Bool[np.ndarray, "H W"] | None,
    warnings: list[str],
) -> np.ndarray:
    """The result, where pixels were not used as it was before; missing ones stay as they were filled."""
    if unusable is None:
        return pixels
    lost = np.zeros_like(unusable) if image.missing is None else image.missing
    if lost.any():
        warnings.append(f"{int(lost.sum())} missing pixels (NaN) were filled")
    lights = unusable if hidden is None else unusable & ~hidden
    if lights.any():
        share = f"{lights.mean():.0%}" if lights.mean() >= 0.005 else "less than 1%"
        warnings.append(
            f"{share} of the picture, around lights brighter than white, was left as it was, "
            "for its blur does not tell what was there"
        )
    if degradation.task in ("inpaint", "denoise", "jpeg"):
        return np.where((unusable & ~lost)[..., None], image.pixels, pixels)
    return keep_where(unusable & ~lost, image, pixels, degradation.factor)


def check_changes(prior: Prior, changes: dict[str, Any]) -> None:
    """ValueError for changes of the settings that this prior has no use for."""
    if unknown := set(changes) - {field.name for field in dataclasses.fields(RestoreConfig)}:
        names = sorted(field.name for field in dataclasses.fields(RestoreConfig))
        raise ValueError(f"expected settings of {names}, got {min(unknown)!r}")
    if "noise_level" in changes and not prior.config.noise_conditional:
        raise ValueError("expected no noise_level, for this prior is not noise-conditional")


def configure(
    prior: Prior, noise_std: float, operator: Operator, quality: str, changes: dict[str, Any]
) -> RestoreConfig:
    """The recommended settings (those of the paper if the prior has none) with some changed."""
    if tables_of(prior):
        return recommended_config(prior, noise_std, operator, quality=quality, **changes)
    return RestoreConfig(**changes)
