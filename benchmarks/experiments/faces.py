"""Table 1 and Figure 3: faces, four tasks, PnP-HVAE beside Adam on the same objective and other methods."""

from benchmarks import problems
from benchmarks.experiments.common import LEARNING_RATES, Options, evaluate, method_table, resolve
from benchmarks.paper import TABLE_1

TITLE, PAPER = "Restoration of faces", "Table 1, Figure 3"
METHODS = ("observation", "tv", *(f"adam-{rate}" for rate in LEARNING_RATES), "pnp-hvae")


def run(options: Options) -> None:
    """Run it."""
    cases = list(problems.faces(options.images, options.seed, options.kernels))
    chosen = resolve(options, METHODS, faces=options.prior.image_size is not None)
    with options.start("faces", TITLE, PAPER, solver=options.solver) as run:
        rows, notes = evaluate(run, options, cases, chosen)
        groups = {str(case.label["task"]): [i] for i, case in enumerate(cases)}
        paper: dict[tuple[str, str], tuple[float, ...]] = dict(TABLE_1)
        paper |= {(t, f"adam-{LEARNING_RATES[0]}"): values for (t, m), values in TABLE_1.items() if m == "adam"}
        method_table(run, "Faces", groups, rows, chosen, paper, notes)
        run.compare([row for (_, name), row in rows.items() if name == "pnp-hvae"])
        run.finish()
