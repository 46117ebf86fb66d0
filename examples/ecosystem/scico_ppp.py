"""Deblur with scico's plug-and-play ADMM, the denoiser being the prior: needs scico.

    python examples/ecosystem/scico_ppp.py

scico 0.0.7 takes JAX up to 0.8.1, so that it wants an environment of its own: pip install . scico
"""

from pathlib import Path

import numpy as np
import scico.numpy as snp
from scico import functional, linop, loss, metric
from scico.optimize.admm import ADMM, LinearSubproblemSolver

import hvae_jax as hj

SIGMA = 7.65 / 255
STRENGTH = 40 / 255  # what the denoiser takes for noise; the best of 8, 12, 20, 30, 40 and 50 for this picture
RHO = (SIGMA / STRENGTH) ** 2  # so that a step weighs the observation's noise against that


class Prior(functional.Functional):
    """The pseudo-functional whose proximal operator is the prior."""

    has_eval, has_prox = False, True

    def __init__(self, denoiser: hj.Denoiser) -> None:
        self._denoise = denoiser
        super().__init__()

    def prox(self, v: snp.Array, lam: float = 1.0, **kwargs: object) -> snp.Array:
        """Denoise v, which has noise of the deviation lam, as scico's other denoisers do."""
        return self._denoise(v, lam)


def main(side: int = 256, iterations: int = 12) -> tuple[float, float]:
    """Deblur, and print PSNR before and after."""
    sharp = snp.array(hj.read_photograph(Path(__file__).parents[1] / "sharp.png").pixels[:side, :side])
    kernel = hj.images.parse_kernel("gaussian:1.6")
    centre = [*(side // 2 for side in kernel.shape), 0]
    A = linop.CircularConvolve(snp.array(kernel[..., None]), sharp.shape, ndims=3, h_center=centre)
    y = A(sharp) + SIGMA * snp.array(np.random.default_rng(0).standard_normal(sharp.shape).astype(np.float32))

    solver = ADMM(
        f=loss.SquaredL2Loss(y=y, A=A),
        g_list=[RHO * STRENGTH * Prior(hj.as_denoiser(hj.load_prior()))],  # ADMM divides it by ρ
        C_list=[linop.Identity(input_shape=sharp.shape)],
        rho_list=[RHO],
        x0=A.T @ y,
        maxiter=iterations,
        subproblem_solver=LinearSubproblemSolver(cg_kwargs={"tol": 1e-3, "maxiter": 30}),
    )
    restored = snp.clip(solver.solve(), 0, 1)

    before, after = float(metric.psnr(sharp, y)), float(metric.psnr(sharp, restored))
    print(f"PSNR {before:.2f} -> {after:.2f} dB")
    return before, after


if __name__ == "__main__":
    main()
