"""DnCNN and FDnCNN: published convolutional denoisers, their weights given by the user as .npz."""

import itertools
import os
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.methods.hqs import Denoiser


class DnCNN(nn.Module):
    """3x3 convolutions with ReLU between them and nothing else (batch normalization is merged into them).

    Attributes:
        widths: output channels of each layer; the last is the image's.
        conditional: FDnCNN, whose input has the noise's deviation as one more channel and whose output is the image;
            else DnCNN, whose output is the noise.
    """

    widths: tuple[int, ...]
    conditional: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], deviation: float
    ) -> Float[Array, "batch height width channels"]:
        """The denoised images; see `Denoiser`."""
        h = jnp.concatenate([x, jnp.full_like(x[..., :1], deviation)], axis=-1) if self.conditional else x
        for i, width in enumerate(self.widths):
            h = nn.Conv(width, (3, 3), name=f"conv{i:02d}")(h if i == 0 else nn.relu(h))
        return h if self.conditional else x - h


def load_dncnn(weights: str | os.PathLike | Mapping[str, np.ndarray]) -> Denoiser:
    """The denoiser with the given weights.

    Whether it is conditional is told by the shapes: FDnCNN takes one channel more than it returns.

    Args:
        weights: an .npz file, or what is in it: conv00_w, (3, 3, inputs, outputs), conv00_b, (outputs,), conv01_w, ...

    Returns:
        The function (x, deviation) -> x, compiled.

    Raises:
        ValueError: other names, or shapes that do not follow one another.
        OSError: the file cannot be read.

    Source: Zhang et al., "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising", TIP 2017;
    the weights of DnCNN and FDnCNN are in the authors' repository, github.com/cszn/DnCNN.
    """
    if not isinstance(weights, Mapping):
        with np.load(weights) as file:
            return load_dncnn(dict(file))
    layers = [f"conv{i:02d}" for i in range(len(weights) // 2)]
    if not layers or set(weights) != {f"{layer}_{part}" for layer in layers for part in "wb"}:
        raise ValueError(f"expected the arrays conv00_w, conv00_b, conv01_w, ..., got {sorted(weights)}")
    kernels = [jnp.asarray(weights[f"{layer}_w"]) for layer in layers]
    biases = [jnp.asarray(weights[f"{layer}_b"]) for layer in layers]
    shapes = [kernel.shape for kernel in kernels]
    extra = shapes[0][2] - shapes[-1][-1] if all(len(shape) == 4 for shape in shapes) else None
    if (
        extra not in (0, 1)
        or any(shape[:2] != (3, 3) or bias.shape != shape[3:] for shape, bias in zip(shapes, biases, strict=True))
        or any(before[3] != after[2] for before, after in itertools.pairwise(shapes))
    ):
        raise ValueError(
            "expected kernels (3, 3, inputs, outputs) that follow one another, with the inputs of the first as many as "
            f"the outputs of the last or one more, got the shapes {shapes}"
        )
    model = DnCNN(tuple(shape[3] for shape in shapes), conditional=extra == 1)
    params = {layer: {"kernel": k, "bias": b} for layer, k, b in zip(layers, kernels, biases, strict=True)}
    apply = jax.jit(model.apply)
    return lambda x, deviation: apply({"params": params}, x, deviation)
