"""What a user could do without a learned prior: a Tikhonov filter and total variation, both by FFT."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from hvae_jax.operators.blur import fft, inverse_fft, squared_abs, transfer_function

_DIFFERENCES = jnp.array([[[0.0, 0, 0], [0, -1, 1], [0, 0, 0]], [[0, 0, 0], [0, -1, 0], [0, 1, 0]]])


def _spectra(y: Array, kernel: Array) -> tuple[Array, Array]:
    """Spectra of the blur and of the two differences."""
    blur = transfer_function(kernel, y.shape, y.dtype)
    return blur, jnp.stack([transfer_function(d, y.shape, y.dtype) for d in _DIFFERENCES.astype(y.dtype)])


@jax.jit
def tikhonov(y: Float[Array, "B H W C"], kernel: Float[Array, "h w"], weight: float) -> Float[Array, "B H W C"]:
    """argmin_x ½‖k*x - y‖² + (weight/2) ‖∇x‖², a Wiener filter for images of spectrum 1/|ω|²."""
    blur, differences = _spectra(y, kernel)
    power = squared_abs(blur) + weight * jnp.sum(squared_abs(differences), axis=0)
    return inverse_fft(blur.conj() * fft(y) / power, y.shape)


@partial(jax.jit, static_argnames="iterations")
def admm_tv(
    y: Float[Array, "B H W C"], kernel: Float[Array, "h w"], weight: float, iterations: int = 100
) -> Float[Array, "B H W C"]:
    """argmin_x ½‖k*x - y‖² + weight Σ |∇x|, colours coupled in the norm, by ADMM (split d = ∇x)."""
    blur, differences = _spectra(y, kernel)
    penalty = 20 * weight  # of the order of the inverse gradients of images in [0, 1]
    power = squared_abs(blur) + penalty * jnp.sum(squared_abs(differences), axis=0)
    observed = blur.conj() * fft(y)

    def gradient(x: Array) -> Array:
        return inverse_fft(differences[:, None] * fft(x), y.shape)

    def body(_, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        _, split, dual = state
        right = observed + penalty * jnp.sum(differences.conj()[:, None] * fft(split - dual), axis=0)
        x = inverse_fft(right / power, y.shape)
        target = gradient(x) + dual
        norm = jnp.sqrt(jnp.sum(target**2, axis=(0, -1), keepdims=True))
        split = target * jnp.maximum(1 - weight / penalty / jnp.maximum(norm, 1e-12), 0)
        return x, split, target - split

    zeros = jnp.zeros((2, *y.shape), y.dtype)
    return lax.fori_loop(0, iterations, body, (y, zeros, zeros))[0]
