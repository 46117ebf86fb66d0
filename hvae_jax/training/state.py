"""The state of training and one step of it."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt8

from hvae_jax.models.blocks import scan_unroll
from hvae_jax.models.patch_vdvae import PRESETS, PatchVDVAE
from hvae_jax.training.config import OptimizerConfig, TrainConfig
from hvae_jax.training.data import Store, random_crops
from hvae_jax.training.loss import LossTerms, loss_fn


class TrainState(NamedTuple):
    """Everything that a checkpoint holds.

    Attributes:
        step: number of steps taken.
        params: the parameters.
        ema: their exponential moving average.
        optimizer: optax's state.
        skipped: number of skipped steps.
    """

    step: Int[Array, ""]
    params: dict
    ema: dict
    optimizer: optax.OptState
    skipped: Int[Array, ""]


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Warm-up and cosine decay, clipping, Adam or Adamax, decoupled weight decay."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(config.warmup_steps, steps - 1),
        decay_steps=steps,
        end_value=config.final_fraction * config.learning_rate,
    )
    scale = optax.scale_by_adam() if config.name == "adam" else optax.scale_by_adamax()
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        scale,
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )


@partial(jax.jit, static_argnames="config")
def _initial_params(config: TrainConfig) -> dict:
    return PatchVDVAE(PRESETS[config.preset]).initialize(jax.random.key(config.seed))


def init_state(config: TrainConfig, params: dict | None = None) -> TrainState:
    """The state before the first step; random parameters if None are given, which are copied."""
    # Copies, for a step donates its buffers.
    params = _initial_params(config) if params is None else jax.tree.map(jnp.array, params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        optimizer=make_optimizer(config.optimizer, config.steps).init(params),
        skipped=jnp.zeros((), jnp.int32),
    )


def dispatch_length(config: TrainConfig, step: int) -> int:
    """Number of steps from `step` to the end of the dispatch, which is a multiple of `steps_per_dispatch`."""
    length = 1 if _on_cpu() else config.steps_per_dispatch
    return min(length - step % length, config.steps - step)


@partial(jax.jit, static_argnames=("count", "config"), donate_argnames="state")
def train_steps(
    state: TrainState, store: Store, count: int, config: TrainConfig
) -> tuple[TrainState, LossTerms, Float[Array, " K"]]:
    """Several optimizer steps on random crops, as one program.

    Args:
        state: the state; its buffers are donated.
        store: the photographs.
        count: number of steps K.
        config: the run's settings.

    Returns:
        The next state, and each step's terms of the loss and norm of the gradient.
    """

    def body(state: TrainState, _: None) -> tuple[TrainState, tuple[LossTerms, Array]]:
        images = random_crops(store, _keys(config, state)[0], config.batch_size, config.crop_size)
        state, terms, norm = train_step(state, images, config)
        return state, (terms, norm)

    state, (terms, norms) = jax.lax.scan(body, state, length=count, unroll=scan_unroll(count, _on_cpu()))
    return state, terms, norms


def train_step(
    state: TrainState, images: UInt8[Array, "B H W C"], config: TrainConfig
) -> tuple[TrainState, LossTerms, Float[Array, ""]]:
    """One optimizer step.

    A step whose loss or gradient is not finite, or whose gradient is larger than `skip_norm`, changes nothing but
    the counts.
    Randomness depends on the seed and the step's number alone, so a resumed run repeats what it would have done.

    Args:
        state: the state.
        images: 8-bit crops.
        config: the run's settings.

    Returns:
        The next state, the loss's terms, and the norm of the gradient.
    """
    dtype = jnp.float32 if _on_cpu() else config.compute_dtype
    model = PatchVDVAE(PRESETS[config.preset], unroll=_on_cpu(), dtype=dtype)
    floats = images.astype(jnp.float32) / 255
    grad_fn = jax.grad(loss_fn, has_aux=True)
    gradient, terms = grad_fn(state.params, model, floats, _keys(config, state)[1], state.step, config.loss)
    norm = optax.tree.norm(gradient)
    ok = jnp.isfinite(terms.loss) & jnp.isfinite(norm)
    if config.optimizer.skip_norm is not None:
        ok &= norm < config.optimizer.skip_norm

    optimizer = make_optimizer(config.optimizer, config.steps)
    updates, opt_state = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    # A short memory at the start, or the average would remember the initial weights.
    decay = jnp.minimum(config.optimizer.ema_decay, (1 + state.step) / (10 + state.step))
    ema = optax.incremental_update(params, state.ema, 1 - decay)
    new = (params, ema, opt_state)
    old = (state.params, state.ema, state.optimizer)
    params, ema, opt_state = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
    return TrainState(state.step + 1, params, ema, opt_state, state.skipped + ~ok), terms, norm


def _keys(config: TrainConfig, state: TrainState) -> Array:
    """The keys of a step: of its crops and of its loss."""
    return jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step))


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
