"""The state of training and one step of it."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from hvae_jax.models.blocks import scan_unroll
from hvae_jax.models.patch_vdvae import PatchVDVAE, PatchVDVAEConfig
from hvae_jax.training import iterates
from hvae_jax.training.config import OptimizerConfig, TrainConfig
from hvae_jax.training.data import Store, random_crops
from hvae_jax.training.devices import everywhere, on_shares, shardings, split
from hvae_jax.training.iterates import Restorations
from hvae_jax.training.loss import LossTerms, loss_fn


class TrainState(NamedTuple):
    """Everything that a checkpoint holds.

    Attributes:
        step: number of steps taken.
        params: the parameters.
        ema: their exponential moving average.
        optimizer: optax's state.
        skipped: number of skipped steps.
        restorations: those whose iterates are trained on; None without.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    ema: dict[str, Any]
    optimizer: optax.OptState
    skipped: Int[Array, ""]
    restorations: Restorations | None


def make_optimizer(config: OptimizerConfig, steps: int, params: dict[str, Any]) -> optax.GradientTransformation:
    """Warm-up, constant rate and decay, clipping, Adam, Adamax or Muon, decoupled weight decay."""
    schedule = learning_rate(config, steps)
    if config.name == "muon":
        scaled = optax.contrib.muon(
            schedule,
            adam_learning_rate=schedule,
            weight_decay=config.weight_decay,
            adam_weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=_kernel_axes(params),
            # The scale of Moonlight (Liu et al. 2025), with which Adam's learning rates hold.
            consistent_rms=0.2,
        )
    else:
        scaled = optax.chain(
            optax.scale_by_adam() if config.name == "adam" else optax.scale_by_adamax(),
            optax.add_decayed_weights(config.weight_decay),
            optax.scale_by_learning_rate(schedule),
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), scaled)


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate at each step: a linear warm-up, then a cosine, or a constant that falls linearly at the end."""
    peak, last = config.learning_rate, config.final_fraction * config.learning_rate
    warmup = min(config.warmup_steps, steps - 1)
    if config.decay_steps is None:
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, decay_steps=steps, end_value=last)
    rise = optax.linear_schedule(0.0, peak, warmup) if warmup else optax.constant_schedule(peak)
    if not config.decay_steps:
        return rise
    fall = optax.linear_schedule(1.0, config.final_fraction, config.decay_steps, steps - config.decay_steps)
    return lambda step: rise(step) * fall(step)


def _kernel_axes(params: dict[str, Any]) -> dict[str, Any]:
    """The axes of each kernel's inputs and outputs, for Muon; None for what is no kernel."""
    axes: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            axes[name] = _kernel_axes(value)
        elif name == "kernel":
            scanned = params["bias"].ndim - 1  # a scan's axes come first; the bias has no others
            last = value.ndim - 1
            axes[name] = optax.contrib.MuonDimensionNumbers(tuple(range(scanned, last)), last)
        else:
            axes[name] = None
    return axes


def initial_params(config: TrainConfig) -> dict[str, Any]:
    """Random parameters."""
    return _initialize(jax.random.key(config.seed), config.architecture)


@partial(jax.jit, static_argnames="architecture")
def _initialize(key: Array, architecture: PatchVDVAEConfig) -> dict[str, Any]:
    return PatchVDVAE(architecture).initialize(key)


def init_state(config: TrainConfig, params: dict[str, Any] | None = None) -> TrainState:
    """The state before the first step; random parameters if None are given, which are copied."""
    # Copies, for a step donates its buffers.
    params = initial_params(config) if params is None else jax.tree.map(jnp.array, params)
    restorations = None
    if config.iterates:
        # Of empty images, to be replaced one after the other, so that they are not all at the same iteration.
        empty = jnp.zeros((config.iterates, config.crop_size, config.crop_size, 3))
        phase = iterates.ITERATIONS - jnp.arange(config.iterates) % iterates.ITERATIONS
        restorations = iterates.start(jax.random.key(config.seed), empty)._replace(iteration=phase)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        optimizer=make_optimizer(config.optimizer, config.steps, params).init(params),
        skipped=jnp.zeros((), jnp.int32),
        restorations=restorations,
    )


def grown(params: dict[str, Any], larger: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a larger model that compute what those of a smaller one do.

    What the larger model may have more of is residual bottlenecks, which start as the identity.

    Args:
        params: of the smaller model.
        larger: random parameters of the larger one.

    Returns:
        Parameters of the larger model.

    Raises:
        ValueError: the models differ in something else.

    Source: Chen et al., "Net2Net: accelerating learning via knowledge transfer", ICLR 2016.
    """
    small = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    large = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(larger)}
    wrong = [name for name in small.keys() | large.keys() if not _grows(name, small.get(name), large.get(name))]
    if wrong:
        shapes = [jnp.shape(tree[min(wrong)]) if min(wrong) in tree else "none" for tree in (large, small)]
        raise ValueError(
            f"expected initial parameters of the model or of one with fewer residual blocks; {len(wrong)} do not fit, "
            f"first {min(wrong)}: expected {shapes[0]}, got {shapes[1]}"
        )

    def place(path: tuple, leaf: Array) -> Array | np.ndarray:
        given = small.get(jax.tree_util.keystr(path))
        if given is not None and given.shape == leaf.shape:
            return given
        # What is new gives zero, by its last convolution.
        leaf = jnp.zeros_like(leaf) if "conv_3" in jax.tree_util.keystr(path) else leaf
        return leaf if given is None else leaf.at[: given.shape[0]].set(given)

    return jax.tree_util.tree_map_with_path(place, larger)


def _grows(name: str, small: Array | np.ndarray | None, large: Array | np.ndarray | None) -> bool:
    if large is None:
        return False
    if small is None:
        return "deterministic_blocks" in name
    if small.shape == large.shape:
        return True
    return "encode_blocks" in name and small.shape[1:] == large.shape[1:] and small.shape[0] < large.shape[0]


def dispatch_length(config: TrainConfig, step: int) -> int:
    """Number of steps from `step` to the end of the dispatch, which is a multiple of `steps_per_dispatch`."""
    length = 1 if _on_cpu() else config.steps_per_dispatch
    return min(length - step % length, config.steps - step)


@partial(jax.jit, static_argnames=("count", "config", "mesh"), donate_argnames="state")
def train_steps(
    state: TrainState, store: Store, key: Array, count: int, config: TrainConfig, mesh: Mesh | None = None
) -> tuple[TrainState, LossTerms, Float[Array, " K"]]:
    """Several optimizer steps on random crops, as one program.

    Args:
        state: the state; its buffers are donated.
        store: the photographs.
        key: of the run.
        count: number of steps K.
        config: the run's settings, whose seed has no influence.
        mesh: the devices that share a batch; None for one device.

    Returns:
        The next state, and each step's terms of the loss and norm of the gradient.
    """

    def body(state: TrainState, _: None) -> tuple[TrainState, tuple[LossTerms, Array]]:
        images = random_crops(store, _keys(key, state)[0], config.batch_size, config.crop_size)
        state, terms, norm = train_step(state, images, key, config, mesh)
        return state, (terms, norm)

    state, (terms, norms) = jax.lax.scan(body, state, length=count, unroll=scan_unroll(count, _on_cpu()))
    if mesh is not None:  # each array where it was, so that the next call finds the same program
        layout = (shardings(state, mesh), everywhere(mesh), everywhere(mesh))
        state, terms, norms = jax.lax.with_sharding_constraint((state, terms, norms), layout)
    return state, terms, norms


def train_step(
    state: TrainState, images: UInt8[Array, "B H W C"], key: Array, config: TrainConfig, mesh: Mesh | None = None
) -> tuple[TrainState, LossTerms, Float[Array, ""]]:
    """One optimizer step.

    A step whose loss or gradient is not finite, or whose gradient is larger than `skip_norm`, changes nothing but
    the counts.
    Randomness depends on the run's key and the step's number alone, so a resumed run repeats what it would have done.

    Args:
        state: the state.
        images: 8-bit crops.
        key: of the run.
        config: the run's settings, whose seed has no influence.
        mesh: the devices that share a batch; None for one device.

    Returns:
        The next state, the loss's terms, and the norm of the gradient.
    """
    dtype = jnp.float32 if _on_cpu() else config.compute_dtype
    model = PatchVDVAE(config.architecture, unroll=_on_cpu(), dtype=dtype)
    key = _keys(key, state)[1]
    floats = split(images, mesh).astype(jnp.float32) / 255
    restorations, inputs = state.restorations, None
    if restorations is not None:
        key, key_renew = jax.random.split(key)
        restorations = iterates.renew(restorations, key_renew, floats[: config.iterates], mesh)
        floats = split(jnp.concatenate([restorations.image, floats[config.iterates :]]), mesh)
        inputs = on_shares(iterates.encoder_input, mesh)(restorations)
    grad_fn = jax.grad(loss_fn, has_aux=True)
    gradient, (terms, mean) = grad_fn(state.params, model, floats, key, state.step, config.loss, inputs)
    if restorations is not None:
        restorations = iterates.advance(restorations, mean[: config.iterates])
    norm = optax.tree.norm(gradient)
    ok = jnp.isfinite(terms.loss) & jnp.isfinite(norm)
    if config.optimizer.skip_norm is not None:
        ok &= norm < config.optimizer.skip_norm

    optimizer = make_optimizer(config.optimizer, config.steps, state.params)
    updates, opt_state = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    # A short memory at the start, or the average would remember the initial weights.
    decay = jnp.minimum(config.optimizer.ema_decay, (1 + state.step) / (10 + state.step))
    ema = optax.incremental_update(params, state.ema, 1 - decay)
    new = (params, ema, opt_state)
    old = (state.params, state.ema, state.optimizer)
    params, ema, opt_state = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
    return TrainState(state.step + 1, params, ema, opt_state, state.skipped + ~ok, restorations), terms, norm


def _keys(key: Array, state: TrainState) -> Array:
    """The keys of a step: of its crops and of its loss."""
    return jax.random.split(jax.random.fold_in(key, state.step))


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
