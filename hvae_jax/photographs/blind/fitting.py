"""The kernel that fits a restored picture to the observed one: the k-step of an expectation maximization."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import fft, signal

from hvae_jax.images import Box
from hvae_jax.photographs.blind.free import as_kernel, centred, differences, transfer

EDGE = 16
"""Pixels from the borders of the picture inwards over which it fades out, for what is beyond was made with a kernel."""

PRIOR_STD = 12 / 255
"""s, of what a restored picture lacks where the kernel passes nothing."""

RIDGE = 20.0
"""ρ, of the kernel's square."""


class Fit:
    """How well kernels explain a picture y by a restored one x.

        J(k) = Σ_d ‖k * ∂_d x - ∂_d y‖² + kᵀ C k,    C = |∂_d|² / (|k̂|²/σ² + 1/s²)

    up to a constant. C is the variance of x that is left, given the kernel k̂ that it was restored with; without it the
    kernel would shrink to a point.

    Args:
        restored: x, (H, W, C), in the unit of the observation.
        observed: y, extended beyond its borders.
        box: where the picture is in y.
        kernel: k̂.
        noise_std: σ that was assumed.
        side: of the kernels, odd.

    Source: Levin, Weiss, Durand and Freeman, "Efficient marginal likelihood optimization in blind deconvolution",
    CVPR 2011, with the prior's restoration in place of the mean there.
    """

    def __init__(
        self,
        restored: Float[np.ndarray, "H W C"],
        observed: Float[np.ndarray, "H W C"],
        box: Box,
        kernel: Float[np.ndarray, "kh kw"],
        noise_std: float,
        side: int,
    ) -> None:
        x, y = restored.mean(axis=-1, dtype=np.float64), observed.mean(axis=-1, dtype=np.float64)
        self.side, self.shape = side, x.shape
        window = _window(x.shape, box)
        power, count = np.abs(transfer(kernel, x.shape)) ** 2, (window**2).sum()
        unknown = count / (power * observed.shape[-1] / noise_std**2 + 1 / PRIOR_STD**2)
        self._cross, self._power, self.energy = 0, 0, 0.0
        for d in differences(x.shape):
            of_x, of_y = (fft.rfft2(fft.irfft2(d * fft.rfft2(v), s=x.shape) * window) for v in (x, y))
            self._cross = self._cross + of_x.conj() * of_y
            self._power = self._power + np.abs(of_x) ** 2 + np.abs(d) ** 2 * unknown
            self.energy += float((fft.irfft2(of_y, s=x.shape) ** 2).sum())
        reach = side - 1
        squares = np.roll(fft.irfft2(self._power, s=x.shape), (reach, reach), (0, 1))[: 2 * side - 1, : 2 * side - 1]
        self._padded = 3 * side
        grid = np.zeros((self._padded, self._padded))
        grid[: 2 * side - 1, : 2 * side - 1] = squares
        self._squares = fft.rfft2(np.roll(grid, (-reach, -reach), (0, 1)))
        half = side // 2
        self._products = np.roll(fft.irfft2(self._cross, s=x.shape), (half, half), (0, 1))[:side, :side]

    def cost(self, kernel: Float[np.ndarray, "side side"]) -> float:
        """J less its constant, over the energy of ∂y: 0 explains nothing, -1 all."""
        padded = fft.rfft2(kernel, s=(self._padded, self._padded))
        blurred = fft.irfft2(padded * self._squares, s=(self._padded,) * 2)[: self.side, : self.side]
        return float((kernel * blurred).sum() - 2 * (self._products * kernel).sum()) / self.energy

    def free_kernel(self) -> Float[np.ndarray, "side side"]:
        """Of any shape, by dividing spectra, and made one."""
        found = fft.irfft2(self._cross / (self._power + RIDGE), s=self.shape)
        reach = self.side // 2
        values = np.roll(found, (reach, reach), (0, 1))[: self.side, : self.side]
        return centred(as_kernel(values)).astype(np.float32)


def _window(shape: tuple[int, ...], box: Box) -> Float[np.ndarray, "H W"]:
    """1 in the picture, fading out towards its borders."""
    sides = []
    for n, part in zip(shape, box, strict=True):
        side = np.zeros(n)
        length = part.stop - part.start
        side[part] = signal.windows.tukey(length, min(1.0, 2 * EDGE / length))
        sides.append(side)
    return sides[0][:, None] * sides[1]
