"""Restore a photograph of any size."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from hvae_jax import images
from hvae_jax.images import Image
from hvae_jax.images.formats import FilePath
from hvae_jax.operators import Operator
from hvae_jax.photographs.checking import (
    GREY_LEVELS,
    MOST_NOISE,
    MOST_TRIALS,
    RINGING,
    WARY_RINGING,
    blend,
    estimated,
    keep_where,
    rings,
    unexplained,
)
from hvae_jax.photographs.degradation import Degradation
from hvae_jax.photographs.posing import check, enlarge, finish, fit, fitting_side, pose
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
    mask: np.ndarray | None = None,
    noise_std: float | None = None,
    boundary: str = "natural",
    prior: Prior | None = None,
    resize: bool = False,
    uncertainty: Array | None = None,
    quality: str = "default",
    **changes: Any,
) -> Restored:
    """Restore a photograph of any size: all that the command line does, without the files.

    Args:
        photo: what `read_photograph` gave, or pixels in [0, 1].
        task: "deblur", "sr", "inpaint" or "denoise".
        kernel: of the blur, as text (`images.parse_kernel`) or a matrix of sum 1, centre at size // 2. Needed by
            "deblur"; for "sr" the default is the mean of factor x factor pixels.
        factor: of super-resolution, 2 or more.
        align: of super-resolution with a kernel: where in its cell a reduced pixel lies, "center" or "corner".
        mask: of inpainting, (H, W) or (H, W, C), 1 (or True) where a pixel was observed.
        noise_std: σ in the images' unit (7.65/255, say); None to estimate it.
        boundary: what a blur sees beyond the borders. "natural": more of the scene; "circular": the other side.
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
    degradation = Degradation.of(task, kernel, factor, mask, align)
    prior = load_prior() if prior is None else prior
    if quality not in QUALITIES:
        raise ValueError(f"expected a quality of {', '.join(QUALITIES)}, got {quality!r}")
    check_changes(prior, changes)
    side = fitting_side(prior, degradation.factor, resize)
    image, degradation = fit(image, side), degradation.fitted(side)
    check(image, degradation, boundary, prior, noise_std)

    estimate = images.NoiseEstimate(noise_std, "given") if noise_std is not None else estimated(image, degradation)
    std, warnings = estimate.std, []
    unusable: Bool[np.ndarray, "H W"] | None = None
    pixels = enlarge(image.pixels, degradation.factor)  # stays so where the iteration diverges
    for trial in range(MOST_TRIALS):
        y, operator, box = pose(image, degradation, boundary, prior, unusable)
        config = configure(prior, std, operator, quality, changes)
        end = restore(prior, y, operator, std, config)
        status = Status(int(end.status))
        if status is Status.NOT_FINITE:
            break
        pixels = finish(end.image, box, image)
        if trial == 0 and boundary == "natural":
            unusable = unexplained(pixels, image, degradation, std)
            if unusable is not None:
                continue
        helped = not rings(pixels, image, degradation, prior, std, RINGING if std == estimate.std else WARY_RINGING)
        if helped or noise_std is not None:
            break
        std = min(2 * std, MOST_NOISE)
    if status is not Status.NOT_FINITE and not helped:
        if noise_std is None:
            pixels = enlarge(image.pixels, degradation.factor)
            warnings.append(
                "the restoration oscillates whatever the noise, so the kernel does not fit; "
                "the picture was left as it was"
            )
        else:
            warnings.append("the restoration oscillates: with the kernel right, more noise (noise_std) would help")
    elif std > estimate.std:
        warnings.append(
            f"with the noise that was estimated ({GREY_LEVELS * estimate.std:.1f} grey levels) the restoration "
            f"oscillated; {GREY_LEVELS * std:.1f} were assumed"
        )
    if status is not Status.NOT_FINITE and degradation.task == "denoise" and std > 0:

        def denoise_changed(change: np.ndarray) -> np.ndarray:
            changed = y.copy()
            changed[box] += change
            return finish(restore(prior, changed, operator, std, config).image, box, image)

        pixels = blend(pixels, image, std, denoise_changed)
    if status is not Status.NOT_FINITE and unusable is not None:
        pixels = keep_where(unusable, image, pixels, degradation.factor)
        warnings.append(
            f"{unusable.mean():.0%} of the picture, around lights brighter than white, was left as it was, "
            "for its blur does not tell what was there"
        )
    deviation = None
    if uncertainty is not None and status is not Status.NOT_FINITE:
        draws = sample_posterior(prior, y, operator, std, uncertainty, sampling_config(config))
        if draws.status != Status.NOT_FINITE:
            deviation = np.asarray(images.crop(draws.std, box)).mean(axis=-1)
    alpha = None if image.alpha is None else np.clip(enlarge(image.alpha, degradation.factor), 0, 1)
    return Restored(
        image=image._replace(pixels=pixels, alpha=alpha, jpeg=None),
        noise_std=std,
        noise_source=estimate.source,
        kernel=degradation.kernel,
        status=status,
        iterations=int(end.iterations),
        deviation=deviation,
        warnings=tuple(warnings),
    )


def write_photograph(path: FilePath, photo: Image, *, overwrite: bool = False) -> None:
    """Write a photograph, all or nothing, in the depth that it has where the format has it.

    Args:
        path: the file, whose ending says the format; missing folders are made.
        photo: the photograph.
        overwrite: whether an existing file may be replaced.

    Raises:
        ImageError: the values are not an image, or the file cannot be written.
    """
    images.write_image(path, photo.pixels, bit_depth=photo.bit_depth, alpha=photo.alpha, overwrite=overwrite)


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
