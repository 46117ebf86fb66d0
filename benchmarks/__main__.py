"""The paper's tables and figures, on your own images and priors or on those that are here.

    python -m benchmarks deblurring --limit 4 --out results
    python -m benchmarks report results

An experiment's folder OUT/NAME gets its tables (Markdown, CSV, JSON), figures and pictures (PNG). A run that was
interrupted goes on where it was: the same command computes only the rows that are missing.
"""

import argparse
import importlib
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import AddOption, add_out, exit_code, names_of

EXPERIMENTS = (
    "final",
    "real",
    "blind",
    "gate",
    "jpeg",
    "light",
    "faces",
    "deblurring",
    "inpainting",
    "levels",
    "ablation",
    "lipschitz",
    "convergence",
    "drift",
    "anderson",
    "temperature",
    "samples",
    "intervals",
)
TOOLS = {
    "report": "benchmarks.report",
    "card": "benchmarks.card",
    "before-after": "benchmarks.before_after",
    "tasks": "benchmarks.tasks",
    "speed": "benchmarks.speed",
    "vdvae": "benchmarks.vdvae",
    "pytorch": "benchmarks.pytorch",
    "start": "benchmarks.start",
    "cluster": "benchmarks.cluster",
    "cost": "benchmarks.cost",
    "conversion": "benchmarks.conversion",
    "fuzz": "benchmarks.fuzz",
    "large": "benchmarks.large",
    "fit-epll": "benchmarks.methods.fit_epll",
}
"""What is no experiment: a module with `add_options` and `run(args, command)`."""


def module_of(name: str) -> str:
    """The module of an experiment or a tool."""
    return TOOLS.get(name, f"benchmarks.experiments.{name}")


def summary(name: str) -> str:
    """The first sentence of its module, which is not imported for it."""
    found = importlib.util.find_spec(module_of(name))
    assert found is not None
    assert found.origin is not None
    return " ".join(Path(found.origin).read_text().split('"""')[1].split("\n\n")[0].split())


def parser(chosen: str | None) -> argparse.ArgumentParser:
    """The command line; only what is chosen has its own options, for they are in its module."""
    main = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = main.add_subparsers(dest="name", required=True, metavar="NAME")
    for name in (*EXPERIMENTS, *TOOLS):
        sub = names.add_parser(name, help=summary(name), description=summary(name))
        if name in EXPERIMENTS:
            add_common_options(sub.add_argument)
        if name == chosen and hasattr(module := importlib.import_module(module_of(name)), "add_options"):
            module.add_options(sub.add_argument)
    return main


def add_common_options(add: AddOption) -> None:
    """Those of all experiments."""
    add("--prior", default=None, metavar="NAME|DIR", help="default: the bundled one")
    add(
        "--images", type=Path, metavar="DIR|LIST", help="a folder, or a text file of paths (default: ten that are here)"
    )
    add("--limit", type=int, metavar="N", help="take the first N images only")
    add("--size", type=int, default=256, help="side of the squares that are cut from the images' middle (default 256)")
    add_out(add)
    add("--seed", type=int, default=0)
    add("--batch", type=int, default=5, help="images per compiled call (default 5)")
    add("--pictures", type=int, default=1, metavar="N", help="before/after pictures of the first N images (default 1)")
    methods = "methods to compare; see benchmarks/methods, also for one of your own"
    add("--methods", type=names_of, metavar="A,B", help=methods)
    add("--settings", choices=("recommended", "paper"), default="recommended", help="of the solver")
    add("--kernels", type=Path, metavar="FILE", help=".npz of blur kernels (default: the paper's)")
    add("--weights", type=Path, metavar="FILE", help=".npz of DnCNN or FDnCNN, for the method fdncnn")


def _run(args: argparse.Namespace, command: str) -> None:
    module = importlib.import_module(module_of(args.name))
    if args.name in TOOLS:
        module.run(args, command)
        return
    import hvae_jax as hj
    from benchmarks.experiments.common import Options
    from benchmarks.problems import DATA, load_images
    from hvae_jax.prior import BUNDLED

    prior = hj.load_prior() if args.prior is None else hj.load_prior(args.prior)
    default = DATA / "faces" if args.name == "faces" else None
    module.run(
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
            own=args,
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see `exit_code`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser(given[0] if given else None).parse_args(given)
    return exit_code(lambda: _run(args, shlex.join(["python", "-m", "benchmarks", *given])))


if __name__ == "__main__":
    sys.exit(main())
