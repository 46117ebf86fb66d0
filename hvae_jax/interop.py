"""The prior in algorithms of other libraries; what needs one of them is imported when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from hvae_jax.denoiser import Denoiser

if TYPE_CHECKING:
    import torch


def as_deepinv(denoiser: Denoiser) -> Any:
    """A denoiser as deepinv's (extra `peers`): of tensors (B, C, H, W), and differentiable by PyTorch.

    Args:
        denoiser: of `as_denoiser`.

    Returns:
        A `deepinv.models.Denoiser`, to be called with (x, sigma), sigma in the images' unit, a number or one per image.

    Raises:
        ValueError: deepinv or PyTorch is missing.

    Example:
        >>> denoise = hj.interop.as_deepinv(hj.as_denoiser(hj.load_prior()))
        >>> model = deepinv.optim.DPIR(sigma=7.65 / 255, denoiser=denoise)
        >>> x = model(y, physics)
    """
    try:
        import deepinv
        import torch
    except ImportError:
        raise ValueError("deepinv's denoiser needs deepinv and PyTorch: pip install 'hvae_jax[peers]'") from None

    class PriorDenoiser(deepinv.models.Denoiser):
        """The prior of hvae_jax."""

        def forward(self, x: torch.Tensor, sigma: Any, *args: Any, **options: Any) -> torch.Tensor:
            """Take noise of deviation sigma out of x, (B, C, H, W)."""
            sigma = self._handle_sigma(sigma, batch_size=x.shape[0], device=x.device, dtype=x.dtype)
            return _Denoise.apply(x.movedim(1, -1), sigma, denoiser).movedim(-1, 1)

    class _Denoise(torch.autograd.Function):
        """The denoiser of images (B, H, W, C), differentiated in x and sigma by JAX."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, sigma: torch.Tensor, denoiser: Denoiser) -> torch.Tensor:
            ctx.save_for_backward(x, sigma)
            return to_torch(denoiser(to_jax(x), to_jax(sigma)), x)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
            x, sigma = ctx.saved_tensors
            of_x, of_sigma = _pull_back(denoiser, to_jax(x), to_jax(sigma), to_jax(gradient))
            return to_torch(of_x, x), to_torch(of_sigma, sigma), None

    return PriorDenoiser()


@jax.jit
def _pull_back(denoiser: Denoiser, x: jax.Array, sigma: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(denoiser, x, sigma)[1](gradient)


def to_torch(array: jax.Array, like: torch.Tensor) -> torch.Tensor:
    """An array as a tensor of another's type and on its device."""
    import torch

    return torch.from_numpy(np.array(array)).to(like)


def to_jax(tensor: torch.Tensor) -> jax.Array:
    """A tensor as an array of float32."""
    return jnp.asarray(tensor.detach().cpu().numpy(), jnp.float32)
