"""The paper's tables and figures, on your own images and priors or on those that are here.

    python -m benchmarks deblurring --limit 4 --out results
    python -m benchmarks report results

An experiment's folder OUT/NAME gets its tables (Markdown, CSV, JSON), figures and pictures (PNG). A run that was
interrupted goes on where it was: the same command computes only the rows that are missing.
"""

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import exit_code

EXPERIMENTS = (
    "final",
    "real",
    "faces",
    "deblurring",
    "inpainting",
    "levels",
    "ablation",
    "lipschitz",
    "convergence",
    "drift",
    "temperature",
    "samples",
)
OWN = ("data", "files", "training", "init", "steps", "seeds", "variants", "docs", "tasks", "validation")
"""Options that only some experiments have."""

RESULTS = Path(__file__).parent / "results"


def names_of(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(text.split(","))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = main.add_subparsers(dest="name", required=True, metavar="NAME")
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--prior", default=None, metavar="NAME|DIR", help="default: the bundled one")
    add(
        "--images", type=Path, metavar="DIR|LIST", help="a folder, or a text file of paths (default: ten that are here)"
    )
    add("--limit", type=int, metavar="N", help="take the first N images only")
    add("--size", type=int, default=256, help="side of the squares that are cut from the images' middle (default 256)")
    add("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results (default benchmarks/results)")
    add("--seed", type=int, default=0)
    add("--batch", type=int, default=5, help="images per compiled call (default 5)")
    add("--pictures", type=int, default=1, metavar="N", help="before/after pictures of the first N images (default 1)")
    methods = "methods to compare; see benchmarks/methods, also for one of your own"
    add("--methods", type=names_of, metavar="A,B", help=methods)
    add("--settings", choices=("recommended", "paper"), default="recommended", help="of the solver")
    add("--kernels", type=Path, metavar="FILE", help=".npz of blur kernels (default: the paper's)")
    add("--weights", type=Path, metavar="FILE", help=".npz of DnCNN or FDnCNN, for the method fdncnn")
    for name in EXPERIMENTS:
        module = importlib.util.find_spec(f"benchmarks.experiments.{name}")
        assert module is not None
        assert module.origin is not None
        summary = Path(module.origin).read_text().split('"""')[1].split("\n")[0]
        sub = names.add_parser(name, parents=[common], help=summary, description=summary)
        add = sub.add_argument
        if name in ("levels", "ablation"):
            add("--data", type=Path, metavar="DIR", help="photographs to train on (default: the ten)")
            add("--steps", type=int, default=1000, help="of each training (default 1000)")
        if name == "ablation":
            add("--files", type=Path, metavar="LIST", help="names of the photographs to use (default: all in DIR)")
            add("--training", type=Path, metavar="FILE", help="baseline, a JSON file as `hvae-jax train` takes")
            add("--init", metavar="NAME|DIR", help="prior whose parameters all start from (default: random ones)")
            add("--variants", type=names_of, metavar="A,B", help="names in benchmarks/experiments/ablation.py")
            add("--seeds", type=int, default=1, metavar="N", help="trainings of each variant (default 1)")
            add("--docs", type=Path, metavar="FILE", help="write the tables into this Markdown file too")
        if name == "final":
            tasks = "some of deblurring,super-resolution,inpainting,denoising (default: all)"
            add("--tasks", type=names_of, default=argparse.SUPPRESS, metavar="A,B", help=tasks)
            add("--seeds", type=int, default=1, metavar="N", help="draws of the noise (default 1)")
            add("--validation", type=Path, metavar="DIR|LIST", help="images to tune other methods on, as --images")
    report = names.add_parser("report", help="One HTML page of all results in a folder.")
    report.add_argument("out", type=Path, nargs="?", default=RESULTS, metavar="OUT")
    return main


def _run(args: argparse.Namespace, command: str) -> None:
    if args.name == "report":
        from benchmarks.report import write_report

        print(write_report(args.out))
        return
    import hvae_jax as hj
    from benchmarks.experiments.common import Options
    from benchmarks.problems import DATA, load_images
    from hvae_jax.prior import BUNDLED

    experiment = importlib.import_module(f"benchmarks.experiments.{args.name}")
    prior = hj.load_prior() if args.prior is None else hj.load_prior(args.prior)
    default = DATA / "faces" if args.name == "faces" else None
    experiment.run(
        Options(
            prior=prior,
            prior_name=args.prior or BUNDLED,
            images=load_images(args.images or default, prior.image_size or args.size, args.limit),
            out=args.out,
            command=command,
            seed=args.seed,
            batch=args.batch,
            pictures=args.pictures,
            methods=args.methods,
            settings=args.settings,
            kernels=args.kernels,
            weights=args.weights,
            **{name: getattr(args, name) for name in OWN if hasattr(args, name)},
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see `exit_code`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser().parse_args(given)
    return exit_code(lambda: _run(args, shlex.join(["python", "-m", "benchmarks", *given])))


if __name__ == "__main__":
    sys.exit(main())
