"""The computation behind `extend_periodic`: what a blur would have given beyond an image's borders."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from hvae_jax.operators import conjugate_gradient
from hvae_jax.operators.blur import divided


@partial(jax.jit, static_argnames="steps")
def continued(
    observed: Float[Array, "*images height width"],
    observed_at: Bool[Array, "height width"],
    point_spread: Float[Array, "height width"],
    smoothness: float | Float[Array, ""],
    steps: int,
) -> Float[Array, "*images height width"]:
    """Kx of `extend_periodic`, compiled once for all images of a size.

    Args:
        observed: images of one channel, known in a part of the domain.
        observed_at: which part.
        point_spread: of the blur K, its centre at (0, 0).
        smoothness: weight of the gradient.
        steps: of the conjugate gradient.

    Returns:
        Kx in the whole domain, of images x each of which is solved by itself.
    """
    shape, seen = observed_at.shape, observed_at.astype(observed.dtype)
    blur = jnp.fft.rfft2(point_spread)
    rows, columns = jnp.fft.fftfreq(shape[0])[:, None], jnp.fft.rfftfreq(shape[1])[None]
    laplacian = 4 - 2 * jnp.cos(2 * jnp.pi * rows) - 2 * jnp.cos(2 * jnp.pi * columns)
    penalty = smoothness * laplacian
    # Parseval: a half spectrum stands for the whole one, whose inner columns it holds once.
    twice = jnp.where((columns == 0) | (columns == 0.5), 1.0, 2.0)

    def inner(a: Array, b: Array) -> Array:
        return jnp.sum(twice * (a.real * b.real + a.imag * b.imag), axis=(-2, -1), keepdims=True)

    def blurred(spectrum: Array) -> Array:
        return jnp.fft.irfft2(blur * spectrum, s=shape)

    def masked_adjoint(extended: Array) -> Array:
        return jnp.conj(blur) * jnp.fft.rfft2(extended * seen)

    # On the spectrum of x, preconditioned as if the image's share of the domain were spread evenly.
    power = jnp.abs(blur) ** 2 * seen.mean() + penalty

    def continued_one(observed: Array) -> Array:
        mean = jnp.sum(observed * seen) / seen.sum()
        x = conjugate_gradient(
            lambda d: masked_adjoint(blurred(d)) + lax.complex(penalty * d.real, penalty * d.imag),
            masked_adjoint(observed - mean),
            steps,
            0.0,
            precondition=lambda residual: divided(residual, power),
            inner=inner,
        )
        return blurred(x) + mean

    # One after the other: far from convergence these steps amplify rounding, which depends on a batch's size.
    one_by_one = lax.map(continued_one, observed.reshape(-1, *shape))
    return one_by_one.reshape(observed.shape)
