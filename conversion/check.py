"""See whether a converted prior restores: a test image, the same on every machine."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

import hvae_jax as hj
from hvae_jax.metrics import psnr
from hvae_jax.prior import Prior

SIDE = 128
"""Of the test image for priors of any size, or the next multiple that they take."""

ITERATIONS = 5
"""Enough to see a restoration, few enough for a large model without an accelerator."""


def check(prior: Prior, echo: Callable[[str], None]) -> int:
    """Deblur a test image and print what came out; the same numbers come from the same weights.

    Args:
        prior: the prior.
        echo: prints a line.

    Returns:
        0, or 1 where a number is not finite.
    """
    side = prior.image_size or -(-SIDE // prior.multiple) * prior.multiple
    image = test_image(side)
    blur = hj.operators.Blur(hj.images.parse_kernel("gaussian:1.6", (side, side)))
    noise_std = 8 / 255
    y = blur(image) + noise_std * np.random.default_rng(0).standard_normal(image.shape).astype(np.float32)
    config = hj.recommended_config(prior, noise_std, blur).replace(max_iterations=ITERATIONS)
    encoding = hj.encode(prior, image, config.temperature)
    out = hj.restore(prior, y, blur, noise_std, config)
    log_prior = float(encoding.log_prior.sum()) / image.size
    decoded, before, after = (float(psnr(x[None], image[None])[0]) for x in (encoding.mean, y, out.image))
    echo(f"encoding: log p(z) {log_prior:.6f} nats per number, decoded to {decoded:.3f} dB of the image")
    echo(f"restoring, {ITERATIONS} iterations: {before:.3f} dB -> {after:.3f} dB, mean {float(out.image.mean()):.6f}")
    if not np.isfinite([log_prior, decoded, after]).all() or out.status == hj.Status.NOT_FINITE:
        echo("some of these numbers are not finite: the checkpoint is damaged, or of another architecture")
        return 1
    return 0


def test_image(side: int) -> jnp.ndarray:
    """A picture with what a photograph has: shading, edges, lines and texture; shape (side, side, 3), in [0, 1]."""
    v, u = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
    shade = 0.45 + 0.2 * u - 0.15 * v
    disk = np.hypot(u + 0.2, v + 0.1) < 0.45
    texture = 0.06 * np.sin(24 * u * (1 + v)) * (v > 0.3)
    stripes = 0.25 * (np.abs(np.mod(6 * (u - v), 1) - 0.5) < 0.12) * (u > 0.45)
    grey = np.where(disk, 0.75 - 0.3 * np.hypot(u, v), shade) + texture - stripes
    colour = np.stack([grey + 0.08 * disk, grey, grey - 0.06 * disk + 0.05 * u], axis=-1)
    return jnp.asarray(np.clip(colour, 0, 1), jnp.float32)
