"""What happened to a photograph, and doing it to a clean one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from hvae_jax import images, operators
from hvae_jax.images import Image
from hvae_jax.operators import Operator

ESTIMATE = "estimate"
"""In place of a kernel: it is to be estimated."""

TASKS = ("deblur", "sr", "inpaint", "denoise", "jpeg")
ALIGNMENTS = ("center", "corner")


@dataclasses.dataclass(frozen=True)
class Degradation:
    """What happened to a picture, checked.

    Attributes:
        task: kind of degradation.
        kernel: of a blur, sum 1, centre at size // 2, or None where it is to be estimated; for super-resolution None
            for the mean of each cell, else as seen from the corner of the cell.
        factor: of super-resolution, else 1.
        mask: of inpainting, (H, W) or (H, W, C), 1 where observed.
        notes: what was changed in a kernel's file.
    """

    task: str
    kernel: Float[np.ndarray, "kh kw"] | None = None
    factor: int = 1
    mask: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        task: str,
        kernel: str | np.ndarray | None,
        factor: int | None,
        mask: Any,
        align: str = "center",
        keep_origin: bool = False,
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
                unknown = f' (or "{ESTIMATE}")' if name == "kernel" else ""
                raise ValueError(f"expected a {name} for the task {task}{unknown}, got none")
            if value is not None and name not in allowed:
                raise ValueError(f"expected no {name} for the task {task}, got one")
        if factor is not None and not (isinstance(factor, int) and 2 <= factor <= 64):
            raise ValueError(f"expected a factor that is a whole number from 2 to 64, got {factor!r}")
        notes: tuple[str, ...] = ()
        if isinstance(kernel, str) and kernel == ESTIMATE:
            if task != "deblur":
                raise ValueError(f"expected a kernel to be estimated for the task deblur only, got it for {task}")
            kernel = None
        elif isinstance(kernel, str):
            kernel, notes = images.read_kernel(kernel, keep_origin=keep_origin)
        if align not in ALIGNMENTS:
            raise ValueError(f"expected an alignment center or corner, got {align!r}")
        if kernel is not None and factor is not None and align == "center":
            kernel = _seen_from_corner(kernel, factor)
        if mask is not None:
            mask = (np.asarray(mask, np.float32) > 0.5).astype(np.float32)
            if mask.ndim not in (2, 3) or not mask.any():
                raise ValueError(f"expected a mask (H, W) or (H, W, C) with observed pixels, got shape {mask.shape}")
        return cls(task, kernel, factor or 1, mask, notes)

    @property
    def is_unknown(self) -> bool:
        """Whether the kernel of a blur is to be estimated."""
        return self.task == "deblur" and self.kernel is None

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
        if self.task in ("denoise", "jpeg"):
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
    if degradation.is_unknown:
        raise ValueError("expected a kernel to degrade with, got estimate")
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
