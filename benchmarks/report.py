"""One page of HTML from the results of the benchmarks; it needs no network and no file beside it."""

import argparse
import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import jinja2
import numpy as np

from benchmarks.command import AddOption
from benchmarks.experiment import in_words
from hvae_jax.files import write_atomically
from hvae_jax.images import read_image

RESULTS: dict[str, type] = {
    "title": str,
    "paper": str,
    "command": str,
    "settings": dict,
    "tables": list,
    "figures": list,
    "comparisons": list,
}
TABLE: dict[str, type] = {"title": str, "columns": list, "rows": list, "notes": list}
FIGURE: dict[str, type] = {"file": str, "caption": str}
COMPARISON: dict[str, type] = {"caption": str, "before": str, "after": str}
"""What a file of results must hold, and the tables, figures and comparisons in it."""

JPEG_QUALITY = 95
"""A third of a PNG's size, and some 40 dB from it: far closer than any restoration is to its reference."""

LEADING_NUMBER = re.compile(r"([-+]?[\d,.]*\d(?:e[-+]?\d+)?)\s*(?:[/±(%].*)?")
"""A number, alone or with what belongs to it: "29.28", "29.28 / 0.830", "29.28 ± 0.4", "12 %"."""


class Cell(NamedTuple):
    """What a table shows in one place."""

    text: str
    numeric: bool
    mark: str  # "best", "second" or ""


class Picture(NamedTuple):
    """An embedded picture; width and height in pixels of the file."""

    source: str
    width: int
    height: int


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("out", type=Path, nargs="?", default=Path(__file__).parent / "results", metavar="OUT")


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    print(write_report(args.out))


def write_report(out: Path) -> Path:
    """Gather all results in a folder in one page.

    Args:
        out: the folder that holds NAME/NAME.json of each benchmark, and the pictures that it names.

    Returns:
        The page, `out/report.html`. It is written all or nothing.

    Raises:
        ValueError: there are no results, or a file is missing, damaged or not what a benchmark writes.
    """
    files = sorted(file for file in out.glob("*/*.json") if file.stem == file.parent.name)
    if not files:
        raise ValueError(f"{out}: expected results, got none; `python -m benchmarks NAME --out {out}` makes some")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html")
    shown = {"experiments": [_experiment(file) for file in files], "jpeg_quality": JPEG_QUALITY, "in_words": in_words}
    size = len(template.render(**shown, size=0).encode())  # the page states it
    page = template.render(**shown, size=size)
    path = out / "report.html"
    write_atomically(path, page.encode())
    return path


def cells(column: Sequence[str | float | None], best: str | None) -> list[Cell]:
    """A column of a table, its best and second best number marked.

    Numbers that look the same are equally good; a column in which all do has no best.

    Args:
        column: numbers, or strings, which count for the number that they begin with.
        best: "max", "min" or None.
    """
    texts = [in_words(value) for value in column]
    matches = [LEADING_NUMBER.fullmatch(text) for text in texts]
    numbers = [float(match[1].replace(",", "")) if match else None for match in matches]
    ranking = sorted({number for number in numbers if number is not None}, reverse=best == "max")
    marks: dict[float | None, str] = {}
    if best and len(ranking) > 1:
        marks = {ranking[0]: "best", ranking[1]: "second"}
    return [
        Cell(text, number is not None or (text == in_words(None) and bool(ranking)), marks.get(number, ""))
        for text, number in zip(texts, numbers, strict=True)
    ]


def _experiment(file: Path) -> dict[str, Any]:
    """What the template shows of one file of results."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: expected JSON, got: {error}") from error
    _check(file, results, RESULTS)
    for key, fields in (("tables", TABLE), ("figures", FIGURE), ("comparisons", COMPARISON)):
        for record in results[key]:
            _check(file, record, fields)
    folder = file.parent
    return {
        **results,
        "name": file.stem,
        "tables": [_table(file, record) for record in results["tables"]],
        "figures": [{**record, "picture": _exact(folder / record["file"])} for record in results["figures"]],
        "comparisons": [
            {
                "caption": record["caption"],
                "pictures": {
                    role: _small(folder / record[role])
                    for role in ("before", "after", "reference")
                    if record.get(role) is not None
                },
            }
            for record in results["comparisons"]
        ],
    }


def _check(file: Path, record: Any, fields: dict[str, type]) -> None:
    """Refuse a record without these fields, or with one of another kind."""
    names: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}
    for key, kind in fields.items():
        value = record.get(key) if isinstance(record, dict) else None
        if not isinstance(value, kind):
            raise ValueError(f'{file}: expected "{key}" to be {names[kind]}, got {value!r} in {str(record)[:80]}')


def _table(file: Path, record: dict[str, Any]) -> dict[str, Any]:
    """A table with its rows as lists of cells."""
    title, columns, rows, best = record["title"], record["columns"], record["rows"], record.get("best")
    for row in rows:
        if not isinstance(row, list) or len(row) != len(columns):
            raise ValueError(f'{file}: expected rows of {len(columns)} cells in table "{title}", got {row!r}')
    across = bool(record.get("across"))
    per_column = list(best) if isinstance(best, list) else [best] * len(columns)
    if len(per_column) != len(columns) or not all(choice in ("max", "min", None) for choice in per_column):
        raise ValueError(f'{file}: expected "best" to be "max", "min", null or one of them per column, got {best!r}')
    if across:
        lines = [[*cells(row[:1], None), *cells(row[1:], per_column[-1])] for row in rows]
        shown = [list(column) for column in zip(*lines, strict=True)]
    else:
        per_column[:1] = [None]  # the first column names the rows
        shown = [cells([row[index] for row in rows], choice) for index, choice in enumerate(per_column)]
    marked = any(cell.mark for column in shown for cell in column)
    numeric = [any(cell.numeric for cell in column) for column in shown]
    more = {"numeric": numeric, "marked": marked, "compared": "row" if across else "column"}
    return {**record, "rows": list(zip(*shown, strict=True)), **more}


def _exact(path: Path) -> Picture:
    """A PNG file as it is."""
    height, width, _ = read_image(path).pixels.shape
    return _picture("png", path.read_bytes(), width, height)


def _small(path: Path) -> Picture:
    """A picture of any kind as a JPEG file, its colours at full resolution."""
    pixels = read_image(path).pixels
    height, width, channels = pixels.shape
    samples = np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    samples = samples[..., 0] if channels == 1 else samples
    content = iio.imwrite("<bytes>", samples, plugin="pillow", extension=".jpg", quality=JPEG_QUALITY, subsampling=0)
    return _picture("jpeg", content, width, height)


def _picture(kind: str, content: bytes, width: int, height: int) -> Picture:
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width, height)
