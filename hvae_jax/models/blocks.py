"""Building blocks of the networks: convolutions, residual bottlenecks, pooling, upsampling."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": nn.silu,
    "relu": nn.relu,
    "gelu": lambda x: nn.gelu(x, approximate=False),  # OpenAI's VDVAE uses the exact, erf, GELU
}


def leaky_relu(x: Array) -> Array:
    """LeakyReLU with the slope 0.1 that PatchVDVAE uses around its strided convolutions."""
    return nn.leaky_relu(x, 0.1)


def conv(
    features: int, kernel_size: int, init_scale: float = 1.0, name: str | None = None, dtype: Any = None
) -> nn.Module:
    """A convolution with zero padding; a matrix product where the kernel is 1x1 (faster on CPU).

    Args:
        features: output channels.
        kernel_size: side of the kernel in pixels.
        init_scale: variance of the initial weights relative to He's.
        name: the parameters' name in a compact module.
        dtype: that of the computation and the output; that of input and parameters together if None.

    Returns:
        The layer; its kernel has shape (in, out) for 1x1 and (k, k, in, out) otherwise.
    """
    kernel_init = nn.initializers.variance_scaling(2.0 * init_scale, "fan_in", "truncated_normal")
    if kernel_size == 1:
        return Pointwise(features, kernel_init, name=name, dtype=dtype)
    return nn.Conv(features, (kernel_size, kernel_size), kernel_init=kernel_init, name=name, dtype=dtype)


class Pointwise(nn.Module):
    """A 1x1 convolution of one or more inputs, whose channels it takes side by side without copying them there.

    Attributes:
        features: output channels.
        kernel_init: draws the kernel, of shape (in, out).
        dtype: see `conv`.
    """

    features: int
    kernel_init: Callable[..., Array]
    dtype: Any = None

    @nn.compact
    def __call__(self, *parts: Float[Array, "B H W _"]) -> Float[Array, "B H W D"]:
        channels = [part.shape[-1] for part in parts]
        kernel = self.param("kernel", self.kernel_init, (sum(channels), self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        *inputs, kernel, bias = nn.dtypes.promote_dtype(*parts, kernel, bias, dtype=self.dtype)
        kernels = jnp.split(kernel, np.cumsum(channels[:-1]))
        return sum(part @ one for part, one in zip(inputs, kernels, strict=True)) + bias[None, None, None]


class Bottleneck(nn.Module):
    """1x1 → k x k → k x k → 1x1 convolutions, an activation before each: VDVAE's block.

    It takes one input, or more whose channels are side by side (then `residual` is off).

    Attributes:
        width: channels of the inner convolutions.
        features: output channels.
        kernel_size: k.
        activation: a name in `ACTIVATIONS`.
        residual: add the input to the output.
        init_scale: variance of the last convolution's initial weights, relative to He's.
        dtype: see `conv`.
    """

    width: int
    features: int
    kernel_size: int
    activation: str
    residual: bool = True
    init_scale: float = 1.0
    dtype: Any = None

    @nn.compact
    def __call__(self, *parts: Float[Array, "B H W _"]) -> Float[Array, "B H W D"]:
        act = ACTIVATIONS[self.activation]
        h = conv(self.width, 1, name="conv_0", dtype=self.dtype)(*map(act, parts))
        h = conv(self.width, self.kernel_size, name="conv_1", dtype=self.dtype)(act(h))
        h = conv(self.width, self.kernel_size, name="conv_2", dtype=self.dtype)(act(h))
        h = conv(self.features, 1, self.init_scale, name="conv_3", dtype=self.dtype)(act(h))
        return parts[0] + h if self.residual else h


class ScanBottleneck(Bottleneck):
    """A bottleneck as the body of a scan."""

    def __call__(self, x: Float[Array, "B H W C"], _: None) -> tuple[Array, None]:  # type: ignore[override]
        return super().__call__(x), None


def scan_unroll(length: int, unroll: bool) -> int:
    """The `unroll` argument of a scan that is to be written out (True) or compiled as a loop (False).

    XLA's CPU backend computes the gradients of convolutions inside loops 30 times slower than outside, so
    training on CPU writes the loops out. More than the length, because a scan of length 1 stays a loop otherwise.
    """
    return length + 1 if unroll else 1


def bottlenecks(count: int, unroll: bool, **attributes: Any) -> nn.Module:
    """`count` residual bottlenecks as one scan over stacked parameters; call it with (x, None)."""
    scan = nn.scan(
        ScanBottleneck,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=count,
        unroll=scan_unroll(count, unroll),
    )
    return scan(**attributes)


class Pool(nn.Module):
    """Convolution whose kernel is its stride, then LeakyReLU: PatchVDVAE's downsampling.

    Attributes:
        stride: the factor.
        features: output channels.
        dtype: see `conv`.
    """

    stride: int
    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        # Kernel = stride: each output pixel reads one cell, so the convolution is a matrix product of cells.
        return leaky_relu(conv(self.features, 1, name="conv", dtype=self.dtype)(space_to_depth(x, self.stride)))


class Unpool(nn.Module):
    """1x1 convolution, LeakyReLU, nearest upsampling, plus a bias per channel: PatchVDVAE's upsampling.

    Attributes:
        stride: the factor.
        features: output channels.
        dtype: see `conv`.
    """

    stride: int
    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        h = upsample(leaky_relu(conv(self.features, 1, name="conv", dtype=self.dtype)(x)), self.stride)
        return h + self.param("scale_bias", nn.initializers.zeros, (self.features,)).astype(h.dtype)[None, None, None]


def upsample(x: Float[Array, "B H W C"], factor: int) -> Float[Array, "B h w C"]:
    """Nearest-neighbour upsampling by an integer factor."""
    return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)


def average_pool(x: Float[Array, "B H W C"], factor: int) -> Float[Array, "B h w C"]:
    """Mean over factor x factor cells."""
    b, h, w, c = x.shape
    return x.reshape(b, h // factor, factor, w // factor, factor, c).mean(axis=(2, 4))


def space_to_depth(x: Float[Array, "B H W C"], factor: int) -> Float[Array, "B h w D"]:
    """Move each factor x factor cell into the channels, ordered (row, column, channel)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor * factor * c)


def depth_to_space(x: Float[Array, "B H W D"], factor: int) -> Float[Array, "B h w C"]:
    """The inverse of `space_to_depth`."""
    b, h, w, d = x.shape
    c = d // factor**2
    x = x.reshape(b, h, w, factor, factor, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c)


def smooth_softplus(x: Array, beta: float = 0.6931472) -> Array:
    """Softplus with slope parameter β: log(1 + exp(βx))/β; β = ln 2 gives 1 at 0 (gradient smoothing)."""
    return jax.nn.softplus(beta * x) / beta
