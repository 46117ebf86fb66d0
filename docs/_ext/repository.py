"""Pages that are files of the repository, and links to its files.

What exists once stays in its place: tables of results, the model card, CONTRIBUTING and CHANGELOG become pages here,
and a link to any of them, which leads to the file on a forge, leads to its page.
"""

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)]*)?\)")


def pages():
    """The files that become pages: path in the repository to path in docs."""
    found = {
        "CONTRIBUTING.md": "repository/contributing.md",
        "CHANGELOG.md": "repository/changelog.md",
        "hvae_jax/pretrained/ATTRIBUTION.md": "repository/attribution.md",
        "hvae_jax/pretrained/natural-medium/README.md": "repository/model-card.md",
    }
    for path in sorted((ROOT / "benchmarks/results").glob("*/*.md")):
        found[path.relative_to(ROOT).as_posix()] = f"results/{path.stem}.md"
    return found


def setup(app):
    """Write the pages before Sphinx reads, and lead the links of the others."""
    app.connect("builder-inited", _write)
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}


def _write(app):
    for source, page in pages().items():
        text = led((ROOT / source).read_text(), ROOT / source, DOCS / page)
        (DOCS / page).parent.mkdir(exist_ok=True)
        if not (DOCS / page).exists() or (DOCS / page).read_text() != text:
            (DOCS / page).write_text(text)


def _read(app, name, source):
    path = DOCS / f"{name}.md"
    if path.exists() and path.relative_to(DOCS).as_posix() not in pages().values():
        source[0] = led(source[0], path, path)


def led(text, source, page):
    """A file's text with its links as they are to be on a page.

    Args:
        text: Markdown.
        source: the file that it is of.
        page: the page's file.
    """

    def lead(match):
        target = Path(os.path.normpath(source.parent / match[2]))
        if not target.is_file() or (source == page and target.is_relative_to(DOCS)):
            return match[0]
        known = pages().get(target.relative_to(ROOT).as_posix())
        to = DOCS / known if known else target
        return f"{match[1]}{os.path.relpath(to, page.parent)}{match[3] or ''})"

    return LINK.sub(lead, text)
