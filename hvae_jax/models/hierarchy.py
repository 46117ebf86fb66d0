"""The top-down pass of a hierarchical VAE, scanned over the levels of each resolution, and its latent rules.

Training, Algorithm 1, posterior sampling, generation and the evaluation of log p(z) are one pass: at level l it
forms the prior p(z_l|z_<l) and, where an image was encoded, the posterior q(z_l|z_<l, x); a *latent rule* chooses
z_l; z_l is merged. A model supplies the blocks (`LatentBlock`), this module everything else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hvae_jax import gaussian
from hvae_jax.gaussian import Gaussian, per_image
from hvae_jax.models.blocks import scan_unroll


class LevelInputs(NamedTuple):
    """What the rules may use; per level on axis 1 outside the scan, one level's share inside it.

    Attributes:
        temperature: τ_l, shape (B or 1, L).
        beta: β of eq. 18, shape (B or 1, L).
        noise: keys (B, L), or standard normal draws per resolution (B, n, h, w, c); None where nothing is drawn.
        latent: given latents per resolution (B, n, h, w, c), or None.
    """

    temperature: Any
    beta: Any
    noise: Any
    latent: Any


class LevelOutputs(NamedTuple):
    """What a level reports; None where it was not collected.

    Attributes:
        latent: z_l.
        log_prior: log p(z_l|z_<l), shape (B,).
        kl: KL(q ‖ p), shape (B,).
        prior: p(z_l|z_<l).
        posterior: q(z_l|z_<l, x).
    """

    latent: Array | None = None
    log_prior: Array | None = None
    kl: Array | None = None
    prior: Gaussian | None = None
    posterior: Gaussian | None = None


LatentRule = Callable[[Gaussian, Gaussian | None, LevelInputs], Array]
"""Chooses z_l from the prior, the posterior (None where no image was encoded) and the level's inputs."""


def posterior_sample(prior: Gaussian, posterior: Gaussian | None, inputs: LevelInputs) -> Array:
    """Z ~ q: training (ELBO), encoding."""
    return gaussian.sample(_encoded(posterior), inputs.noise)


def tempered_map(prior: Gaussian, posterior: Gaussian | None, inputs: LevelInputs) -> Array:
    """The maximum of q^β p^λ (eq. 18): Algorithm 1."""
    return _tempered(prior, posterior, inputs).mean


def tempered_sample(prior: Gaussian, posterior: Gaussian | None, inputs: LevelInputs) -> Array:
    """Z ~ q^β p^λ: posterior sampling."""
    return gaussian.sample(_tempered(prior, posterior, inputs), inputs.noise)


def prior_sample(prior: Gaussian, posterior: Gaussian | None, inputs: LevelInputs) -> Array:
    """Z ~ N(m_p, τ² Σ_p): generation."""
    scaled = Gaussian(prior.mean, prior.std * per_image(inputs.temperature, prior.std))
    return gaussian.sample(scaled, inputs.noise)


def given(prior: Gaussian, posterior: Gaussian | None, inputs: LevelInputs) -> Array:
    """The caller's z_l: J1 (eq. 15), the Adam baseline."""
    return inputs.latent


def _encoded(posterior: Gaussian | None) -> Gaussian:
    if posterior is None:
        raise ValueError("expected the activations of an encoded image for this latent rule, got None")
    return posterior


def _tempered(prior: Gaussian, posterior: Gaussian | None, inputs: LevelInputs) -> Gaussian:
    q = _encoded(posterior)
    return gaussian.tempered_product(q, prior, per_image(inputs.temperature, q.mean), per_image(inputs.beta, q.mean))


class LatentBlock(nn.Module):
    """One level. A model's block says how prior, posterior and merge work; the pass is the same for all."""

    def prior(self, h: Array) -> tuple[Gaussian, Array]:
        """p(z_l|z_<l) and the state with the deterministic features added."""
        raise NotImplementedError

    def posterior(self, h: Array, activation: Array) -> Gaussian:
        """q(z_l|z_<l, x) from the state before its features were added, and the encoder's activation."""
        raise NotImplementedError

    def merge(self, h: Array, z: Array) -> Array:
        """The state after z_l."""
        raise NotImplementedError

    def __call__(
        self,
        h: Array,
        activation: Array | None,
        inputs: LevelInputs,
        rule: LatentRule,
        collect: frozenset[str],
    ) -> tuple[Array, LevelOutputs]:
        """Pass one level; `collect` names the fields of `LevelOutputs` to report."""
        prior, features = self.prior(h)
        posterior = None if activation is None else self.posterior(h, activation)
        z = rule(prior, posterior, inputs)
        outputs = LevelOutputs(
            latent=z if "latent" in collect else None,
            log_prior=gaussian.log_density(z, prior) if "log_prior" in collect else None,
            kl=gaussian.kl_divergence(_encoded(posterior), prior) if "kl" in collect else None,
            prior=prior if "prior" in collect else None,
            posterior=posterior if "posterior" in collect else None,
        )
        return self.merge(features, z), outputs


def scan_levels(block: type[LatentBlock], levels: int, unroll: bool, **attributes: Any) -> LatentBlock:
    """`levels` blocks of one resolution as one scan over stacked parameters.

    The compiled program's size does not depend on `levels`.

    Args:
        block: the model's block.
        levels: how many.
        unroll: see `scan_unroll`.
        **attributes: the block's attributes.

    Returns:
        A module with `LatentBlock`'s signature, for `run_levels`.
    """
    scanned = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        # h is the carry; activation, rule and collect are the same for all levels
        in_axes=(nn.broadcast, 1, nn.broadcast, nn.broadcast),
        out_axes=1,
        length=levels,
        unroll=scan_unroll(levels, unroll),
    )
    return scanned(**attributes)


class TopDown(NamedTuple):
    """Result of a top-down pass.

    Attributes:
        features: the state after the last level, shape (B, h, w, c).
        latents: per resolution, coarsest first, z of its levels, shape (B, n, h, w, c); empty if not collected.
        log_prior: log p(z_l|z_<l) of each level, shape (B, L), or None.
        kl: KL(q ‖ p) of each level, shape (B, L), or None.
        prior: per resolution, p(z_l|z_<l), arrays as in `latents`.
        posterior: per resolution, q(z_l|z_<l, x).
        states: per resolution, the state after its last level.
    """

    features: Array
    latents: tuple[Array, ...]
    log_prior: Float[Array, "B L"] | None
    kl: Float[Array, "B L"] | None
    prior: tuple[Gaussian, ...]
    posterior: tuple[Gaussian, ...]
    states: tuple[Array, ...]


@dataclass(frozen=True)
class Pass:
    """The settings of one top-down pass: which rule, and its inputs per level.

    Attributes:
        rule: chooses z_l.
        temperature: τ, shape (B or 1, L).
        beta: β of eq. 18, shape (B or 1,).
        noise: keys (B, L), or standard normal draws per resolution, or None.
        latents: given latents per resolution, or None.
        collect: names of `LevelOutputs` fields to report.
    """

    rule: LatentRule
    temperature: Float[Array, "#B L"]
    beta: Float[Array, "#B"]
    noise: Any = None
    latents: Sequence[Array] | None = None
    collect: frozenset[str] = frozenset()

    def inputs(self, resolution: int, first: int, start: int, stop: int) -> LevelInputs:
        """The inputs of levels start..stop of a resolution whose first level is `first`."""

        def of_all(x: Array) -> Array:
            return x[:, start:stop]

        def of_resolution(x: Sequence[Array]) -> Array:
            return x[resolution][:, start - first : stop - first]

        noise = self.noise
        if noise is not None:
            noise = of_resolution(noise) if isinstance(noise, (tuple, list)) else of_all(noise)
        return LevelInputs(
            temperature=of_all(self.temperature),
            beta=jnp.broadcast_to(self.beta[:, None], (self.beta.shape[0], stop - start)),
            noise=noise,
            latent=None if self.latents is None else of_resolution(self.latents),
        )


def run_levels(
    block: LatentBlock, h: Array, activation: Array | None, settings: Pass, inputs: LevelInputs
) -> tuple[Array, LevelOutputs]:
    """Run a block built by `scan_levels` over its levels; outputs get the levels on axis 1."""
    return block(h, activation, inputs, settings.rule, settings.collect)


def run_level(
    block: LatentBlock, h: Array, activation: Array | None, settings: Pass, inputs: LevelInputs
) -> tuple[Array, LevelOutputs]:
    """Run a single unscanned block (one whose parameters have another shape), with the same outputs."""
    one = jax.tree.map(lambda x: x[:, 0], inputs)
    h, outputs = block(h, activation, one, settings.rule, settings.collect)
    return h, jax.tree.map(lambda x: x[:, None], outputs)


def join(states: Sequence[Array], outputs: Sequence[LevelOutputs]) -> TopDown:
    """Put the resolutions' outputs together."""

    def concatenate(name: str) -> Array | None:
        parts = [getattr(output, name) for output in outputs]
        return None if parts[0] is None else jnp.concatenate(parts, axis=1)

    def collected(name: str) -> tuple:
        return tuple(getattr(output, name) for output in outputs if getattr(output, name) is not None)

    return TopDown(
        features=states[-1],
        latents=collected("latent"),
        log_prior=concatenate("log_prior"),
        kl=concatenate("kl"),
        prior=collected("prior"),
        posterior=collected("posterior"),
        states=tuple(states),
    )
