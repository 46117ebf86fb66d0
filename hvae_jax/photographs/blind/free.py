"""A blur kernel of any shape, from the edges of a picture."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy import fft, ndimage

from hvae_jax import images

LEAST_SIDE = 3
"""Of the kernel at the coarsest scale, in pixels; each scale is √2 times the next coarser one."""

ITERATIONS = 5
"""At each scale."""

FIRST_WEIGHT, LAST_WEIGHT, FALL = 4e-3, 1e-4, 1.1
"""λ, of the number of edges: where it starts, where it stays, and what it is divided by in each iteration."""

LARGEST_PENALTY = 1e5
"""β of the splitting, which grows by 4 from 2 λ."""

RIDGE = 20.0
"""γ, of the kernel's square; unstable at a tenth of this."""

LEAST_VALUE, LEAST_PIECE = 0.05, 0.1
"""Of a kernel's maximum, what is noise; of its sum, what is no piece of it."""


def free_kernel(grey: Float[np.ndarray, "H W"], side: int) -> Float[np.ndarray, "side side"]:
    """Estimate a kernel of any shape from coarse to fine, by an image u of few edges.

        u = argmin ‖k * u - y‖² + λ ‖∇u‖₀,    k = argmin Σ_d ‖k * ∂_d u - ∂_d y‖² + γ ‖k‖²

    in turn at each scale. The first is solved by half-quadratic splitting, the second by dividing spectra, after which
    the kernel is made one: not negative, in few pieces, centred, of sum 1. Beyond its borders the picture is continued
    by what the present kernel would have made of a smooth one.

    Args:
        grey: the picture in [0, 1].
        side: of the kernel in pixels, odd.

    Returns:
        The kernel, float32.

    Anger, Facciolo and Delbracio, "Blind image deblurring using the l0 gradient prior", IPOL 9, 2019; after Pan et al.,
    "Deblurring text images via L0-regularized intensity and gradient prior", CVPR 2014.
    """
    sides = [side]
    while sides[-1] > LEAST_SIDE:
        sides.append(max(LEAST_SIDE, 2 * math.floor(sides[-1] / math.sqrt(2) / 2) + 1))
        if sides[-1] == sides[-2]:
            sides[-1] -= 2
    weight, kernel = FIRST_WEIGHT, None
    for level in reversed(range(len(sides))):
        y = _reduced(grey, math.sqrt(2) ** level)
        if kernel is None:
            kernel = np.zeros((sides[level],) * 2)
            kernel[sides[level] // 2, sides[level] // 2] = kernel[sides[level] // 2, sides[level] // 2 - 1] = 0.5
        else:
            kernel = _enlarged(kernel, sides[level])
        margin = sides[level]
        extended, _ = images.extend_periodic(y[..., None], margin, 8, kernel.astype(np.float32))
        observed = fft.rfft2(extended[..., 0].astype(np.float64))
        shape = extended.shape[:2]
        for _ in range(ITERATIONS):
            u = _few_edges(observed, kernel, shape, weight)
            kernel = centred(_fitted(u, observed, sides[level], shape))
            weight = max(weight / FALL, LAST_WEIGHT)
    assert kernel is not None
    return kernel.astype(np.float32)


def differences(shape: tuple[int, int]) -> list[np.ndarray]:
    """Spectra of the differences along rows and columns."""
    down = np.exp(2j * np.pi * fft.fftfreq(shape[0]))[:, None] - 1
    right = np.exp(2j * np.pi * fft.rfftfreq(shape[1]))[None] - 1
    return [down, right]


def transfer(kernel: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The half spectrum of a kernel whose centre is at size // 2."""
    grid = np.zeros(shape)
    grid[: kernel.shape[0], : kernel.shape[1]] = kernel
    return fft.rfft2(np.roll(grid, (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1)))


def _few_edges(observed: np.ndarray, kernel: np.ndarray, shape: tuple[int, int], weight: float) -> np.ndarray:
    """The spectrum of u."""
    blur, along = transfer(kernel, shape), differences(shape)
    data, power = blur.conj() * observed, np.abs(blur) ** 2
    gradient = np.abs(along[0]) ** 2 + np.abs(along[1]) ** 2
    penalty, u = 2 * weight, observed
    while penalty < LARGEST_PENALTY:
        down, right = (fft.irfft2(d * u, s=shape) for d in along)
        edges = down**2 + right**2 >= weight / penalty
        target = sum(d.conj() * fft.rfft2(g * edges) for d, g in zip(along, (down, right), strict=True))
        u = (data + penalty * target) / (power + penalty * gradient)
        penalty *= 4
    return u


def _fitted(u: np.ndarray, observed: np.ndarray, side: int, shape: tuple[int, int]) -> np.ndarray:
    """The kernel."""
    gradient = sum(np.abs(d) ** 2 for d in differences(shape))
    found = fft.irfft2(gradient * u.conj() * observed / (gradient * np.abs(u) ** 2 + RIDGE), s=shape)
    reach = side // 2
    return as_kernel(np.roll(found, (reach, reach), (0, 1))[:side, :side])


def as_kernel(values: Float[np.ndarray, "side side"]) -> Float[np.ndarray, "side side"]:
    """What is a kernel of values: not negative, without specks, of sum 1."""
    values = np.maximum(values, 0)
    values = np.where(values >= LEAST_VALUE * values.max(), values, 0)
    pieces, count = ndimage.label(values, np.ones((3, 3)))
    total = values.sum()
    if total <= 0:
        values = np.zeros_like(values)
        values[values.shape[0] // 2, values.shape[1] // 2] = 1
        return values
    for piece in range(1, count + 1):
        if values[pieces == piece].sum() < LEAST_PIECE * total:
            values[pieces == piece] = 0
    return values / values.sum()


def centred(kernel: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """With its centre of mass at size // 2, so that it moves no picture; not negative, of sum 1."""
    at = [float((np.arange(n) * kernel.sum(axis=1 - axis)).sum()) for axis, n in enumerate(kernel.shape)]
    away = [n // 2 - a for a, n in zip(at, kernel.shape, strict=True)]
    moved = np.maximum(ndimage.shift(np.asarray(kernel, np.float64), away, order=3), 0)
    return moved / moved.sum() if moved.sum() > 0 else kernel


def _reduced(grey: np.ndarray, factor: float) -> np.ndarray:
    """A smaller picture, each of whose pixels averages what it stands for."""
    if factor == 1:
        return grey
    smooth = ndimage.gaussian_filter(grey, 0.5 * math.sqrt(factor**2 - 1), mode="nearest")
    rows, columns = (
        np.arange(int(n / factor)) * factor + (n - 1 - (int(n / factor) - 1) * factor) / 2 for n in grey.shape
    )
    return ndimage.map_coordinates(smooth, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest")


def _enlarged(kernel: np.ndarray, side: int) -> np.ndarray:
    """A kernel of the next finer scale."""
    at = (np.arange(side) - side // 2) / math.sqrt(2) + kernel.shape[0] // 2
    finer = ndimage.map_coordinates(kernel, np.meshgrid(at, at, indexing="ij"), order=1)
    return finer / finer.sum()
