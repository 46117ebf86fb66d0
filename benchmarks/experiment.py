"""One run of an experiment: rows that survive an interruption, and the tables, figures and pictures made of them."""

import csv
import datetime
import importlib.metadata
import io
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from rich.console import Console
from rich.table import Table

from benchmarks.methods import Method
from benchmarks.problems import Problem
from hvae_jax.files import Journal, digest_of, write_atomically
from hvae_jax.images import Squares, write_image
from hvae_jax.metrics import lpips, psnr, ssim
from hvae_jax.prior import Prior
from hvae_jax.progress import progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = ("PSNR", "SSIM", "LPIPS")
BEST = {"PSNR": "max", "SSIM": "max", "LPIPS": "min", "seconds": "min"}


class Run:
    """A run of an experiment in a folder of its own.

    Finished rows are in `rows.jsonl`, each with a digest of the settings that it depends on; a later command takes up
    those of its own settings and computes the others.

    Args:
        name: of the experiment, and of the folder in `out`.
        title: what it shows.
        paper: the table or figure of the paper; empty for none.
        out: where all experiments' folders are.
        command: that made it.
        settings: what the rows depend on; shown beside the tables.
    """

    def __init__(self, name: str, title: str, paper: str, out: Path, command: str, settings: dict[str, Any]) -> None:
        self.folder = out / name
        self._about = {"name": name, "title": title, "paper": paper, "command": command}
        self._settings = settings
        self._tables: list[dict[str, Any]] = []
        self._figures: list[dict[str, str]] = []
        self._comparisons: list[dict[str, str | None]] = []
        self._warm: set[tuple] = set()
        self._journal = Journal(self.folder / "rows.jsonl")
        self._progress = progress_bar()
        self._bar = self._progress.add_task(name, total=None)

    def __enter__(self) -> "Run":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def expect(self, rows: int) -> None:
        """Tell the progress bar how many more rows there will be."""
        self._progress.update(self._bar, total=(self._progress.tasks[0].total or 0) + rows)

    def row(
        self, key: dict[str, Any], compute: Callable[[], dict[str, Any]], unaffected_by: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The values of a row: those of an earlier run with these settings, or computed now and kept.

        Args:
            key: what the row is of.
            compute: makes its values, of JSON's types.
            unaffected_by: names of settings that the values do not depend on.

        Returns:
            The values.
        """
        settings = {name: value for name, value in self._settings.items() if name not in unaffected_by}
        self._progress.update(self._bar, description=", ".join(str(value) for value in key.values()))
        values = self._journal.find(settings, key)
        if values is None:
            values = compute()
            self._journal.keep(settings, key, values)
        self._progress.advance(self._bar)
        return values

    def restore(
        self,
        method: tuple[str, Method],
        problem: Problem,
        names: Sequence[str],
        batch: int,
        pictures: int,
        version: str | None = None,
        unaffected_by: Sequence[str] = (),
    ) -> dict[str, Any]:
        """A row: a problem's images restored by a method, in calls of one size.

        Args:
            method: its name, and itself.
            problem: the problem.
            names: of the images.
            batch: images in a call.
            pictures: of how many images to keep the pictures.
            version: of the method, where it may change.
            unaffected_by: see `row`.

        Returns:
            "PSNR", "SSIM" and "LPIPS" per image, "seconds" per image without compiling, and "pictures".
        """
        key = {**problem.label, "method": method[0], **({} if version is None else {"version": version})}
        return self.row(key, lambda: self._restore(*method, problem, names, batch, pictures), unaffected_by)

    def _restore(
        self, name: str, method: Method, problem: Problem, names: Sequence[str], batch: int, pictures: int
    ) -> dict[str, Any]:
        count = len(problem.observed)
        batch = min(batch, count)
        results, seconds = [], 0.0
        for start in range(0, count, batch):
            part = problem.observed[start : start + batch]
            # A smaller last call would compile again.
            whole = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
            # The solver's settings, and with them its program, change with the noise level.
            kind = (name, type(problem.operator), problem.noise_std, whole.shape)
            if kind not in self._warm:
                jax.block_until_ready(method(whole, problem.operator, problem.noise_std))
                self._warm.add(kind)
            begin = time.perf_counter()
            restored = jax.block_until_ready(method(whole, problem.operator, problem.noise_std))
            seconds += (time.perf_counter() - begin) / batch * len(part)
            results.append(np.asarray(restored)[: len(part)])
        restored = np.concatenate(results)
        values = {name: scores.tolist() for name, scores in score(restored, problem.clean).items()}
        kept = [self._keep(name, problem, image, restored[i], i) for i, image in enumerate(names[:pictures])]
        return {**values, "seconds": seconds / count, "pictures": kept}

    def _keep(self, method: str, problem: Problem, image: str, restored: np.ndarray, i: int) -> dict[str, str | None]:
        """Write the pictures of a before/after comparison."""
        where = "-".join(str(value) for value in problem.label.values())
        slug = "".join(c if c.isalnum() or c in "-." else "-" for c in f"{where}-{image}".lower())
        factor = problem.clean.shape[1] // problem.observed.shape[1]
        observed = problem.observed[i].repeat(factor, axis=0).repeat(factor, axis=1)
        files = {
            f"{slug}-observed.png": observed,
            f"{slug}-{method}.png": restored,
            f"{image}-clean.png": problem.clean[i],
        }
        for file, pixels in files.items():
            write_image(self.folder / file, pixels, overwrite=True)
        before, after, reference = files
        described = ", ".join(f"{name} {value}" for name, value in problem.label.items())
        start, end = (float(psnr(x.astype(np.float32), problem.clean[i])) for x in (observed, restored))
        caption = f"{image}: {described}; {method}, {start:.2f} to {end:.2f} dB"
        return {"caption": caption, "before": before, "after": after, "reference": reference}

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        *,
        best: Sequence[str | None] | str | None = None,
        across: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        """Add a table.

        Args:
            title: what it shows.
            columns: their names.
            rows: their cells; the first names the row, NaN is none.
            best: whether the "max" or the "min" is to be marked, of each column or, for all, as one string.
            across: numbers are compared across a row, not down a column.
            notes: sentences below it.
        """
        cells = [[None if cell != cell else cell for cell in row] for row in rows]  # JSON has no NaN
        self._tables.append(
            {"title": title, "columns": list(columns), "rows": cells}
            | {"best": best if best is None or isinstance(best, str) else list(best), "across": across}
            | {"notes": list(notes)}
        )

    def figure(self, figure: "Figure", file: str, caption: str) -> None:
        """Add a figure of Matplotlib."""
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
        write_atomically(self.folder / file, content.getvalue())
        self._figures.append({"file": file, "caption": caption})

    def picture(self, pixels: np.ndarray, file: str, caption: str) -> None:
        """Add a picture as a figure."""
        write_image(self.folder / file, pixels, overwrite=True)
        self._figures.append({"file": file, "caption": caption})

    def compare(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add the before/after pictures of rows of `restore`."""
        for row in rows:
            self._comparisons += row["pictures"]

    def finish(self, as_markdown: bool = False) -> None:
        """Write NAME.json, NAME.md and NAME.csv, and print the tables, as Markdown to paste if that is asked for."""
        name = self._about["name"]
        settings = {**self._settings, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
        content = {**self._about, "settings": settings, "tables": self._tables}
        content |= {"figures": self._figures, "comparisons": self._comparisons}
        write_atomically(
            self.folder / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"
        )
        write_atomically(self.folder / f"{name}.md", self._markdown(settings).encode())
        sheet = io.StringIO()
        for table in self._tables:
            csv.writer(sheet, lineterminator="\n").writerows([table["columns"], *table["rows"]])
        write_atomically(self.folder / f"{name}.csv", sheet.getvalue().encode())
        console = Console(width=None if sys.stdout.isatty() else 160, markup=False)
        for table in self._tables:
            if as_markdown:
                print(f"**{table['title']}**\n\n{markdown(table['columns'], table['rows'])}\n")
                continue
            shown = Table(title=table["title"], title_justify="left")
            for i, column in enumerate(table["columns"]):
                shown.add_column(column, justify="left" if i == 0 else "right")
            for row in table["rows"]:
                shown.add_row(*map(in_words, row))
            console.print(shown)
        for note in dict.fromkeys(note for table in self._tables for note in table["notes"]):
            console.print(note, highlight=False)
        console.print(", ".join(f"{key}: {value}" for key, value in settings.items()), style="dim", highlight=False)
        console.print(f"{self.folder}: {name}.json, .md, .csv, {len(self._figures)} figures", highlight=False)

    def markdown(self) -> str:
        """The tables with their notes."""
        lines: list[str] = []
        for table in self._tables:
            lines += [f"**{table['title']}**", "", markdown(table["columns"], table["rows"]), ""]
            lines += [f"{note}  " for note in table["notes"]] + [""]
        return "\n".join(lines)

    def _markdown(self, settings: dict[str, Any]) -> str:
        paper = f" ({self._about['paper']})" if self._about["paper"] else ""
        lines = [f"# {self._about['title']}{paper}", "", f"`{self._about['command']}`", ""]
        lines.append(self.markdown())
        for figure in self._figures:
            lines += [f"![{figure['caption']}]({figure['file']})", "", figure["caption"], ""]
        return "\n".join([*lines, *(f"- {name}: {value}" for name, value in settings.items()), ""])


def score(restored: np.ndarray, clean: np.ndarray) -> dict[str, np.ndarray]:
    """PSNR, SSIM and LPIPS of each image."""
    x, r = jnp.asarray(restored), jnp.asarray(clean)
    return {name: np.asarray(_METRICS[name](x, r), np.float64).round(5) for name in METRICS}


_METRICS: dict[str, Callable] = {"PSNR": jax.jit(psnr), "SSIM": jax.jit(ssim), "LPIPS": lpips}


def means(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Mean PSNR, SSIM, LPIPS over all images of rows, and seconds per image."""
    averages = [float(np.mean([value for row in rows for value in row[name]])) for name in METRICS]
    return [*averages, float(np.mean([row["seconds"] for row in rows]))]


def per_image(rows: Sequence[dict[str, Any]], metric: str = "PSNR") -> np.ndarray:
    """A number for each image, the mean over rows (kernels)."""
    return np.mean([row[metric] for row in rows], axis=0)


def standard_error(values: ArrayLike) -> float:
    """Of the mean of values, one per image; NaN if there is one only."""
    count = len(np.asarray(values))
    return float(np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else float("nan")


def settings_of(prior: Prior, name: str, images: Squares | None, **more: Any) -> dict[str, Any]:
    """What a run's rows depend on: prior, images, versions, device, and whatever else."""
    shown = {} if images is None else {"images": f"{images.source}: {', '.join(images.names)}", "pixels": images.digest}
    return {"prior": prior_name(prior, name), **shown, **more, **machine()}


def machine() -> dict[str, str]:
    """What seconds depend on besides the program: device and versions."""
    versions = {package: importlib.metadata.version(package) for package in ("hvae_jax", "jax", "flax", "numpy")}
    device = jax.devices()[0]
    return {
        "device": f"{device.device_kind}, {os.cpu_count()} cores" if device.platform == "cpu" else device.device_kind,
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
        "python": platform.python_version(),
    }


def prior_name(prior: Prior, name: str) -> str:
    """A prior's own name, or the one given, and a digest of its parameters."""
    return f"{prior.info.get('name', name)} ({prior.digest[:16]})"


def in_words(value: Any) -> str:
    """A cell of a table: numbers with as many digits as they deserve."""
    if value is None or value != value:
        return "–"
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        return f"{value:.2g}"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 2 else f"{value:.3f}"
    return str(value)


def solver_version(prior: Prior, tables: str = "settings") -> str:
    """A digest of a prior's recommended settings or calibration: one that was tuned again is measured again."""
    return digest_of(prior.info.get(tables))


def plus_minus(mean: float, error: float, digits: int, sign: bool = False) -> str:
    """A mean with its standard error, which is left out where it is not known."""
    shown = f"{mean:{'+' if sign else ''}.{digits}f}"
    return shown if np.isnan(error) else f"{shown} ± {error:.{digits}f}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *(map(in_words, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
