"""JPEG: what a file says of a picture is the cosine transform of its blocks, each coefficient to within its step."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real
from scipy.fft import dct

from hvae_jax.images.jpeg import SIDE, SNAPPED
from hvae_jax.operators.base import Operator, Shape, of_rank
from hvae_jax.operators.conjugate_gradient import Map

YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]], np.float64
)
"""Luminance and the two colour differences of an RGB pixel, without their offsets (JFIF)."""


class Jpeg(Operator, arrays=("matrix", "weight", "cell", "before", "basis", "power"), static=("unit", "channels")):
    """The weighted cosine coefficients of a JPEG's blocks, (A x)[i] = σ (T x)[i]/d_i, d_i being what it errs by.

    T turns RGB into luminance and colour differences, takes the mean of the pixels that share a colour, and
    transforms blocks of 8x8. A coefficient that was rounded to a multiple of its step q errs by q/√12 (uniform in its
    cell), so that the observation A x + e has errors of one deviation, σ. Where the picture had white noise before it
    was compressed, a coefficient errs by both.

    What a file codes together (its minimum coded unit) is up to 16x16 pixels, and A does the same to each, so that
    A Aᵀ is one matrix of at most 384x384, whose eigenvectors give the data step in closed form.

    Args:
        steps: quantisation tables (8, 8) in grey levels of 255, lowest frequency first: of the luminance, and for
            colour of the two colour differences. A grey picture has the first alone, and its images may have any number
            of channels, each of which is observed.
        sampling: rows and columns of pixels that share a colour, 1 or 2 each.
        noise_std: σ, in the images' unit.
        noise_before: deviation of the white noise before the compression.
        channels: of the images of a grey picture.

    Raises:
        ValueError: if steps or sampling are no JPEG's.
    """

    task = "jpeg"

    matrix: Float[Array, "coefficients numbers"]
    weight: Float[Array, " coefficients"]
    cell: Float[Array, " coefficients"]
    before: Float[Array, " coefficients"]
    basis: Float[Array, "coefficients coefficients"]
    power: Float[Array, " coefficients"]
    unit: tuple[int, int]
    channels: int

    def __init__(
        self,
        steps: Sequence[Real[np.ndarray, "8 8"]] | Real[np.ndarray, "tables 8 8"],
        sampling: tuple[int, int] = (1, 1),
        noise_std: float = 1.0,
        noise_before: float = 0.0,
        channels: int = 3,
    ) -> None:
        tables = [np.asarray(table, np.float64) for table in steps]
        if len(tables) not in (1, 3) or any(t.shape != (SIDE, SIDE) or not (t > 0).all() for t in tables):
            raise ValueError(f"steps must be 1 or 3 tables (8, 8) above 0, got shapes {[t.shape for t in tables]}")
        allowed = ((1, 1),) if len(tables) == 1 else ((1, 1), (1, 2), (2, 1), (2, 2))
        if tuple(sampling) not in allowed:
            raise ValueError(f"sampling must be of {allowed}, got {sampling}")
        if not (noise_std > 0 and noise_before >= 0):
            raise ValueError(
                f"noise_std must be positive and noise_before not negative, got {noise_std}, {noise_before}"
            )
        channels = 3 if len(tables) == 3 else channels
        matrix = transform(sampling, YCBCR if len(tables) == 3 else np.eye(channels))
        luminance = np.tile(tables[0].ravel(), sampling[0] * sampling[1])
        rounding = (
            [luminance, *(t.ravel() for t in tables[1:])] if len(tables) == 3 else [np.repeat(luminance, channels)]
        )
        norms = np.sqrt((matrix**2).sum(axis=1))
        variance = (np.concatenate(rounding) / 255) ** 2 / 12 + (noise_before * norms) ** 2
        weight = noise_std / np.sqrt(variance)
        half = np.concatenate(rounding) / 510
        half += np.where(half < SNAPPED / 510, 1 / 255, 0)  # a grey level, where the multiple is not found again
        matrix *= weight[:, None]
        power, basis = np.linalg.eigh(matrix @ matrix.T)
        self._set(
            matrix=jnp.asarray(matrix),
            weight=jnp.asarray(weight),
            cell=jnp.asarray(weight * half),
            before=jnp.asarray(weight * noise_before * norms),
            basis=jnp.asarray(basis),
            power=jnp.asarray(np.maximum(power, 0)),
            unit=(SIDE * sampling[0], SIDE * sampling[1]),
            channels=channels,
        )

    def observation(
        self, values: Float[ArrayLike, "*batch rows columns values"]
    ) -> Float[Array, "*batch rows columns m"]:
        """The y of a file's coefficients.

        Args:
            values: T x, in the images' unit, as `images.jpeg.coefficients` gives them.

        Returns:
            A x: weighted, and for the images' channels.
        """
        values = jnp.asarray(values)
        if values.shape[-1] != len(self.weight):  # of a grey picture, for each channel
            values = jnp.repeat(values, self.channels, axis=-1)
        return values * of_rank(self.weight.astype(values.dtype), values.ndim)

    def image_shape(self, observation_shape: Shape) -> Shape:
        """Shape of the images whose units have these coefficients; see `Operator.image_shape`."""
        count = self.matrix.shape[0]
        if len(observation_shape) not in (3, 4) or observation_shape[-1] != count:
            raise ValueError(
                f"the observation must have {count} coefficients of each unit, ([batch,] rows, columns, {count}), "
                f"got shape {tuple(observation_shape)}"
            )
        *batch, rows, columns, _ = observation_shape
        return (*batch, rows * self.unit[0], columns * self.unit[1], self.channels)

    def bind(self, image_shape: Shape, dtype: Any) -> tuple[Map, Map]:
        """A and Aᵀ; see `Operator.bind`."""
        height, width = self.unit
        if (
            len(image_shape) not in (3, 4)
            or image_shape[-3] % height
            or image_shape[-2] % width
            or image_shape[-1] != self.channels
        ):
            raise ValueError(
                f"the image must be ([batch,] height, width, {self.channels}), its sides multiples of {height} and "
                f"{width}, got shape {tuple(image_shape)}"
            )
        *batch, rows, columns, channels = image_shape
        rows, columns = rows // height, columns // width
        matrix = self.matrix.astype(dtype)

        def forward(x: Array) -> Array:
            cut = x.reshape(*batch, rows, height, columns, width, channels).swapaxes(-4, -3)
            return cut.reshape(*batch, rows, columns, -1) @ matrix.T

        def adjoint(y: Array) -> Array:
            cut = (y @ matrix).reshape(*batch, rows, columns, height, width, channels)
            return cut.swapaxes(-4, -3).reshape(image_shape)

        return forward, adjoint

    def exact_step(self, y: Array) -> Callable[[Array, Array], Array]:
        """U + Aᵀ V (Λ + ratio)⁻¹ Vᵀ (y - A u), V and Λ being A Aᵀ's of one unit; see `Operator.exact_step`."""
        forward, adjoint = self.bind(self.image_shape(y.shape), y.dtype)
        return lambda u, ratio: u + adjoint(self._solve(y - forward(u), ratio))

    def _solve(self, r: Array, ratio: Array | float = 0.0) -> Array:
        """(A Aᵀ + ratio)⁻¹ r = V (Λ + ratio)⁻¹ Vᵀ r."""
        basis = self.basis.astype(r.dtype)
        return (r @ basis / (of_rank(self.power.astype(r.dtype), r.ndim) + ratio)) @ basis.T

    def within_cells(
        self,
        x: Float[ArrayLike, "*batch height width C"],
        y: Float[ArrayLike, "*batch rows columns m"],
        margin: float = 0,
    ) -> Float[Array, "*batch height width C"]:
        """The image nearest to x whose coefficients round to those of the file.

        The truth is in these cells, a convex set, so that the projection onto them brings any estimate nearer to it
        (as far as coefficients are independent: their colours overlap a little).

        Args:
            x: an image.
            y: the observation.
            margin: how far beyond its cell a coefficient may be, in deviations of its noise before the compression.

        Returns:
            x, changed as little as that takes.
        """
        x, y = jnp.asarray(x), jnp.asarray(y)
        forward, adjoint = self.bind(x.shape, x.dtype)
        beyond = y - forward(x)
        cell = of_rank((self.cell + margin * self.before).astype(x.dtype), y.ndim)
        return x + adjoint(self._solve(beyond - jnp.clip(beyond, -cell, cell)))

    def initial(self, y: Float[ArrayLike, "*batch rows columns coefficients"]) -> Float[Array, "*batch height width C"]:
        """The picture that a decoder shows, its colours not smoothed: the shortest x with A x = y."""
        y, shape = self._observation(y)
        _, adjoint = self.bind(shape, y.dtype)
        return adjoint(self._solve(y))


def transform(
    sampling: tuple[int, int], colours: Float[np.ndarray, "components channels"]
) -> Float[np.ndarray, "coefficients numbers"]:
    """T of one unit: its rows are the coefficients of luminance's blocks in reading order, then of the differences.

    Where `colours` has no differences, a grey picture's, a coefficient of each channel follows another.
    """
    height, width = SIDE * sampling[0], SIDE * sampling[1]
    cosines = dct(np.eye(SIDE), axis=0, norm="ortho")
    block = np.kron(cosines, cosines)
    pixels = np.arange(height * width).reshape(height, width)
    luminance = YCBCR[:1] if colours is YCBCR else colours
    parts = []
    for top in range(0, height, SIDE):
        for left in range(0, width, SIDE):
            select = np.eye(height * width)[pixels[top : top + SIDE, left : left + SIDE].ravel()]
            parts.append(np.kron(block @ select, luminance))
    means = [np.kron(np.eye(SIDE), np.full((1, shared), 1 / shared)) for shared in sampling]
    differences = colours[len(luminance) :]
    parts += [np.kron(block @ np.kron(*means), row[None]) for row in differences]
    return np.concatenate(parts)
