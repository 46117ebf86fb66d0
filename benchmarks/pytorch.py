"""One evaluation of a network, HVAE(x, τ), beside the same weights in plain PyTorch, eager and compiled.

    python -m benchmarks pytorch --prior natural-medium,patch-vdvae,vdvae-ffhq256 --batches 1,8

Needs PyTorch (`pip install '.[peers]'`); its convolutions are oneDNN's. The three take turns, so that a busy machine
slows all.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import jax
import numpy as np

import hvae_jax as hj
from benchmarks.command import AddOption, add_out
from benchmarks.experiment import Run, machine
from benchmarks.priors import add_prior_options, noise_level_of, prior_of
from benchmarks.profile import arithmetic, matmul_peak
from benchmarks.vdvae import TEMPERATURE, pytorch_reconstruct, random_state
from hvae_jax.models.patch_vdvae import PatchVDVAEConfig
from hvae_jax.models.vdvae import VDVAEConfig
from hvae_jax.prior import Prior

Function = Callable[[np.ndarray], np.ndarray]

HEADER = [
    "prior",
    "batch",
    "ours (s)",
    "PyTorch, eager (s)",
    "PyTorch, compiled (s)",
    "ours / the faster one",
    "GFLOP",
    "ours, GFLOP/s over a matrix product's",
    "largest difference",
]


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add_prior_options(add, "natural-medium,patch-vdvae,vdvae-ffhq256")
    add("--batches", type=lambda text: [*map(int, text.split(","))], default=[1, 8], metavar="N,M")
    add("--repeats", type=int, default=5)
    add_out(add)


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    try:
        import torch
    except ImportError:
        raise ValueError("expected PyTorch, which is not installed: pip install 'hvae_jax[peers]'") from None
    torches = {"PyTorch": f"{torch.__version__}, {torch.get_num_threads()} threads"}
    results = Run("pytorch", "An evaluation beside PyTorch's", "", args.out, command, {**torches, **machine()})
    rows = []
    for name in args.prior:
        jax.clear_caches()
        torch.compiler.reset()
        prior = prior_of(name)
        eager, compiled = in_pytorch(name, prior)
        for batch in args.batches:
            rows.append([name, str(batch), *compare(prior, eager, compiled, batch, args)])
            print(" | ".join(rows[-1]), flush=True)
    results.table(f"Images of {args.size} x {args.size}, or of the prior's only size", HEADER, rows)
    results.finish(as_markdown=True)


def in_pytorch(name: str, prior: Prior) -> tuple[Function, Function]:
    """PyTorch's evaluation of a prior's weights, eager and compiled."""
    import torch

    config = prior.config
    if isinstance(config, VDVAEConfig):
        if not name.startswith("vdvae-"):
            raise ValueError(f"expected a VDVAE with random weights, as vdvae-ffhq256, got {name}")
        eager = pytorch_reconstruct(config, random_state(config))  # of which the prior was made
        return eager, torch.compile(eager, dynamic=False)

    from benchmarks.torch_patch_vdvae import TorchPatchVDVAE

    def on_arrays(model: Callable[[torch.Tensor], torch.Tensor], image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(image).permute(0, 3, 1, 2)  # its memory is that of channels last already
            return model(x).permute(0, 2, 3, 1).numpy()

    assert isinstance(config, PatchVDVAEConfig)
    params = jax.tree.map(np.asarray, prior.params)
    model = TorchPatchVDVAE(config, params, TEMPERATURE, noise_level_of(prior))
    model = model.eval().to(memory_format=torch.channels_last)
    return partial(on_arrays, model), partial(on_arrays, torch.compile(model, dynamic=False))


def compare(prior: Prior, eager: Function, compiled: Function, batch: int, args: argparse.Namespace) -> list[str]:
    """Seconds of the three, and how far they are apart."""
    side, level = prior.image_size or args.size, noise_level_of(prior)
    image = np.random.default_rng(0).random((batch, side, side, 3), np.float32)

    def evaluate(prior: Prior, image: jax.Array) -> jax.Array:
        return hj.reconstruct(prior, image, TEMPERATURE, noise_level=level)

    ways: dict[str, Function] = {
        "ours": lambda image: np.asarray(evaluate(prior, image)),
        "eager": eager,
        "compiled": compiled,
    }
    results = {way: function(image) for way, function in ways.items()}
    difference = max(float(np.abs(results[way] - results["ours"]).max()) for way in ("eager", "compiled"))
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.repeats):
        for way, function in ways.items():
            start = time.perf_counter()
            function(image)
            spent[way].append(time.perf_counter() - start)
    median = {way: float(np.median(seconds)) for way, seconds in spent.items()}
    flop = sum(arithmetic(jax.make_jaxpr(evaluate)(prior, image).jaxpr).values())
    return [
        *[f"{median[way]:.3f}" for way in ways],
        f"{median['ours'] / min(median['eager'], median['compiled']):.2f}",
        f"{flop / 1e9:.1f}",
        f"{flop / median['ours'] / matmul_peak():.2f}",
        f"{difference:.0e}",
    ]
