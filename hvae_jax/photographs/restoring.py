"""Restore a photograph of any size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from hvae_jax import images
from hvae_jax.images import Image
from hvae_jax.images.formats import FilePath
from hvae_jax.images.light import LIGHTS, to_display, to_linear
from hvae_jax.operators import Operator
from hvae_jax.photographs.checking import (
    GREY_LEVELS,
    MOST_NOISE,
    MOST_TRIALS,
    NOISE_BY_LIGHTS,
    RINGING,
    RINGING_OF_A_JPEG,
    WARY_RINGING,
    Noise,
    blend,
    hidden_pixels,
    keep_where,
    noise_before,
    noise_of,
    rings,
    unexplained,
)
from hvae_jax.photographs.degradation import Degradation
from hvae_jax.photographs.posing import (
    Posed,
    check,
    enlarge,
    fit,
    fitting_side,
    pose,
    pose_jpeg,
    range_of,
)
from hvae_jax.photographs.sharpness import MOST_STEEP, WARY_STEEP, excess_of_sharpness
from hvae_jax.prior import Prior, load_prior
from hvae_jax.restoration import (
    RestoreConfig,
    Status,
    recommended_config,
    restore,
    sample_posterior,
    sampling_config,
)
from hvae_jax.restoration.recommended import QUALITIES, tables_of


class Restored(NamedTuple):
    """What `restore_photograph` returns.

    Attributes:
        image: the result, with the depth and the opacity of the photograph.
        noise_std: the noise that was assumed, in the images' unit.
        noise_source: what it was estimated from, or "given".
        kernel: the kernel that was assumed, if any.
        status: a `Status`.
        iterations: iterations done.
        deviation: of draws from the posterior, the mean over the channels, (H, W); None where not asked for, or
            where the sampling diverged.
        warnings: sentences about what did not fit; empty if all did.
    """

    image: Image
    noise_std: float
    noise_source: str
    kernel: Float[np.ndarray, "kh kw"] | None
    status: Status
    iterations: int
    deviation: Float[np.ndarray, "H W"] | None
    warnings: tuple[str, ...]


def restore_photograph(
    photo: Image | Float[np.ndarray, "H W C"],
    task: str,
    *,
    kernel: str | Float[np.ndarray, "kh kw"] | None = None,
    factor: int | None = None,
    align: str = "center",
    keep_origin: bool = False,
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
    **changes: Any,
) -> Restored:
    """Restore a photograph of any size: all that the command line does, without the files.

    Args:
        photo: what `read_photograph` gave, or pixels in [0, 1].
        task: "deblur", "sr", "inpaint", "denoise", or "jpeg" for a JPEG file's artefacts.
        kernel: of the blur, as text (`images.parse_kernel`) or a matrix of sum 1, centre at size // 2. Needed by
            "deblur"; for "sr" the default is the mean of factor x factor pixels.
        factor: of super-resolution, 2 or more.
        align: of super-resolution with a kernel: where in its cell a reduced pixel lies, "center" or "corner".
        keep_origin: leave a kernel from a file where it is, see `images.read_kernel`.
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
    image = photo if isinstance(photo, Image) else Image(_pixels(photo), None, 32)
    degradation = Degradation.of(task, kernel, factor, mask, align, keep_origin)
    prior = load_prior() if prior is None else prior
    if quality not in QUALITIES:
        raise ValueError(f"expected a quality of {', '.join(QUALITIES)}, got {quality!r}")
    if light not in LIGHTS:
        raise ValueError(f"expected a light of {' or '.join(LIGHTS)}, got {light!r}")
    if not 0 <= noise_gain <= 1:
        raise ValueError(f"expected a noise_gain from 0 to 1, got {noise_gain:g}")
    check_changes(prior, changes)
    side = fitting_side(prior, degradation.factor, resize)
    image, degradation = fit(image, side), degradation.fitted(side)
    check(image, degradation, boundary, prior, noise_std)
    warnings: list[str] = [*degradation.notes]
    values = range_of(image, value_range)
    if values is not None:
        image = image._replace(pixels=values.to_unit(image.pixels), jpeg=None)  # whose values are others
        if value_range is None:
            warnings.append(f"the values were taken to reach from {values.low:g} to {values.high:g} (black and white)")
    is_linear = light == "linear" and task in ("deblur", "sr")
    if is_linear:
        image = image._replace(pixels=to_linear(image.pixels), noise_std=None)  # which is of the samples
    hidden = hidden_pixels(image)

    def solve(posed: Posed, std: float) -> Solved:
        config = configure(prior, std, posed.operator, quality, changes)
        end = restore(prior, posed.y, posed.operator, std, config)
        return Solved(posed, std, config, posed.finish(end.image), Status(int(end.status)), int(end.iterations))

    found = None
    known = task in ("denoise", "jpeg") or (task == "deblur" and boundary == "natural" and not is_linear)
    if known and prior.image_size is None and noise_std is None and not noise_gain:
        before = noise_before(image, task)
        found = pose_jpeg(image, degradation, prior, before)
    if found is None:
        noise = noise_of(image, degradation, noise_std, noise_gain, hidden)
    else:
        words = "the JPEG's quantisation" if task == "jpeg" else "the finest detail and the JPEG's quantisation"
        noise = Noise(found[1], words, None)

    def attempt(unusable: Bool[np.ndarray, "H W"] | None, std: float) -> Solved:
        if found is not None and unusable is None:
            posed = found if std == noise.std else pose_jpeg(image, degradation, prior, before * std / noise.std)
            assert posed is not None
            return solve(*posed)
        if found is not None:  # coefficients are of whole blocks, and cannot leave pixels out
            std = max(std, noise_of(image, degradation, None).std)
        return solve(pose(image, degradation, boundary, prior, unusable, noise.weight), std)

    solved, unusable = _solve_checked(attempt, image, degradation, boundary, prior, noise, hidden, warnings)
    source, by_white_noise = noise.source, noise.weight is None
    pixels = solved.pixels
    if solved.status is not Status.NOT_FINITE:
        if task in ("denoise", "jpeg") and solved.posed.box is not None and solved.std > 0 and by_white_noise:
            shown = image.pixels if hidden is None else np.where(hidden[..., None], pixels, image.pixels)
            pixels = blend(pixels, image._replace(pixels=shown), solved.std, partial(_denoise_changed, prior, solved))
        pixels = _with_what_was_hidden(pixels, image, degradation, hidden, unusable, warnings)
    deviation = None
    if uncertainty is not None and solved.status is not Status.NOT_FINITE:
        posed, settings = solved.posed, sampling_config(solved.config)
        draws = sample_posterior(prior, posed.y, posed.operator, solved.std, uncertainty, settings)
        if draws.status != Status.NOT_FINITE:
            deviation = posed.finish(draws.std).mean(axis=-1)
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
        warnings=tuple(warnings),
    )


class Solved(NamedTuple):
    """A problem, and what the solver made of it.

    Attributes:
        posed: the problem.
        std: the noise that was assumed.
        config: the settings.
        pixels: the photograph's result.
        status: of the solver.
        iterations: likewise.
    """

    posed: Posed
    std: float
    config: RestoreConfig
    pixels: Float[np.ndarray, "H W C"]
    status: Status
    iterations: int


def _solve_checked(
    attempt: Callable[[Bool[np.ndarray, "H W"] | None, float], Solved],
    image: Image,
    degradation: Degradation,
    boundary: str,
    prior: Prior,
    noise: Noise,
    hidden: Bool[np.ndarray, "H W"] | None,
    warnings: list[str],
) -> tuple[Solved, Bool[np.ndarray, "H W"] | None]:
    """Solve, see whether it helped, and if not leave lights out, or try again with more noise.

    Returns:
        The last attempt, its pixels those of the picture itself if none helped, and the pixels that were not used.
    """
    std, unusable, given = noise.std, hidden, noise.source == "given"
    excess = excess_of_sharpness(image.pixels, degradation.point_spread) if degradation.task == "deblur" else 0.0
    too_sharp = excess > MOST_STEEP
    for trial in range(MOST_TRIALS):
        solved = attempt(unusable, std)
        if solved.status is Status.NOT_FINITE:
            return solved._replace(pixels=enlarge(image.pixels, degradation.factor)), unusable
        if trial == 0 and boundary == "natural" and (given or not too_sharp):
            lights = unexplained(solved.pixels, image, degradation, std)
            if lights is not None and not (hidden is not None and (hidden | ~lights).all()):
                unusable = lights if hidden is None else lights | hidden
                if degradation.task == "sr" and not given:
                    std = max(std, NOISE_BY_LIGHTS)
                continue
        most = RINGING if solved.posed.box is not None else RINGING_OF_A_JPEG
        most = most if std == noise.std and excess < WARY_STEEP else WARY_RINGING
        helped = not rings(solved.pixels, image, degradation, prior, std, most)
        too_sharp = too_sharp or (excess > WARY_STEEP and not helped)
        if helped or given or too_sharp:
            break
        std = min(2 * std, MOST_NOISE)
    if too_sharp:
        warnings.append(
            "the picture has sharper edges than this kernel leaves any, so the kernel does not fit"
            + ("" if given else "; the picture was left as it was")
        )
        if not given:
            return solved._replace(pixels=enlarge(image.pixels, degradation.factor)), hidden
    elif not helped and given:
        warnings.append("the restoration oscillates: with the kernel right, more noise (noise_std) would help")
    elif not helped:
        warnings.append(
            "the restoration oscillates whatever the noise, so the kernel does not fit; the picture was left as it was"
        )
        solved = solved._replace(pixels=enlarge(image.pixels, degradation.factor))
    elif degradation.task == "deblur" and std > noise.std:
        warnings.append(
            f"with the noise that was estimated ({GREY_LEVELS * noise.std:.1f} grey levels) the restoration "
            f"oscillated; {GREY_LEVELS * std:.1f} were assumed"
        )
    return solved, unusable


def _denoise_changed(prior: Prior, solved: Solved, change: np.ndarray) -> np.ndarray:
    """What the picture plus a change is denoised to."""
    posed, changed = solved.posed, solved.posed.y.copy()
    assert posed.box is not None
    changed[posed.box] += change
    return posed.finish(restore(prior, changed, posed.operator, solved.std, solved.config).image)


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
        warnings.append(
            f"{lights.mean():.0%} of the picture, around lights brighter than white, was left as it was, "
            "for its blur does not tell what was there"
        )
    if degradation.task in ("inpaint", "denoise", "jpeg"):
        return np.where((unusable & ~lost)[..., None], image.pixels, pixels)
    return keep_where(unusable & ~lost, image, pixels, degradation.factor)


def write_photograph(path: FilePath, photo: Image, *, overwrite: bool = False) -> None:
    """Write a photograph, all or nothing, in the depth that it has where the format has it.

    Args:
        path: the file, whose ending says the format; missing folders are made.
        photo: the photograph.
        overwrite: whether an existing file may be replaced.

    Raises:
        ImageError: the values are not an image, or the file cannot be written.
    """
    images.write_image(
        path,
        photo.pixels,
        bit_depth=photo.bit_depth,
        alpha=photo.alpha,
        overwrite=overwrite,
        metadata=photo.metadata,
        premultiplied=photo.premultiplied,
    )


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


def _pixels(photo: Any) -> Float[np.ndarray, "H W C"]:
    pixels = np.asarray(photo)
    if pixels.dtype.kind != "f":
        raise ValueError(f"expected pixels as floating-point numbers in [0, 1], got {pixels.dtype}")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.size == 0:
        raise ValueError(f"expected pixels (H, W) or (H, W, C), got shape {pixels.shape}")
    return pixels.astype(np.float32)
