"""The progress bar of everything that takes long."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported when it is used, so that `--help` does not wait for it
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn


def progress_bar(
    *more: ProgressColumn | str, unit: str = "count", console: Console | None = None, shown: bool = True
) -> Progress:
    """A bar in a terminal only, that is gone at the end.

    Args:
        more: columns of rich's behind the usual ones: description, bar, what is done and what there is, time left.
        unit: of what is counted: "count", or "bytes".
        console: where to; stderr if None.
        shown: whether there is one in a terminal.

    Returns:
        Rich's progress, to be used in a `with`.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts: tuple[ProgressColumn, ...] = (MofNCompleteColumn(),)
    if unit == "bytes":
        counts = (DownloadColumn(), TransferSpeedColumn())
    console = console or Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *counts,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *more,
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
        redirect_stdout=sys.stdout.isatty(),  # what is piped elsewhere must not end on stderr
    )
