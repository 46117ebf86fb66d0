"""What the command lines of the benchmarks share."""

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

AddOption: TypeAlias = Callable[..., Any]
"""`argparse.ArgumentParser.add_argument`."""


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
