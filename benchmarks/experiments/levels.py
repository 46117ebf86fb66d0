"""Table 4: the number of latent groups at a constant number of parameters, trained at an equal budget."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import hvae_jax as hj
from benchmarks import problems
from benchmarks.command import AddOption
from benchmarks.experiment import score
from benchmarks.experiments.common import Options
from benchmarks.measures import PHOTOGRAPHS, patches, train
from benchmarks.paper import TABLE_4
from hvae_jax.prior import Prior
from hvae_jax.training.config import LossConfig, OptimizerConfig, TrainConfig
from hvae_jax.training.loss import loss_fn

TITLE, PAPER = "Number of latent groups", "Table 4"
LEVELS = (6, 12, 18, 36)


def patch_elbo(prior: Prior, images: np.ndarray, seed: int) -> float:
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


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--data", type=Path, default=PHOTOGRAPHS, metavar="DIR", help="photographs to train on (default: the ten)")
    add("--steps", type=int, default=1000, help="of each training (default 1000)")


def run(options: Options) -> None:
    """Run it."""
    own = options.own
    cases = list(problems.deblurring(options.images, options.seed, options.kernels))

    def measure(levels: int, folder: Path) -> dict[str, float]:
        config = TrainConfig(
            preset=f"table4-small-l{levels}",
            steps=own.steps,
            batch_size=8,
            crop_size=64,
            seed=options.seed,
            checkpoint_every=50,
            loss=LossConfig(beta_steps=own.steps // 4),
            optimizer=OptimizerConfig(name="adamax", learning_rate=2e-3, ema_decay=0.99),
        )
        prior = train(config, own.data, folder)
        found = {"ELBO": patch_elbo(prior, options.images.pixels, options.seed)}
        for sigma in problems.NOISE_LEVELS:
            config = hj.paper_config(f"bsd-deblurring-{sigma}")
            values = []
            for case in (case for case in cases if case.label["σ"] == sigma):
                out = hj.restore(prior, case.observed, case.operator, case.noise_std, config)
                values.append(score(np.asarray(out.image), case.clean)["PSNR"])
            found[f"σ = {sigma}"] = float(np.mean(values))
        return found

    about = {"steps": own.steps, "training": f"batches of 8 crops of 64x64 pixels from {own.data.name}"}
    with options.start("levels", TITLE, PAPER, **about) as run:
        run.expect(len(LEVELS))
        rows = {}
        for levels in LEVELS:
            folder = run.folder / "runs" / f"l{levels}-{own.steps}"
            rows[levels] = run.row({"levels": levels}, partial(measure, levels, folder))
        columns = ["", *(f"L = {levels}" for levels in LEVELS), *(f"paper L = {levels}" for levels in LEVELS)]
        names = [*(f"σ = {sigma}" for sigma in problems.NOISE_LEVELS), "ELBO"]
        lines = [
            [name, *(rows[levels][name] for levels in LEVELS), *(TABLE_4[levels][i] for levels in LEVELS)]
            for i, name in enumerate(names)
        ]
        notes = [
            f"0.93 million parameters each, {own.steps} steps; the paper's have 14.8 million and 700,000 steps.",
            "PSNR of deblurring in dB with the paper's settings, mean over kernels and images; ELBO in nats a number.",
        ]
        run.table("PSNR of deblurring, and ELBO", columns, lines, notes=notes)
        run.finish()
