"""Table 3 and Figure 6: inpainting of natural images, σ = 3."""

from benchmarks import problems
from benchmarks.experiments.common import Options, evaluate, method_table, resolve
from benchmarks.paper import TABLE_3

TITLE, PAPER = "Inpainting of natural images", "Table 3, Figure 6"
METHODS = ("observation", "tv", "epll", "pnp-hvae")


def run(options: Options) -> None:
    """Run it."""
    cases = list(problems.inpainting(options.images, options.seed))
    chosen = resolve(options, METHODS)
    with options.start("inpainting", TITLE, PAPER, solver=options.solver) as run:
        rows, notes = evaluate(run, options, cases, chosen)
        groups = {str(case.label["mask"]): [i] for i, case in enumerate(cases)}
        paper = {("objects", method): values for method, values in TABLE_3.items()}
        method_table(run, "Inpainting at σ = 3", groups, rows, chosen, paper, notes)
        run.compare([row for (_, name), row in rows.items() if name == "pnp-hvae"])
        run.finish()
