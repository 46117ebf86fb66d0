"""Published methods with pretrained networks, by deepinv on PyTorch: the extra `peers`.

deepinv downloads a network's weights when the method is made. Settings are those of each method's paper or official
code where deepinv's own differ; further options go to deepinv. A batch is run at once, on a GPU where PyTorch has one.
"""

from collections.abc import Callable
from typing import Any

import deepinv
import jax
import numpy as np
import torch
from deepinv.models import DiffUNet, DnCNN, DRUNet, GSDRUNet
from deepinv.optim import DPIR, PGD, BacktrackingConfig
from deepinv.optim.data_fidelity import L2
from deepinv.optim.prior import RED, PnP
from deepinv.sampling import DPS, DiffPIR

from benchmarks.methods.contract import Method, Unavailable
from benchmarks.methods.hqs import data_step
from hvae_jax.interop import to_jax
from hvae_jax.operators import Operator, SuperResolution

Weights = str | None
"""A file, "download", or None for random ones."""


class OurPhysics(deepinv.physics.LinearPhysics):
    """One of our operators as deepinv's physics, for one batch of observations.

    deepinv's images are (batch, channels, height, width). Observations stay as we have them, because deepinv's
    algorithms only hand them on to the physics.

    Args:
        y: the observations, which are then in `y`; `start` is the image to start from.
        A: the operator.
        noise_std: deviation of the observations' noise.
    """

    def __init__(self, y: jax.Array, A: Operator, noise_std: float) -> None:
        super().__init__(noise_model=deepinv.physics.GaussianNoise(noise_std), device=_device())
        self.operator = A
        self.y = _to_torch(A.observed(y))
        self.start = _to_torch(A.initial(y)).movedim(-1, 1)

    def A(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        """A x, which gradients go through."""
        return _Linear.apply(x.movedim(1, -1), self._forward, self._adjoint)

    def A_adjoint(self, y: torch.Tensor, **_: Any) -> torch.Tensor:
        """Aᵀ y, which gradients go through."""
        return _Linear.apply(y, self._adjoint, self._forward).movedim(-1, 1)

    def prox_l2(self, z: torch.Tensor, y: torch.Tensor, gamma: float | torch.Tensor, **_: Any) -> torch.Tensor:
        """argmin_x (gamma/2)‖A x − y‖² + ½‖x − z‖², which is our data step."""
        gamma = np.broadcast_to(np.asarray(torch.as_tensor(gamma).cpu(), np.float32).reshape(-1), z.shape[:1])
        x = data_step(self.operator, to_jax(y), to_jax(z.movedim(1, -1)), 1 / gamma)
        return _to_torch(x).movedim(-1, 1)

    def _forward(self, x: jax.Array) -> jax.Array:
        return _apply(self.operator, x)

    def _adjoint(self, y: jax.Array) -> jax.Array:
        return _apply_adjoint(self.operator, y)


def gs_pnp(weights: Weights = "download", **options: Any) -> Method:
    """GS-PnP: proximal gradient steps on ½‖A x − y‖² + λ g, where x − ∇g is a denoiser, with backtracking.

    Args:
        weights: of the gradient-step DRUNet.
        options: `lambda_reg` (0.1, for super-resolution 0.065), `stepsize` (1/λ), `sigma_denoiser` (1.8 noise_std, for
            super-resolution 2 noise_std), and others of `deepinv.optim.PGD`.

    Returns:
        The method.

    Raises:
        Unavailable: the weights cannot be had.

    Source: Hurault, Leclaire and Papadakis, "Gradient step denoiser for convergent plug-and-play", ICLR 2022; settings
    of the official code, github.com/samuro95/GSPnP, for deblurring.
    """
    prior = _GradientStep(_network(GSDRUNet, weights))

    def restore(physics: OurPhysics, noise_std: float) -> torch.Tensor:
        low = isinstance(physics.operator, SuperResolution)
        weight = options.get("lambda_reg", 0.065 if low else 0.1)
        settings = {
            "lambda_reg": weight,
            "stepsize": 1 / weight,
            "sigma_denoiser": (2 if low else 1.8) * noise_std,
            "max_iter": 400,
            "early_stop": True,
            "crit_conv": "cost",
            "thres_conv": 1e-6 if low else 1e-5,
            "backtracking": BacktrackingConfig(gamma=0.1, eta=0.9),
        } | options
        # The gradient step comes first; the official code returns what the last one makes, not the last proximal step.
        optimizer = PGD(L2(), prior, g_first=True, get_output=lambda X: X["est"][1], **settings)
        start = physics.prox_l2(physics.start, physics.y, settings["stepsize"])
        return optimizer(physics.y, physics, init=start)

    return _method(restore)


def pnp_mmo(weights: Weights = "download_lipschitz", **options: Any) -> Method:
    """PnP-MMO: forward-backward x <- D(x − γ Aᵀ(A x − y)) with a DnCNN trained to be firmly nonexpansive.

    Args:
        weights: of the DnCNN; "download_lipschitz" is deepinv's name of those of the paper's regularization.
        options: `stepsize` γ (1.99 over the squared norm of A, at most 1.99), `max_iter` (300), and others of
            `deepinv.optim.PGD`.

    Returns:
        The method.

    Raises:
        Unavailable: the weights cannot be had.

    Source: Pesquet, Repetti, Terris and Wiaux, "Learning maximally monotone operators for image recovery", SIIMS 2021;
    settings of the official code, github.com/basp-group/PnP-MMO-imaging.
    """
    prior = PnP(_network(DnCNN, weights))

    def restore(physics: OurPhysics, noise_std: float) -> torch.Tensor:
        # A blur's norm is 1, which the power method does not quite reach.
        norm = max(1.0, float(physics.compute_sqnorm(physics.start[:1], verbose=False)))
        optimizer = PGD(L2(), prior, **({"stepsize": 1.99 / norm, "max_iter": 300} | options))
        return optimizer(physics.y, physics, init=physics.start)

    return _method(restore)


def dpir(weights: Weights = "download") -> Method:
    """DPIR: half-quadratic splitting with DRUNet, 8 evaluations; see `benchmarks.methods.hqs`.

    Args:
        weights: of the DRUNet.

    Returns:
        The method.

    Raises:
        Unavailable: the weights cannot be had.

    Source: Zhang et al., "Plug-and-play image restoration with deep denoiser prior", TPAMI 2021.
    """
    network = _network(DRUNet, weights)

    def restore(physics: OurPhysics, noise_std: float) -> torch.Tensor:
        return DPIR(noise_std, network, device=_device())(physics.y, physics, init=physics.start)

    return _method(restore)


def diffpir(weights: Weights = "download", seed: int = 0, **options: Any) -> Method:
    """DiffPIR: a sample by half-quadratic splitting along a diffusion, 100 evaluations.

    Args:
        weights: of the diffusion model; deepinv's are of faces (FFHQ), for images of 256x256 pixels.
        seed: of the sampling.
        options: `max_iter`, `zeta`, `lambda_` of `deepinv.sampling.DiffPIR`.

    Returns:
        The method.

    Raises:
        Unavailable: the weights cannot be had.

    Source: Zhu et al., "Denoising diffusion models for plug-and-play image restoration", CVPRW 2023.
    """
    network = _network(DiffUNet, weights)

    def restore(physics: OurPhysics, noise_std: float) -> torch.Tensor:
        sampler = DiffPIR(network, L2(), sigma=noise_std, device=_device(), **options)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return sampler(physics.y, physics, x_init=physics.start)

    return _method(restore)


def dps(weights: Weights = "download", seed: int = 0, **options: Any) -> Method:
    """DPS: a sample of the posterior by 1000 steps of a diffusion, each with a gradient through the network.

    Args:
        weights: of the diffusion model; see `diffpir`.
        seed: of the sampling.
        options: `num_steps`, `weight` and others of `deepinv.sampling.DPS`. `guidance` is "annealed" unless given:
            the Gaussian likelihood of variance σ² + σ_t², whose weight is 1 for every noise level; the paper's, "norm",
            wants a weight tuned to the task.

    Returns:
        The method.

    Raises:
        Unavailable: the weights cannot be had.

    Source: Chung et al., "Diffusion posterior sampling for general noisy inverse problems", ICLR 2023.
    """
    network = _network(DiffUNet, weights)

    def restore(physics: OurPhysics, noise_std: float) -> torch.Tensor:
        generator = torch.Generator(_device()).manual_seed(seed)
        sampler = DPS(network, device=_device(), rng=generator, **({"guidance": "annealed"} | options))
        return sampler(physics.y, physics, x_init=tuple(physics.start.shape))

    return _method(restore)


class _GradientStep(RED):
    """The prior of GS-PnP: its value is the denoiser's potential, which backtracking needs."""

    def __init__(self, denoiser: torch.nn.Module) -> None:
        super().__init__(denoiser)
        self.explicit_prior = True

    def fn(self, x: torch.Tensor, sigma_denoiser: float, *_: Any, **__: Any) -> torch.Tensor:
        return self.denoiser.potential(x, sigma_denoiser)


class _Linear(torch.autograd.Function):
    """A linear function of JAX in PyTorch, differentiated by its transpose."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, function: Callable, transpose: Callable) -> torch.Tensor:
        ctx.reverse = (transpose, function)
        return _to_torch(function(to_jax(x)))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _Linear.apply(gradient, *ctx.reverse), None, None


@jax.jit
def _apply(A: Operator, x: jax.Array) -> jax.Array:
    return A(x)


@jax.jit
def _apply_adjoint(A: Operator, y: jax.Array) -> jax.Array:
    return A.adjoint(y)


def _method(restore: Callable[[OurPhysics, float], torch.Tensor]) -> Method:
    """Our method of one of deepinv's."""

    def method(y: jax.Array, A: Operator, noise_std: float) -> jax.Array:
        return to_jax(restore(OurPhysics(y, A, noise_std), noise_std).movedim(1, -1))

    return method


def _network(make: Callable[..., torch.nn.Module], weights: Weights) -> torch.nn.Module:
    """The network with its weights, for inference."""
    try:
        network = make(pretrained=weights)
    except OSError as error:  # no network, no such file: deepinv's DownloadError is one
        raise Unavailable(
            f"the weights of {make.__name__} cannot be had ({error}); deepinv downloads them from huggingface.co, "
            "or give weights=FILE"
        ) from error
    return network.to(_device()).eval().requires_grad_(False)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _to_torch(array: jax.Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32)).to(_device())
