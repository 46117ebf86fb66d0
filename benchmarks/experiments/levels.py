"""Table 4: the number of latent groups at a constant number of parameters, trained at an equal budget."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import hvae_jax as hj
from benchmarks import problems
from benchmarks.experiment import score
from benchmarks.experiments.common import Options
from benchmarks.experiments.lipschitz import patches
from benchmarks.paper import TABLE_4
from hvae_jax import training
from hvae_jax.prior import Prior
from hvae_jax.training.config import LossConfig, OptimizerConfig, TrainConfig
from hvae_jax.training.loss import loss_fn

TITLE, PAPER = "Number of latent groups", "Table 4"
LEVELS = (6, 12, 18, 36)


def elbo(prior: Prior, images: np.ndarray, seed: int) -> float:
    """The mean ELBO of 64x64 patches, in nats per number."""
    evaluate = jax.jit(partial(loss_fn, model=prior.model, step=jnp.zeros(()), config=LossConfig()))
    x = patches(images, 64)
    batch = min(16, len(x))
    found = []
    for i in range(0, len(x) - len(x) % batch, batch):  # calls of one size
        key = jax.random.fold_in(jax.random.key(seed), i)
        _, (terms, _) = evaluate(prior.params, images=jnp.asarray(x[i : i + batch]), key=key)
        found.append(-float(terms.reconstruction + jnp.sum(terms.kl)))
    return float(np.mean(found))


def train(config: TrainConfig, options: Options, folder: Path, init: dict | None = None) -> Prior:
    """Train, or go on where an interruption left it.

    Args:
        config: the settings.
        options: the photographs, `data` and `files`.
        folder: of this training.
        init: parameters to start from; random if None.

    Returns:
        The prior.
    """
    console = Console(stderr=True)
    shown = console if console.is_terminal else None
    try:
        return training.train(config, photographs(options), folder, files=options.files, init=init, console=shown)
    except training.Interrupted as stop:  # with a checkpoint
        raise KeyboardInterrupt from stop


def photographs(options: Options) -> Path:
    """The folder of photographs to train on."""
    return options.data or problems.DATA / "images"


def run(options: Options) -> None:
    """Run it."""
    cases = list(problems.deblurring(options.images, options.seed, options.kernels))

    def measure(levels: int, folder: Path) -> dict[str, float]:
        config = TrainConfig(
            preset=f"table4-small-l{levels}",
            steps=options.steps,
            batch_size=8,
            crop_size=64,
            seed=options.seed,
            checkpoint_every=50,
            loss=LossConfig(beta_steps=options.steps // 4),
            optimizer=OptimizerConfig(name="adamax", learning_rate=2e-3, ema_decay=0.99),
        )
        prior = train(config, options, folder)
        found = {"ELBO": elbo(prior, options.images.pixels, options.seed)}
        for sigma in problems.NOISE_LEVELS:
            config = hj.paper_config(f"bsd-deblurring-{sigma}")
            values = []
            for case in (case for case in cases if case.label["σ"] == sigma):
                out = hj.restore(prior, case.observed, case.operator, case.noise_std, config)
                values.append(score(np.asarray(out.image), case.clean)["PSNR"])
            found[f"σ = {sigma}"] = float(np.mean(values))
        return found

    about = {"steps": options.steps, "training": f"batches of 8 crops of 64x64 pixels from {photographs(options).name}"}
    with options.start("levels", TITLE, PAPER, **about) as run:
        run.expect(len(LEVELS))
        rows = {}
        for levels in LEVELS:
            folder = run.folder / "runs" / f"l{levels}-{options.steps}"
            rows[levels] = run.row({"levels": levels}, partial(measure, levels, folder))
        columns = ["", *(f"L = {levels}" for levels in LEVELS), *(f"paper L = {levels}" for levels in LEVELS)]
        names = [*(f"σ = {sigma}" for sigma in problems.NOISE_LEVELS), "ELBO"]
        lines = [
            [name, *(rows[levels][name] for levels in LEVELS), *(TABLE_4[levels][i] for levels in LEVELS)]
            for i, name in enumerate(names)
        ]
        notes = [
            f"0.93 million parameters each, {options.steps} steps; the paper's have 14.8 million and 700,000 steps.",
            "PSNR of deblurring in dB with the paper's settings, mean over kernels and images; ELBO in nats a number.",
        ]
        run.table("PSNR of deblurring, and ELBO", columns, lines, notes=notes)
        run.finish()
