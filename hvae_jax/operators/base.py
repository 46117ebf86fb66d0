"""The contract of a linear degradation operator."""

import abc
import dataclasses
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NoReturn, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from hvae_jax.operators.conjugate_gradient import Map, conjugate_gradient, dot, safe_divide

Shape: TypeAlias = tuple[int, ...]
Ratio: TypeAlias = Float[ArrayLike, "*batch"] | Float[ArrayLike, ""]
Kernel: TypeAlias = Real[ArrayLike, "*batch kernel_height kernel_width"] | Sequence[Sequence[float]]
DataStep: TypeAlias = Callable[
    [Float[ArrayLike, "*batch height width channels"], Ratio], Float[Array, "*batch height width channels"]
]


LARGEST_RATIO = 1e30
"""Of a data step; beyond it the step leaves u as it is."""


class Operator(abc.ABC):
    """A linear degradation A of the observation model y = A x + σ ε, with the data step that it allows.

    Images are (height, width, channels) or (batch, height, width, channels), float32 or float64; a batch
    gives what its images give one by one. Operators are immutable pytrees: they pass through `jit`, `vmap`
    and `grad`, also as arguments.

    A new operator names its fields where it is declared, `class Mine(Operator, arrays=("w",), static=("n",))`
    (arrays are the pytree's leaves, static fields must be hashable), sets them with `self._set(w=w, n=n)` in
    `__init__`, and implements `image_shape` and `bind`. It may override `exact_step` where the data step has
    a closed form, and `initial` where a better start is known.
    """

    task: ClassVar[str] = "other"
    """What a prior's tables of settings call it."""

    per_image: ClassVar[Mapping[str, int]] = {}
    """Arrays of which there may be one per image, by their rank then: its first axis is the batch's."""

    _arrays: ClassVar[tuple[str, ...]] = ()
    _static: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, arrays: tuple[str, ...] = (), static: tuple[str, ...] = (), **kwargs: Any) -> None:
        """Registers the subclass as a pytree with the named leaves and static fields."""
        super().__init_subclass__(**kwargs)
        cls._arrays = (*cls._arrays, *arrays)
        cls._static = (*cls._static, *static)

        def flatten(operator: Operator) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            leaves = ((jax.tree_util.GetAttrKey(name), getattr(operator, name)) for name in cls._arrays)
            return tuple(leaves), tuple(getattr(operator, name) for name in cls._static)

        def unflatten(static_values: tuple[Any, ...], leaves: Iterable[Any]) -> Operator:
            # Not through __init__: a leaf may be a tracer or a placeholder, which validation would refuse.
            operator = object.__new__(cls)
            operator._set(**dict(zip(cls._arrays, leaves, strict=True)))
            operator._set(**dict(zip(cls._static, static_values, strict=True)))
            return operator

        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)

    def _set(self, **fields: Any) -> None:
        """Sets fields once, in `__init__`."""
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r} of {type(self).__name__}")

    def __repr__(self) -> str:
        fields = [f"{name}={_summary(getattr(self, name))}" for name in (*self._arrays, *self._static)]
        return f"{type(self).__name__}({', '.join(fields)})"

    @abc.abstractmethod
    def image_shape(self, observation_shape: Shape) -> Shape:
        """Shape of the images x whose observations y = A x have the given shape.

        Args:
            observation_shape: shape of y, with or without a leading batch axis.

        Returns:
            (height, width, channels), or (batch, height, width, channels).

        Raises:
            ValueError: if no image has observations of this shape.
        """

    @abc.abstractmethod
    def bind(self, image_shape: Shape, dtype: Any) -> tuple[Map, Map]:
        """A and Aᵀ for images of one shape, with all that does not depend on the image computed once.

        Args:
            image_shape: (height, width, channels), or (batch, height, width, channels).
            dtype: float type of the images and observations.

        Returns:
            The functions x -> A x and y -> Aᵀ y.

        Raises:
            ValueError: if the operator does not apply to images of this shape.
        """

    def __call__(self, x: Float[ArrayLike, "*batch height width channels"]) -> Float[Array, "*observations"]:
        """A x: the noiseless observation of an image.

        Args:
            x: image or batch of images.

        Returns:
            The observation, of the type of x.

        Raises:
            ValueError: if A does not apply to images of this shape or type.
        """
        x = as_float(x, "the image")
        forward, _ = self.bind(x.shape, x.dtype)
        return forward(x)

    def adjoint(self, y: Float[ArrayLike, "*observations"]) -> Float[Array, "*batch height width channels"]:
        """Aᵀ y, so that <A x, y> = <x, Aᵀ y> for every x.

        Args:
            y: observation or batch of observations.

        Returns:
            An image or batch of images, of the type of y.

        Raises:
            ValueError: if no image has observations of this shape or type.
        """
        y, shape = self._observation(y)
        _, adjoint = self.bind(shape, y.dtype)
        return adjoint(y)

    def observed(self, y: Float[ArrayLike, "*observations"]) -> Float[Array, "*observations"]:
        """The observation with zeros where A never reaches, the misfit being A x less that.

        Args:
            y: observation or batch of observations.

        Returns:
            y itself, unless overridden.
        """
        return jnp.asarray(y)

    def initial(self, y: Float[ArrayLike, "*observations"]) -> Float[Array, "*batch height width channels"]:
        """A starting image for a restoration: unless overridden, ten Tikhonov steps from a constant image.

        The constant is the one that explains y best, and the ridge is a hundredth of the power that A has
        along Aᵀ y, so that the result does not depend on the unit of A.

        Args:
            y: observation or batch of observations.

        Returns:
            x0, a rough but smooth guess of x.

        Raises:
            ValueError: if no image has observations of this shape or type.
        """
        y, shape = self._observation(y)
        forward, adjoint = self.bind(shape, y.dtype)
        ones, back = jnp.ones(shape, y.dtype), adjoint(y)
        ones_power = dot(ones, adjoint(forward(ones)))
        constant = jnp.where(ones_power > 0, safe_divide(dot(ones, back), ones_power), 0.5)
        ridge = 0.01 * safe_divide(dot(back, adjoint(forward(back))), dot(back, back))
        return self._cg_step(y, steps=10)(constant * ones, ridge)

    def data_step(
        self,
        u: Float[ArrayLike, "*batch height width channels"],
        y: Float[ArrayLike, "*observations"],
        ratio: Ratio,
        method: Literal["exact", "cg"] = "exact",
        cg_steps: int | None = None,
        cg_tolerance: float | Array = 1e-6,
    ) -> Float[Array, "*batch height width channels"]:
        """argmin_x ½‖A x − y‖² + (ratio/2)‖x − u‖²: the data step of one iteration.

        With f(x) = ‖A x − y‖²/(2σ²) and ratio = βσ²/γ² this is the proximal step of PnP-HVAE, Algorithm 2
        (the prox of γ²f/β at u; Proposition 1, eq. 19). In a loop, call `data_step_for` once instead.

        Args:
            u: the prior's image(s), μ(z) in the paper.
            y: observation(s).
            ratio: βσ²/γ² > 0, a number or one per image (batch,). Zero, the noiseless limit, is defined for
                inpainting and denoising.
            method: see `data_step_for`.
            cg_steps: see `data_step_for`.
            cg_tolerance: see `data_step_for`.

        Returns:
            x, of the shape and type of u. Where A hardly sees a frequency, rounding errors of y grow by up to
            1/(2 √ratio): against float64, a blur's x in float32 is off by up to 3e-4 of its largest value at ratio
            1e-8, 6e-5 at 1e-6 and 1e-5 at 1e-4.

        Raises:
            ValueError: if a shape, a type or a setting does not fit.
        """
        _check_method(method, cg_steps, cg_tolerance)
        _check_ratio(ratio)
        ratio = float(ratio) if isinstance(ratio, numbers.Real) else ratio  # of an integer there are many sizes
        return _data_step(self, as_float(u, "u"), as_float(y, "the observation"), ratio, method, cg_steps, cg_tolerance)

    def data_step_for(
        self,
        y: Float[ArrayLike, "*observations"],
        method: Literal["exact", "cg"] = "exact",
        cg_steps: int | None = None,
        cg_tolerance: float | Array = 1e-6,
    ) -> DataStep:
        """The data step for one observation, with all that does not depend on u and ratio computed once.

        Args:
            y: observation or batch of observations.
            method: "exact" for the closed form (for operators without one: conjugate gradient to round-off),
                or "cg" for conjugate gradient from u. The official code does one step of the latter.
            cg_steps: number of conjugate-gradient steps, which gradients go through; None for as many as
                cg_tolerance asks for, at most 1000.
            cg_tolerance: an image stops when its residual ‖Aᵀ(y − A x) + ratio (u − x)‖ is at most this part
                of its residual at x = u. Gradients then are those of the exact solution, equally tolerant.

        Returns:
            The function (u, ratio) -> x of `data_step`, solved in the float type of y.

        Raises:
            ValueError: if a shape, a type or a setting does not fit.
        """
        _check_method(method, cg_steps, cg_tolerance)
        y, shape = self._observation(y)
        solve = self.exact_step(y) if method == "exact" else self._cg_step(y, cg_steps, cg_tolerance)

        def data_step(
            u: Float[ArrayLike, "*batch height width channels"], ratio: Ratio
        ) -> Float[Array, "*batch height width channels"]:
            u = as_float(u, "u")
            if u.shape != shape:
                raise ValueError(f"u must have shape {shape} for observations {y.shape}, got {u.shape}")
            return solve(u.astype(y.dtype), _per_image(ratio, shape, y.dtype)).astype(u.dtype)

        return data_step

    def exact_step(self, y: Array) -> Callable[[Array, Array], Array]:
        """The method "exact" of `data_step_for`: unless overridden, conjugate gradient to round-off.

        Closed forms use (AᵀA + ρ)⁻¹(Aᵀy + ρu) = u + Aᵀ(AAᵀ + ρ)⁻¹(y − A u), because AAᵀ is what is easy to
        invert, and because a small correction to u keeps its precision.

        Args:
            y: a valid observation.

        Returns:
            The function (u, ratio) -> x; u is of y's type, ratio broadcasts against images.
        """
        return self._cg_step(y, tolerance=10 * float(jnp.finfo(y.dtype).eps))

    def _cg_step(
        self, y: Array, steps: int | None = None, tolerance: float | Array = 0.0
    ) -> Callable[[Array, Array], Array]:
        """The method "cg" of `data_step_for`."""
        forward, adjoint = self.bind(self.image_shape(y.shape), y.dtype)

        def step(u: Array, ratio: Array) -> Array:
            # For the correction x − u, from zero: the iterates are those for x from u, but the right-hand
            # side has the correction's scale, so that the tolerance also means something for (co)tangents.
            return u + conjugate_gradient(
                lambda d: adjoint(forward(d)) + ratio * d, adjoint(y - forward(u)), steps, tolerance
            )

        return step

    def _observation(self, y: ArrayLike) -> tuple[Array, Shape]:
        """A checked observation and the shape of its image."""
        y = as_float(y, "the observation")
        return y, self.image_shape(y.shape)


@partial(jax.jit, static_argnames=("method", "cg_steps"))
def _data_step(
    operator: Operator, u: Array, y: Array, ratio: Array, method: str, cg_steps: int | None, cg_tolerance: float | Array
) -> Array:
    """`Operator.data_step`, compiled once for all calls with the same shapes."""
    return operator.data_step_for(y, method, cg_steps, cg_tolerance)(u, ratio)  # type: ignore[arg-type]


def _check_method(method: str, cg_steps: int | None, cg_tolerance: float | Array) -> None:
    """Refuse settings of a data step that cannot be meant; see `Operator.data_step_for`."""
    if method not in ("exact", "cg"):
        raise ValueError(f'the method of a data step is "exact" or "cg", got {method!r}')
    if cg_steps is not None and method != "cg":
        raise ValueError(f'cg_steps needs method="cg", got cg_steps={cg_steps!r} with method={method!r}')
    if cg_steps is not None and not (isinstance(cg_steps, numbers.Integral) and cg_steps >= 1):
        raise ValueError(f"cg_steps must be a whole number of at least 1 or None, got {cg_steps!r}")
    if is_concrete(cg_tolerance) and not 0 < cg_tolerance < 1:
        raise ValueError(f"cg_tolerance must be a number between 0 and 1, got {cg_tolerance!r}")


def _check_ratio(ratio: Ratio) -> None:
    """Refuse known numbers below 0, or that single precision does not hold, as the ratio of a data step."""
    if not is_concrete(ratio):
        return
    known = np.asarray(ratio)
    if known.dtype.kind not in "fiub" and not isinstance(ratio, numbers.Real):
        raise ValueError(f"ratio must be a number or one per image, got {known.dtype}")
    if not ((known >= 0) & (known <= LARGEST_RATIO)).all():
        raise ValueError(f"ratio must be positive and at most {LARGEST_RATIO:g}, got {ratio}")


def as_float(value: ArrayLike, name: str) -> Array:
    """The value as a float32 or float64 array; `name` is what an error calls it."""
    try:
        array = jnp.asarray(value)
    except (TypeError, OverflowError) as error:  # what is no array, or an integer too large for one
        raise ValueError(f"{name} must be a float32 or float64 array, got {type(value).__name__}") from error
    if array.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"{name} must be a float32 or float64 array, got {array.dtype}")
    return array


def of_rank(array: Array, rank: int) -> Array:
    """An array with axes of length 1 before its own, for images that may be a batch."""
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def check_image_shape(shape: Shape, name: str) -> Shape:
    """The shape as a tuple, if it is one of an image or of a batch of images."""
    if len(shape) not in (3, 4):
        raise ValueError(
            f"{name} must be (height, width, channels) or (batch, height, width, channels), got shape {tuple(shape)}"
        )
    return tuple(shape)


def is_concrete(value: Any) -> bool:
    """Whether the values of an array are known now, and not only inside a compiled function."""
    return not isinstance(value, jax.core.Tracer)


def _per_image(ratio: ArrayLike, image_shape: Shape, dtype: Any) -> Array:
    """The ratio in a shape that broadcasts against images."""
    _check_ratio(ratio)
    ratio = jnp.asarray(ratio, dtype)
    if ratio.ndim and ratio.shape != image_shape[:-3]:
        raise ValueError(
            f"ratio must be a number or one per image of u {image_shape}, got an array of shape {ratio.shape}"
        )
    return ratio[..., None, None, None] if ratio.ndim else ratio


def _summary(value: Any) -> str:
    """An array's type and shape, anything else as it prints."""
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else repr(value)
