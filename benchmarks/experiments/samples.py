"""Figure 4: unconditional samples at two sizes and several temperatures."""

import jax
import numpy as np

import hvae_jax as hj
from benchmarks.experiments.common import Options

TITLE, PAPER = "Unconditional samples", "Figure 4"
SIZES = (64, 128)
TEMPERATURES = (0.7, 0.85, 1.0)
COLUMNS = {64: 12, 128: 6}


def run(options: Options) -> None:
    """Run it."""
    prior = options.prior
    sizes = (prior.image_size,) if prior.image_size else SIZES
    with options.start("samples", TITLE, PAPER, uses_images=False, temperatures=list(TEMPERATURES)) as run:
        run.expect(len(sizes))
        lines = []
        for size in sizes:
            side = -(-size // prior.multiple) * prior.multiple
            columns = COLUMNS.get(size, 4)
            rows = [
                np.asarray(hj.sample(prior, jax.random.key(options.seed), (columns, side, side, 3), temperature=tau))
                for tau in TEMPERATURES
            ]
            stds = [float(np.std(row, axis=(1, 2)).mean()) for row in rows]
            run.row({"size": size}, lambda s=stds: {"std": s})
            lines += [[f"{side}x{side}", tau, 255 * std] for tau, std in zip(TEMPERATURES, stds, strict=True)]
            sheet = np.ones((len(rows) * (side + 2) - 2, columns * (side + 2) - 2, 3), np.float32)
            for i, row in enumerate(rows):
                for j, picture in enumerate(row):
                    top, left = i * (side + 2), j * (side + 2)
                    sheet[top : top + side, left : left + side] = picture
            temperatures = ", ".join(map(str, TEMPERATURES))
            run.picture(sheet, f"samples-{side}.png", f"{side}x{side} pixels; a row for each of τ = {temperatures}")
        run.table("Contrast of the samples", ["size", "τ", "deviation (grey levels)"], lines)
        run.finish()
