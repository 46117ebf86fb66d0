"""Deblur with deepinv's DPIR (half-quadratic splitting), the denoiser being the prior: needs the extra `peers`.

python examples/ecosystem/deepinv_dpir.py
"""

from pathlib import Path

import deepinv
import numpy as np
import torch

import hvae_jax as hj

SIGMA = 7.65 / 255


def main(side: int = 256) -> tuple[float, float]:
    """Deblur, and print PSNR before and after."""
    picture = hj.read_photograph(Path(__file__).parents[1] / "sharp.png").pixels[:side, :side]
    sharp = torch.from_numpy(np.ascontiguousarray(np.moveaxis(picture, -1, 0)))[None]
    kernel = torch.from_numpy(hj.images.parse_kernel("gaussian:1.6"))[None, None]
    noise = deepinv.physics.GaussianNoise(SIGMA, rng=torch.Generator().manual_seed(0))
    physics = deepinv.physics.BlurFFT(sharp.shape[1:], filter=kernel, noise_model=noise)
    y = physics(sharp)

    denoiser = hj.interop.as_deepinv(hj.as_denoiser(hj.load_prior()))
    model = deepinv.optim.DPIR(sigma=SIGMA, denoiser=denoiser)
    with torch.no_grad():
        restored = model(y, physics)

    psnr = deepinv.metric.PSNR()
    before, after = float(psnr(y, sharp)), float(psnr(restored, sharp))
    print(f"PSNR {before:.2f} -> {after:.2f} dB")
    return before, after


if __name__ == "__main__":
    main()
