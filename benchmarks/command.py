"""What the command lines of the benchmarks share."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

AddOption: TypeAlias = Callable[..., Any]
"""`argparse.ArgumentParser.add_argument`."""

RESULTS = Path(__file__).parent / "results"


def add_out(add: AddOption) -> None:
    """Where results go."""
    add("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results (default benchmarks/results)")


def names_of(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(text.split(","))


def exit_code(action: Callable[[], None]) -> int:
    """Run a command; 2 and one sentence for a user's mistake, 130 when interrupted, else 0."""
    try:
        action()
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the rows that are missing", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
