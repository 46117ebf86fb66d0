"""Any linear function as an operator."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hvae_jax.operators.base import Operator, Shape, is_concrete
from hvae_jax.operators.conjugate_gradient import Map


class Linear(Operator, static=("fn", "input_shape", "observation_shape")):
    """A x = fn(x) for a linear function of one image; the adjoint comes from `jax.linear_transpose`.

    A batch is mapped image by image. There is no closed form for an unknown function: the "exact" data step
    is conjugate gradient to round-off.

    Args:
        fn: linear `jax.numpy` function of an image (height, width, channels) to a real array of any shape.
            It is static: every new function object (a lambda in a loop, say) compiles anew.
        input_shape: (height, width, channels) of the images.

    Raises:
        ValueError: if fn does not take such an image, does not return one real array, or is not linear.

    Example:
        >>> gray = Linear(lambda x: x.mean(axis=-1), (64, 64, 3))
        >>> gray(jnp.ones((64, 64, 3))).shape
        (64, 64)
    """

    fn: Callable[[Float[Array, "height width channels"]], Float[Array, "*observation"]]
    input_shape: Shape
    observation_shape: Shape

    def __init__(
        self,
        fn: Callable[[Float[Array, "height width channels"]], Float[Array, "*observation"]],
        input_shape: Shape,
    ) -> None:
        input_shape = tuple(input_shape)
        if len(input_shape) != 3 or any(side < 1 for side in input_shape):
            raise ValueError(f"input_shape must be (height, width, channels), got {input_shape}")
        image = jax.ShapeDtypeStruct(input_shape, jnp.result_type(float))
        try:
            output = jax.eval_shape(fn, image)
        except Exception as error:
            raise ValueError(f"fn must take an image of shape {input_shape}, got an error: {error}") from error
        if not (hasattr(output, "dtype") and jnp.issubdtype(output.dtype, jnp.floating)):
            raise ValueError(f"fn must return one array of real numbers, got {output}")
        try:
            jax.eval_shape(jax.linear_transpose(fn, image), output)
        except Exception as error:
            raise ValueError(f"fn must be linear so that it has a transpose, got an error: {error}") from error
        # x -> A x + b has a transpose, too.
        at_zero = fn(jnp.zeros(input_shape))
        if is_concrete(at_zero) and np.any(at_zero):
            raise ValueError("fn must be linear and so map zero to zero, got other values there")
        self._set(fn=fn, input_shape=input_shape, observation_shape=output.shape)

    def image_shape(self, observation_shape: Shape) -> Shape:
        """Shape of the images: `input_shape` after the batch, if any; see `Operator.image_shape`."""
        batch = len(observation_shape) - len(self.observation_shape)
        if batch not in (0, 1) or tuple(observation_shape[batch:]) != self.observation_shape:
            raise ValueError(
                f"an observation must have shape {self.observation_shape}, "
                f"with or without a batch axis before it, got {tuple(observation_shape)}"
            )
        return (*observation_shape[:batch], *self.input_shape)

    def bind(self, image_shape: Shape, dtype: Any) -> tuple[Map, Map]:
        """A and Aᵀ for an image or, mapped, for a batch; see `Operator.bind`."""
        if len(image_shape) not in (3, 4) or tuple(image_shape[-3:]) != self.input_shape:
            raise ValueError(
                f"the image must have shape {self.input_shape}, with or without a batch axis before it, "
                f"got {tuple(image_shape)}"
            )

        def forward(x: Array) -> Array:
            return self.fn(x).astype(dtype)

        transpose = jax.linear_transpose(forward, jax.ShapeDtypeStruct(self.input_shape, dtype))

        def adjoint(y: Array) -> Array:
            return transpose(y)[0]

        return (forward, adjoint) if len(image_shape) == 3 else (jax.vmap(forward), jax.vmap(adjoint))
