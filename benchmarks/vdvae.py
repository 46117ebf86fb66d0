"""The full FFHQ-256 VDVAE with random weights: compiling scanned and unrolled, and one reconstruction beside PyTorch's.

    python -m benchmarks vdvae [--preset ffhq256] [--repeats 3] [--skip-unrolled]

PyTorch's column needs PyTorch (`pip install torch`); without it, it is left out. The two take turns, so that a busy
machine slows both.
"""

import argparse
import importlib.util
import resource
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.command import AddOption
from conversion import vdvae
from conversion.mapping import assemble, expand
from hvae_jax.encoding import reconstruct
from hvae_jax.models.vdvae import PRESETS, VDVAE, VDVAEConfig
from hvae_jax.prior import Prior

TEMPERATURE = 0.8


def official_shapes(config: VDVAEConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's tensors in OpenAI's layout."""
    template = jax.eval_shape(VDVAE(config).initialize, jax.random.key(0))
    shapes = {}
    for name, (path, layer) in expand(vdvae.rules(config)).items():
        leaf = template
        for key in path:
            leaf = leaf[key]
        shape = leaf.shape if layer is None else leaf.shape[1:]
        if path[-1] == "kernel":
            *sides, inputs, outputs = (1, 1, *shape)[-4:]
            shape = (outputs, inputs, *sides)
        elif len(shape) == 3:
            shape = (1, shape[2], *shape[:2])
        elif path[-1] == "gain" or name == "decoder.bias":
            shape = (1, *shape, 1, 1)
        shapes[name] = shape
    return shapes


def random_state(config: VDVAEConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict in OpenAI's layout, its weights such that activations neither vanish nor grow."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in official_shapes(config).items():
        if name == "decoder.gain":
            state[name] = np.ones(shape, np.float32)
        elif name.endswith("weight"):
            scale = np.float32(np.sqrt(0.3 / np.prod(shape[1:])))
            state[name] = scale * rng.standard_normal(shape, np.float32)
        elif name.startswith("decoder.bias_xs."):
            state[name] = 0.1 * rng.standard_normal(shape, np.float32)
        else:
            state[name] = np.zeros(shape, np.float32)
    return state


def random_prior(config: VDVAEConfig) -> tuple[Prior, dict[str, np.ndarray]]:
    """A prior of `random_state`, and the state."""
    state = random_state(config)
    template = jax.eval_shape(VDVAE(config).initialize, jax.random.key(0))
    params = jax.tree.map(jnp.asarray, assemble(state, expand(vdvae.rules(config)), template))
    return Prior(params, VDVAE(config)), state


def pytorch_reconstruct(config: VDVAEConfig, arrays: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Algorithm 1 and the decoded mean in plain PyTorch, from a state dict."""
    import torch
    import torch.nn.functional as F

    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    z = config.latent_channels
    precision_of_prior = 1 / TEMPERATURE**2 - 1

    def block(name, x, residual=False):
        h = x
        for k in range(1, 5):
            weight = state[f"{name}.c{k}.weight"]
            h = F.conv2d(F.gelu(h), weight, state[f"{name}.c{k}.bias"], padding=weight.shape[-1] // 2)
        return x + h if residual else h

    @torch.no_grad()
    def run(image: np.ndarray) -> np.ndarray:
        levels = torch.clamp(config.input_levels * torch.from_numpy(image.transpose(0, 3, 1, 2).copy()), 0, 255)
        h = (levels + config.input_shift) * config.input_scale
        h = F.conv2d(h, state["encoder.in_conv.weight"], state["encoder.in_conv.bias"], padding=1)
        activations, n = [], 0
        for i, r in reversed(list(enumerate(config.resolutions))):
            for _ in range(r.encoder_blocks):
                h = block(f"encoder.enc_blocks.{n}", h, residual=True)
                n += 1
            activations.insert(0, h)
            if i > 0:
                factor = r.size // config.resolutions[i - 1].size
                h = F.avg_pool2d(block(f"encoder.enc_blocks.{n}", h, residual=True), factor)
                n += 1
        coarse, level = None, 0
        for i, r in enumerate(config.resolutions):
            h = state[f"decoder.bias_xs.{i}"] if r.size <= config.no_bias_above else torch.zeros_like(activations[i])
            if coarse is not None:
                h = h + F.interpolate(coarse[:, : r.width], scale_factor=r.size // coarse.shape[-1])
            for _ in range(r.levels):
                name = f"decoder.dec_blocks.{level}"
                qm, qlogs = block(f"{name}.enc", torch.cat([h, activations[i]], 1)).chunk(2, 1)
                features = block(f"{name}.prior", h)
                pm, plogs, residual = features[:, :z], features[:, z : 2 * z], features[:, 2 * z :]
                sq, sp = torch.exp(-2 * qlogs), precision_of_prior * torch.exp(-2 * plogs)
                latent = (sq * qm + sp * pm) / (sq + sp)
                projected = F.conv2d(latent, state[f"{name}.z_proj.weight"], state[f"{name}.z_proj.bias"])
                h = block(f"{name}.resnet", h + residual + projected, residual=True)
                level += 1
            coarse = h
        h = h * state["decoder.gain"] + state["decoder.bias"]
        out = F.conv2d(h, state["decoder.out_net.out_conv.weight"], state["decoder.out_net.out_conv.bias"])
        out = out.permute(0, 2, 3, 1)
        k = config.mixtures
        weights = torch.softmax(out[..., None, :k], -1)
        rest = out[..., k:].reshape(*out.shape[:3], 3, 3 * k)
        means, c = rest[..., :k], torch.tanh(rest[..., 2 * k :])
        red, green, blue = means.unbind(3)
        own = [red, green + c[..., 0, :] * red, blue + c[..., 1, :] * red + c[..., 2, :] * green]
        mean = (weights * torch.stack(own, 3).clamp(-1, 1)).sum(-1)
        return torch.clamp((mean + 1) / 2 + config.mean_shift, 0, 1).numpy()

    return run


def seconds(function: Callable, *args) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - start


def compile_seconds(prior: Prior, image: jax.Array, unroll: bool) -> float:
    """Tracing, lowering and compiling one reconstruction."""
    model = VDVAE(prior.model.config, unroll=unroll)
    function = jax.jit(lambda params, x: reconstruct(Prior(params, model), x, TEMPERATURE))
    start = time.perf_counter()
    function.lower(prior.params, image).compile()
    return time.perf_counter() - start


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--preset", default="ffhq256", choices=sorted(PRESETS))
    add("--repeats", type=int, default=3)
    add("--skip-unrolled", action="store_true", help="do not measure the unrolled model's compiling")


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    config = PRESETS[args.preset]
    prior, state = random_prior(config)
    image = np.random.default_rng(1).uniform(size=(1, config.image_size, config.image_size, 3)).astype(np.float32)
    x = jnp.asarray(image)
    count = sum(leaf.size for leaf in jax.tree.leaves(prior.params))
    print(f"{args.preset}: {config.levels} levels, {count:,} parameters, jax {jax.__version__}, {jax.devices()[0]}")

    scanned = compile_seconds(prior, x, unroll=False)
    print(f"compiling, scanned: {scanned:.1f} s", flush=True)
    if not args.skip_unrolled:
        unrolled = compile_seconds(prior, x, unroll=True)
        print(f"compiling, unrolled: {unrolled:.1f} s ({unrolled / scanned:.1f} times as long)", flush=True)

    reconstruct(prior, x, TEMPERATURE).block_until_ready()
    torch = importlib.util.find_spec("torch") is not None
    official = pytorch_reconstruct(config, state) if torch else None
    ours, theirs = [], []
    for _ in range(args.repeats):
        ours.append(seconds(reconstruct, prior, x, TEMPERATURE))
        if official is not None:
            theirs.append(seconds(official, image))
    print(f"one reconstruction: {min(ours):.2f} s (all: {', '.join(f'{s:.2f}' for s in ours)})")
    if official is not None:
        difference = np.abs(official(image) - np.asarray(reconstruct(prior, x, TEMPERATURE))).max()
        print(f"the same in PyTorch: {min(theirs):.2f} s (all: {', '.join(f'{s:.2f}' for s in theirs)})")
        print(f"ours / PyTorch's: {min(ours) / min(theirs):.2f}; largest difference of the images {difference:.1e}")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
