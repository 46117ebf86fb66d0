"""The training objective: the ELBO (eq. 4) with a Gaussian decoder, and its options."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from hvae_jax import gaussian
from hvae_jax.likelihood import GaussianDecoder
from hvae_jax.models import hierarchy
from hvae_jax.models.blocks import average_pool
from hvae_jax.models.hierarchy import Pass
from hvae_jax.models.patch_vdvae import PatchVDVAE
from hvae_jax.training.config import LossConfig


class LossTerms(NamedTuple):
    """What a step reports, averaged over the batch.

    Attributes:
        loss: what is minimised, in nats per image value.
        reconstruction: -log p(x|z), in nats per image value.
        kl: KL of each level, in nats per image value, shape (L,).
        bits_per_dim: -ELBO in bits per image value of 256 levels.
        psnr: of the decoded mean, in dB.
    """

    loss: Float[Array, ""]
    reconstruction: Float[Array, ""]
    kl: Float[Array, " L"]
    bits_per_dim: Float[Array, ""]
    psnr: Float[Array, ""]


def elbo_terms(
    target: Float[Array, "B H W C"], decoder: GaussianDecoder, kl: Float[Array, "B L"], normalizer: float
) -> tuple[Float[Array, ""], Float[Array, " L"]]:
    """The two terms of the negative ELBO (eq. 4), averaged over the batch.

    Args:
        target: images in the network's unit.
        decoder: p(x|z) in the same unit.
        kl: KL(q ‖ p) of each level and image, in nats.
        normalizer: what both are divided by; the official code uses 128²·3.

    Returns:
        -E log p(x|z) and KL per level, divided by `normalizer`.
    """
    return jnp.mean(decoder.nll(target)) / normalizer, jnp.mean(kl, axis=0) / normalizer


def kl_weights(kl: Float[Array, " L"], step: Real[Array, ""], config: LossConfig) -> Float[Array, " L"]:
    """Weights of the levels' KL: the β schedule times the γ schedule.

    β rises linearly from `beta_min` to 1. During the first `gamma_steps` the levels are balanced: a level's
    weight is proportional to its KL, with mean 1, so that levels near collapse are hardly penalised.

    Args:
        kl: KL of each level.
        step: number of the step.
        config: the schedules.

    Returns:
        One weight per level.

    Source:
        Hazami et al. 2022 (Efficient-VDVAE); the γ schedule is that of Vahdat & Kautz 2020 (NVAE). The official
        code's slope of β is 1/(beta_start + beta_steps), and it balances the KL per latent value.
    """
    beta = jnp.ones(())
    if config.beta_steps:
        beta = jnp.clip((step - config.beta_start) / config.beta_steps, config.beta_min, 1.0)
    gamma = jnp.ones_like(kl)
    if config.gamma_steps:
        balanced = jax.lax.stop_gradient(kl / jnp.maximum(jnp.mean(kl), 1e-12))
        gamma = jnp.where(step < config.gamma_steps, balanced, gamma)
    return beta * gamma


def loss_fn(
    params: dict[str, Any],
    model: PatchVDVAE,
    images: Float[Array, "B H W C"],
    key: Array,
    step: Real[Array, ""],
    config: LossConfig,
    iterates: tuple[Float[Array, "n H W C"], Float[Array, " n"]] | None = None,
) -> tuple[Float[Array, ""], tuple[LossTerms, Float[Array, "B H W C"]]]:
    """The loss of a batch.

    With `noise_max` the encoder sees x + s n and must reconstruct x, the noise level s being drawn per image.

    Args:
        params: the model's parameters.
        model: the model.
        images: in [0, 1].
        key: for noise and latents.
        step: number of the step, for the schedules.
        config: the objective.
        iterates: encoder inputs of the first n images and their noise levels, in place of white noise.

    Returns:
        The loss, its terms and the decoded means, in [0, 1].
    """
    batch = images.shape[0]
    key_level, key_noise, key_target, key_latents = jax.random.split(key, 4)
    u = jax.random.uniform(key_level, (batch,), images.dtype)
    noise_level = config.noise_max * u**config.noise_power
    observed = images
    if config.noise_max:
        noise = jax.random.normal(key_noise, images.shape, images.dtype)
        observed = images + noise_level[:, None, None, None] * noise
    if iterates is not None:
        inputs, levels_of_inputs = iterates
        count = inputs.shape[0]
        observed = jnp.concatenate([inputs, observed[count:]])
        noise_level = jnp.concatenate([levels_of_inputs, noise_level[count:]])
    if config.dequantization_std:
        images = images + config.dequantization_std * jax.random.normal(key_target, images.shape, images.dtype)
    target = model.to_network(images)

    levels = model.config.levels
    settings = Pass(
        rule=hierarchy.posterior_sample,
        temperature=jnp.ones((1, levels)),
        beta=jnp.ones((1,)),
        noise=jax.random.split(key_latents, (batch, levels)),
        collect=frozenset({"kl"}),
    )
    apply: Any = partial(model.apply, {"params": params})
    decoder, result = apply(observed, settings, noise_level)
    size = math.prod(images.shape[1:])

    extra = jnp.zeros(())
    if config.decoder_std is not None:
        # Fit the deviation head to what the model does, without letting it change the rest.
        head = apply(jax.lax.stop_gradient(result.features), method="decode")
        fitted = GaussianDecoder(jax.lax.stop_gradient(head.mean), head.std)
        extra += jnp.mean(fitted.nll(target)) / size
        std = 2 * jnp.sqrt(config.decoder_std**2 + (config.decoder_std_slope * noise_level) ** 2)
        decoder = GaussianDecoder(decoder.mean, jnp.broadcast_to(std[:, None, None, None], target.shape))
    if model.config.auxiliary_heads and config.auxiliary_weight:
        heads = apply(result.states, method="predict_pooled")
        for head in heads:
            pooled = average_pool(target, target.shape[1] // head.shape[1])
            error = gaussian.sum_per_image((head - pooled) ** 2)
            extra += config.auxiliary_weight * jnp.mean(error) / (2 * (2 * config.auxiliary_std) ** 2) / size

    reconstruction, kl = elbo_terms(target, decoder, result.kl, size)
    loss = reconstruction + jnp.sum(kl_weights(kl, step, config) * kl) + extra
    mean = model.to_image(decoder).mean
    mse = jnp.mean(((mean - images) ** 2).reshape(batch, -1), axis=1)
    terms = LossTerms(
        loss=loss,
        reconstruction=reconstruction,
        kl=kl,
        # The network's unit is 127.5 grey levels.
        bits_per_dim=(reconstruction + jnp.sum(kl)) / math.log(2) + math.log2(127.5),
        psnr=jnp.mean(-10 * jnp.log10(mse)),
    )
    return loss, (terms, mean)
