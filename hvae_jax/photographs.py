"""The way of a photograph: read it, pose the problem in a size that the prior takes, restore, finish, write.

The command line and whatever else brings a picture goes through these steps and adds none of its own.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import ndimage

from hvae_jax import images, operators
from hvae_jax.encoding import reconstruct
from hvae_jax.images import Box, Image
from hvae_jax.images import read_image as read_photograph
from hvae_jax.images.read import FilePath
from hvae_jax.operators import Operator
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

__all__ = ["Restored", "degrade_photograph", "read_photograph", "restore_photograph", "write_photograph"]

TASKS = ("deblur", "sr", "inpaint", "denoise")
BOUNDARIES = ("natural", "circular")
ALIGNMENTS = ("center", "corner")

GREY_LEVELS = 255
"""Of the images' unit [0, 1], in which people think of deviations."""

MOST_TRIALS = 4
"""With twice the noise each, where a restoration did not help."""

MOST_NOISE = 50 / GREY_LEVELS
"""Highest noise that is assumed unasked; the prior was trained on up to 51."""

RINGING = 0.75
"""Growth of the total variation over what a kernel explains, above which a picture oscillates; sharp photographs have
at most this. Found on training photographs."""

WARY_RINGING = 0.35
"""The same, once a first trial has shown that the noise is not what it seemed."""

LEAST_DENOISED = 8 / GREY_LEVELS
"""At least so much noise, at most twice as much, is taken out of a blurred picture before its variation is measured."""

LEAST_MISFIT = 2 / GREY_LEVELS
"""Difference of a picture from what a restored one explains, above which it is more than rounding and compression."""

MOST_UNEXPLAINED = 0.5
"""Share of a picture above which it is the kernel that does not fit."""

LEAST_ESTIMATE = 0.5 / GREY_LEVELS
"""Lowest noise that is estimated: an 8-bit file alone has 0.3 grey levels, and the blur is never exactly known."""


@dataclasses.dataclass(frozen=True)
class Degradation:
    """What happened to a picture, checked.

    Attributes:
        task: kind of degradation.
        kernel: of a blur, sum 1, centre at size // 2; for super-resolution None for the mean of each cell, else as
            seen from the corner of the cell.
        factor: of super-resolution, else 1.
        mask: of inpainting, (H, W) or (H, W, C), 1 where observed.
    """

    task: str
    kernel: Float[np.ndarray, "kh kw"] | None = None
    factor: int = 1
    mask: np.ndarray | None = None

    @classmethod
    def of(
        cls, task: str, kernel: str | np.ndarray | None, factor: int | None, mask: Any, align: str = "center"
    ) -> Degradation:
        """From what a caller gives.

        Raises:
            ValueError: the task is unknown, or something that it needs is missing or has no meaning.
        """
        if task not in TASKS:
            raise ValueError(f"expected a task of {', '.join(TASKS)}, got {task!r}")
        needed = {"deblur": "kernel", "sr": "factor", "inpaint": "mask"}.get(task)
        allowed = {needed, "kernel"} if task == "sr" else {needed}
        for name, value in (("kernel", kernel), ("factor", factor), ("mask", mask)):
            if value is None and name == needed:
                raise ValueError(f"expected a {name} for the task {task}, got none")
            if value is not None and name not in allowed:
                raise ValueError(f"expected no {name} for the task {task}, got one")
        if factor is not None and not (isinstance(factor, int) and 2 <= factor <= 64):
            raise ValueError(f"expected a factor that is a whole number from 2 to 64, got {factor!r}")
        if isinstance(kernel, str):
            kernel = images.parse_kernel(kernel)
        if align not in ALIGNMENTS:
            raise ValueError(f"expected an alignment center or corner, got {align!r}")
        if kernel is not None and factor is not None and align == "center":
            kernel = _seen_from_corner(kernel, factor)
        if mask is not None:
            mask = (np.asarray(mask, np.float32) > 0.5).astype(np.float32)
            if mask.ndim not in (2, 3) or not mask.any():
                raise ValueError(f"expected a mask (H, W) or (H, W, C) with observed pixels, got shape {mask.shape}")
        return cls(task, kernel, factor or 1, mask)

    @property
    def point_spread(self) -> Float[np.ndarray, "kh kw"]:
        """The kernel of a blur or of super-resolution."""
        if self.kernel is not None:
            return self.kernel
        # Shifted so that what is kept at a cell's top-left pixel is the mean of just this cell.
        average = np.zeros((2 * self.factor - 1, 2 * self.factor - 1), np.float32)
        average[: self.factor, : self.factor] = 1 / self.factor**2
        return average

    def operator(self, height: int, width: int) -> Operator:
        """The operator for a clean image of this size; ValueError if kernel or mask do not fit it."""
        if self.task == "denoise":
            return operators.Denoising()
        if self.mask is not None:
            if self.mask.shape[:2] != (height, width):
                raise ValueError(
                    f"expected a mask of the image's size {height}x{width}, "
                    f"got {self.mask.shape[0]}x{self.mask.shape[1]}"
                )
            return operators.Inpainting(self.mask)
        kernel = self.point_spread
        if kernel.shape[0] > height or kernel.shape[1] > width:
            raise ValueError(f"expected a kernel of at most the image's {(height, width)} pixels, got {kernel.shape}")
        return operators.Blur(kernel) if self.task == "deblur" else operators.SuperResolution(kernel, self.factor)

    def fitted(self, side: int | None) -> Degradation:
        """With the mask of the middle square scaled to a side: observed where all that went into a pixel was."""
        if side is None or self.mask is None:
            return self
        mask = self.mask.reshape(*self.mask.shape[:2], -1)
        return dataclasses.replace(self, mask=(images.fit_square(mask, side) > 1 - 1e-4).astype(np.float32))


def _seen_from_corner(kernel: Float[np.ndarray, "kh kw"], factor: int) -> Float[np.ndarray, "padded_kh padded_kw"]:
    """A kernel around a cell's centre, for an operator that keeps what is at the cell's top-left pixel."""
    padded = np.pad(np.asarray(kernel, np.float64), factor // 2)
    moved = np.maximum(ndimage.shift(padded, -(factor - 1) / 2, order=3), 0)
    return (moved / moved.sum()).astype(np.float32)


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
        pixels = blend(pixels, image, y, operator, box, prior, std, config)
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
        image=image._replace(pixels=pixels, alpha=alpha, quantisation=None),
        noise_std=std,
        noise_source=estimate.source,
        kernel=degradation.kernel,
        status=status,
        iterations=int(end.iterations),
        deviation=deviation,
        warnings=tuple(warnings),
    )


def degrade_photograph(
    photo: Image,
    task: str,
    *,
    kernel: str | Float[np.ndarray, "kh kw"] | None = None,
    factor: int | None = None,
    align: str = "center",
    mask: np.ndarray | None = None,
    noise_std: float = 0.0,
    boundary: str = "circular",
    seed: int = 0,
) -> Image:
    """A simulated observation y = A x + noise of a clean photograph.

    Args:
        photo: the photograph.
        task: as in `restore_photograph`.
        kernel: likewise.
        factor: likewise.
        align: likewise.
        mask: likewise.
        noise_std: σ in the images' unit.
        boundary: "circular": blurred as if it repeated itself; "natural" ("deblur" only): the part whose blur the
            photograph determines, smaller by the kernel's size less one.
        seed: of the noise.

    Returns:
        The observation, not clipped.

    Raises:
        ValueError: something does not fit.
    """
    degradation = Degradation.of(task, kernel, factor, mask, align)
    if boundary == "natural" and task != "deblur":
        raise ValueError(f"expected the boundary circular for the task {task}, got natural")
    height, width, _ = photo.pixels.shape
    operator = degradation.operator(height, width)
    y = np.asarray(operator(photo.pixels))
    y = y + noise_std * np.random.default_rng(seed).standard_normal(y.shape)
    y = np.asarray(operator.observed(y.astype(np.float32)))  # no noise in holes
    alpha = None if photo.alpha is None else photo.alpha[:: degradation.factor, :: degradation.factor]
    if boundary == "natural":
        rows, columns = (
            slice(size - 1 - size // 2, side - size // 2)
            for size, side in zip(degradation.point_spread.shape, (height, width), strict=True)
        )
        y, alpha = y[rows, columns], None if alpha is None else alpha[rows, columns]
    return photo._replace(pixels=y, alpha=alpha)


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


# The steps


def check(
    image: Image, degradation: Degradation, boundary: str, prior: Prior, noise_std: float | None
) -> tuple[int, int]:
    """Refuse a picture that cannot be restored in this way; cheap.

    Returns:
        Height and width of the result.

    Raises:
        ValueError: see there.
    """
    height, width, channels = image.pixels.shape
    if np.abs(image.pixels).max() > 10:  # strong noise may reach 2 or 3
        raise ValueError(f"expected values in [0, 1] plus noise, got up to {np.abs(image.pixels).max():g}")
    if channels not in (1, prior.config.channels):
        raise ValueError(f"expected 1 or {prior.config.channels} channels, as the prior has, got {channels}")
    if boundary not in BOUNDARIES:
        raise ValueError(f"expected a boundary natural or circular, got {boundary!r}")
    if noise_std is None and min(height, width) < 5:
        raise ValueError("expected a noise_std for an image of less than 5x5 pixels, got none to estimate it from")
    if noise_std is not None and not 0 <= noise_std <= 1:
        raise ValueError(f"expected a noise_std from 0 to 1, the images' unit, got {noise_std:g}")
    height, width = degradation.factor * height, degradation.factor * width
    degradation.operator(height, width)
    if (size := prior.image_size) is not None:
        if (height, width) != (size, size):
            raise ValueError(
                f"expected a result of {size}x{size} pixels, the only size of this prior, "
                f"got {height}x{width}; resize cuts and scales the image to fit"
            )
        if degradation.task == "deblur" and boundary == "natural":
            reach = max(degradation.point_spread.shape)
            if reach > size // 2:
                raise ValueError(
                    f"expected a kernel of at most half the image's {size} pixels for the boundary natural, got {reach}"
                )
    multiple = math.lcm(prior.multiple, degradation.factor)
    blurs = degradation.task in ("deblur", "sr")
    if blurs and boundary == "circular" and (height % multiple or width % multiple):
        raise ValueError(
            f"expected sides of the result that are multiples of {multiple} for the boundary circular, "
            f"got {height}x{width}; crop the image or take the boundary natural"
        )
    return height, width


def fitting_side(prior: Prior, factor: int, resize: bool) -> int | None:
    """The side to which `resize` scales an observation, or None where it stays as it is."""
    size = prior.image_size
    if size is None and resize:
        raise ValueError("expected no resize, for this prior takes images of any size")
    if size is not None and size % factor:
        raise ValueError(f"expected a factor that divides {size}, the only size of this prior, got {factor}")
    return size // factor if size is not None and resize else None


def fit(image: Image, side: int | None) -> Image:
    """The middle square of a picture, scaled to a side; all of it for None."""
    if side is None:
        return image
    alpha = None if image.alpha is None else images.fit_square(image.alpha, side)
    return image._replace(pixels=images.fit_square(image.pixels, side), alpha=alpha)


def estimated(image: Image, degradation: Degradation) -> images.NoiseEstimate:
    """The noise where pixels were observed, at the frequencies that the task amplifies."""
    holes = None
    if (mask := degradation.mask) is not None:
        holes = (mask.reshape(*mask.shape[:2], -1) == 0).any(axis=-1)
    kernel = degradation.kernel if degradation.task == "deblur" else None
    found = images.estimate_noise(image.pixels, kernel, image.quantisation, holes)
    return found._replace(std=min(max(found.std, LEAST_ESTIMATE), MOST_NOISE))


def unexplained(
    pixels: np.ndarray, image: Image, degradation: Degradation, noise_std: float
) -> Bool[np.ndarray, "H W"] | None:
    """Where a blurred picture is not what the kernel makes of a restored one in [0, 1]; None for nowhere.

    Around lights brighter than white, whether the picture clips them or the blur has spread them below white, no image
    in [0, 1] explains the picture, and the attempt to do so rings. What such a pixel may have come from is included.
    """
    if degradation.task != "deblur":
        return None
    kernel = degradation.point_spread
    shown = np.clip(pixels, 0, 1)
    blurred = np.stack([ndimage.convolve(c, kernel, mode="nearest") for c in np.moveaxis(shown, -1, 0)], axis=-1)
    misfit = ndimage.uniform_filter(np.abs(blurred - image.pixels).max(axis=-1), 5)
    wrong = misfit > 2 * noise_std + LEAST_MISFIT
    # What is beyond the borders is not known either.
    inside = np.zeros_like(wrong)
    reach = max(kernel.shape) // 2
    inside[reach:-reach, reach:-reach] = True
    wrong &= inside
    if not wrong.any():
        return None
    # Clipped pixels beside it are of the same lights.
    clipped = (image.pixels >= 1 - 0.5 / GREY_LEVELS).any(axis=-1)
    reach_of_blur = kernel > 1e-3 * kernel.max()
    near = ndimage.binary_dilation(wrong, structure=reach_of_blur) & clipped
    wrong |= ndimage.binary_propagation(near, mask=clipped)
    region = ndimage.binary_dilation(wrong, structure=reach_of_blur)
    return region if region.mean() < MOST_UNEXPLAINED else None


def rings(
    pixels: np.ndarray, image: Image, degradation: Degradation, prior: Prior, noise_std: float, most: float
) -> bool:
    """Whether a deblurred picture oscillates: its total variation grew by more than `most` of what the kernel explains.

    What is explained is the growth of an image whose power falls with the square of the frequency, as that of
    photographs does. The blurred picture is denoised before, for its noise has variation too.
    """
    if degradation.task != "deblur":
        return False
    kernel, size = degradation.point_spread, 128
    spectrum = np.abs(np.fft.fft2(kernel, (size, size))) ** 2
    squared = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.fftfreq(size) ** 2
    power = 1 / np.maximum(squared, 1 / size**2)
    differences = 2 - 2 * np.cos(2 * np.pi * np.fft.fftfreq(size))
    gradient = differences[:, None] + differences
    explained = math.sqrt(float((gradient * power).sum() / (gradient * power * spectrum).sum()))
    denoised = evaluate(image.pixels, prior, min(max(noise_std, LEAST_DENOISED), 2 * LEAST_DENOISED))
    return variation(pixels) > most * explained * variation(denoised)


def variation(pixels: np.ndarray) -> float:
    """Mean absolute difference of neighbours."""
    return float(np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean())


def evaluate(pixels: np.ndarray, prior: Prior, noise_std: float) -> np.ndarray:
    """A picture denoised by one evaluation of the prior."""
    colour = np.repeat(pixels, prior.config.channels // pixels.shape[-1], axis=-1)
    padded, box = images.pad_to_multiple(colour, prior.multiple)
    level = {"noise_level": noise_std} if prior.config.noise_conditional else {}
    mean = np.asarray(images.crop(reconstruct(prior, padded, 1.0, **level), box))
    return mean if pixels.shape[-1] > 1 else mean.mean(axis=-1, keepdims=True)


def blend(
    denoised: np.ndarray,
    image: Image,
    y: np.ndarray,
    operator: Operator,
    box: Box,
    prior: Prior,
    noise_std: float,
    config: RestoreConfig,
) -> np.ndarray:
    """Y + w (x̂ - y), with the w in [0, 1] that Stein's unbiased estimate of the risk prefers.

    With N values, x̂ = f(y) and a direction b of random signs, the divergence of f is bᵀ(f(y + εb) - f(y))/ε, and

        w = σ² (N - div f) / ‖f(y) - y‖²

    is 0 where the prior takes more from the picture than there is noise.

    Source: Stein 1981; Ramani, Blu and Unser, "Monte-Carlo SURE", IEEE TIP 17(9), 2008.
    """
    step = np.float32(max(noise_std, LEAST_ESTIMATE) / 10)
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), image.pixels.shape)
    disturbed = y.copy()
    disturbed[box] += step * signs
    moved = finish(restore(prior, disturbed, operator, noise_std, config).image, box, image)
    divergence = float(np.sum(signs * (moved - denoised), dtype=np.float64)) / float(step)
    distance = float(np.sum((denoised - image.pixels) ** 2, dtype=np.float64))
    if distance == 0:
        return denoised
    weight = min(max(noise_std**2 * (image.pixels.size - divergence) / distance, 0.0), 1.0)
    return image.pixels + np.float32(weight) * (denoised - image.pixels)


def keep_where(region: Bool[np.ndarray, "H W"], image: Image, pixels: np.ndarray, factor: int) -> np.ndarray:
    """The result with the picture as it was in a region, with a soft edge."""
    weight = enlarge(ndimage.uniform_filter(region.astype(np.float32), 5)[..., None], factor)
    weight = np.maximum(np.clip(2 * weight - 1, 0, 1), 0)
    return pixels + weight * (enlarge(image.pixels, factor) - pixels)


def pose(
    image: Image,
    degradation: Degradation,
    boundary: str,
    prior: Prior,
    unusable: Bool[np.ndarray, "H W"] | None = None,
) -> tuple[Float[np.ndarray, "h w C"], Operator, Box]:
    """The observation in a size that the prior takes, its operator, and where the result is in the restored image."""
    y = np.repeat(image.pixels, prior.config.channels // image.pixels.shape[-1], axis=-1)
    height, width = y.shape[:2]
    factor = degradation.factor
    if degradation.task in ("inpaint", "denoise"):
        y, box = images.pad_to_multiple(y, prior.multiple)
        if (mask := degradation.mask) is not None:
            mask = mask.reshape(height, width, -1)  # padded like the image
            degradation = dataclasses.replace(degradation, mask=images.pad_to_multiple(mask, prior.multiple)[0])
    elif boundary == "circular" or (prior.image_size is not None and factor > 1):
        box = (slice(0, height), slice(0, width))
    else:
        # The kernel's reach on each side, in the observation's pixels. Its extension with the kernel of a blur is
        # what that blur would have given there; an observation of low resolution is hardly blurred.
        kernel = degradation.point_spread
        margin = math.ceil(max(kernel.shape) / 2 / factor)
        multiple = math.lcm(prior.multiple, factor) // factor
        if prior.image_size is not None:
            # No room: replace the margin itself, so that it is what a circular blur gives.
            y = y[margin:-margin, margin:-margin]
            unusable = None if unusable is None else unusable[margin:-margin, margin:-margin]
        y, box = images.extend_periodic(y, margin, multiple, kernel if factor == 1 else None, unusable=unusable)
        if prior.image_size is not None:
            box = (slice(0, height), slice(0, width))
    rows, columns = (slice(factor * side.start, factor * side.stop) for side in box)
    return y, degradation.operator(factor * y.shape[0], factor * y.shape[1]), (rows, columns)


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


def finish(restored: Array | np.ndarray, box: Box, image: Image) -> Float[np.ndarray, "H W C"]:
    """The result's pixels: without what was added at the borders, grey where the photograph is."""
    pixels = np.asarray(images.crop(restored, box))
    return pixels.mean(axis=-1, keepdims=True) if image.pixels.shape[-1] == 1 else pixels


def enlarge(values: Float[np.ndarray, "H W C"], factor: int) -> Float[np.ndarray, "h w C"]:
    """Bicubic interpolation."""
    if factor == 1:
        return values
    shape = (factor * values.shape[0], factor * values.shape[1], values.shape[2])
    return np.asarray(jax.image.resize(jnp.asarray(values), shape, "cubic"))


def _pixels(photo: Any) -> Float[np.ndarray, "H W C"]:
    pixels = np.asarray(photo)
    if pixels.dtype.kind != "f":
        raise ValueError(f"expected pixels as floating-point numbers in [0, 1], got {pixels.dtype}")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.size == 0:
        raise ValueError(f"expected pixels (H, W) or (H, W, C), got shape {pixels.shape}")
    return pixels.astype(np.float32)
