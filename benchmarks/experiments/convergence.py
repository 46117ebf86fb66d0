"""Figure 2: J1 (eq. 15) and the contraction L_k along the iterations, PnP-HVAE beside Adam."""

from collections.abc import Callable

import numpy as np

import hvae_jax as hj
from benchmarks import problems
from benchmarks.experiments.common import LEARNING_RATES, Options
from hvae_jax.restoration import Residual, Restoration, RestoreConfig
from hvae_jax.restoration.adam import restore_adam

TITLE, PAPER = "Convergence", "Figure 2"
SIGMA, KERNEL, TEMPERATURE = 7.65, "k4", 0.8
ITERATIONS = 100


def run(options: Options) -> None:
    """Run it, on the first image."""
    import matplotlib.pyplot as plt

    (case,) = (
        case
        for case in problems.deblurring(options.images, options.seed, options.kernels, (SIGMA,))
        if case.label["kernel"] == KERNEL
    )
    y, clean = case.observed[0], case.clean[0]
    config = RestoreConfig(
        temperature=TEMPERATURE, decoder_std=10 / 255, max_iterations=ITERATIONS, stop=Residual(0.0), history=True
    )
    arguments = (options.prior, y, case.operator, case.noise_std, config)
    solvers: dict[str, Callable[[], Restoration]] = {"pnp-hvae": lambda: hj.restore(*arguments, reference=clean)}
    for rate in LEARNING_RATES:
        solvers[f"adam-{rate}"] = lambda rate=rate: restore_adam(*arguments, learning_rate=rate, reference=clean)

    def trace(solve: Callable[[], Restoration]) -> dict[str, list[float]]:
        history = solve().history
        assert history is not None
        residual = np.asarray(history.residual, np.float64)
        return {
            "objective": np.asarray(history.objective, np.float64).tolist(),
            "L": (residual[2:] / residual[1:-1]).tolist(),
            "PSNR": np.asarray(history.psnr_x, np.float64).tolist(),
        }

    image = options.images.names[0]
    with options.start("convergence", TITLE, PAPER, iterations=ITERATIONS, temperature=TEMPERATURE) as run:
        run.expect(len(solvers))
        traces = {name: run.row({"solver": name}, lambda s=solve: trace(s)) for name, solve in solvers.items()}
        columns = [
            "solver",
            "J1 at the end",
            "iterations to within 1 %",
            "largest L_k",
            "median L_k",
            "best PSNR",
            "last PSNR",
        ]
        lines = []
        for name, values in traces.items():
            objective, ratio = np.array(values["objective"]), np.array(values["L"])
            span = objective[1] - objective[-1]
            near = int(np.argmax(objective[1:] <= objective[-1] + 0.01 * abs(span))) + 1
            psnr = values["PSNR"]
            lines.append(
                [name, objective[-1], near, float(np.nanmax(ratio)), float(np.nanmedian(ratio)), max(psnr), psnr[-1]]
            )
        note = "L_k is ‖x_k+1 − x_k‖ / ‖x_k − x_k−1‖. The paper: Adam ends lower in J1 and later, and oscillates."
        title = f"{image}: deblurring, kernel {KERNEL}, σ = {SIGMA}, τ = {TEMPERATURE}, γ = 10/255"
        run.table(title, columns, lines, notes=[note])

        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
        for name, values in traces.items():
            left.plot(np.arange(len(values["objective"])), values["objective"], label=name)
            right.plot(np.arange(2, 2 + len(values["L"])), values["L"], label=name, linewidth=1)
        lowest = min(min(values["objective"][1:]) for values in traces.values())
        highest = max(values["objective"][min(3, ITERATIONS)] for values in traces.values())
        left.set(xlabel="iteration k", ylabel="J1(x_k, z_k)", ylim=(lowest - 0.05 * (highest - lowest), highest))
        right.set(xlabel="iteration k", ylabel="L_k", ylim=(0, 2.5))
        right.axhline(1, color="0.6", linewidth=1)
        left.legend()
        run.figure(figure, "convergence.png", "J1 and the ratio of consecutive steps along the iterations")
        plt.close(figure)
        run.finish()
