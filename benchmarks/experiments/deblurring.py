"""Table 2 and Figure 5: deblurring of natural images, four kernels at three noise levels."""

from benchmarks import problems
from benchmarks.experiments.common import Options, evaluate, method_table, resolve
from benchmarks.paper import TABLE_2

TITLE, PAPER = "Deblurring of natural images", "Table 2, Figure 5"
METHODS = ("observation", "tikhonov", "tv", "epll", "pnp-hvae")


def run(options: Options) -> None:
    """Run it."""
    cases = list(problems.deblurring(options.images, options.seed, options.kernels))
    chosen = resolve(options, METHODS)
    with options.start("deblurring", TITLE, PAPER, solver=options.solver) as run:
        rows, notes = evaluate(run, options, cases, chosen)
        levels = sorted({float(case.label["σ"]) for case in cases})
        groups = {f"σ = {s}": [i for i, case in enumerate(cases) if case.label["σ"] == s] for s in levels}
        paper = {(f"σ = {s}", method): values for (s, method), values in TABLE_2.items()}
        kernels = ", ".join(dict.fromkeys(str(case.label["kernel"]) for case in cases))
        method_table(run, f"Circular blur, kernels {kernels}", groups, rows, chosen, paper, notes)
        run.compare([row for (_, name), row in rows.items() if name == "pnp-hvae"])
        run.finish()
