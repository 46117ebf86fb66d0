"""What can be chosen on the page: what happened to a photograph, the kinds of blur, and the examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TASKS = {
    "Blurred": "deblur",
    "Noisy": "denoise",
    "JPEG artefacts": "jpeg",
    "Too small": "sr",
    "Has holes": "inpaint",
}
"""The names of tasks for people."""

FACTORS = (2, 3, 4)
"""Of super-resolution."""

MOST_NOISE = 75
"""Grey levels that can be chosen."""


class Number(NamedTuple):
    """A number of a kernel.

    Attributes:
        label: its name.
        least: the smallest.
        most: the largest.
        usual: the first one shown.
        step: between two.
    """

    label: str
    least: float
    most: float
    usual: float
    step: float = 0.1


class Blur(NamedTuple):
    """A kind of blur.

    Attributes:
        label: its name.
        kernel: what `images.parse_kernel` calls it; the whole of it where there are no numbers.
        numbers: those that it needs.
    """

    label: str
    kernel: str
    numbers: tuple[Number, ...] = ()

    def text(self, values: Sequence[float]) -> str:
        """What `restore_photograph` takes as its kernel, for these numbers."""
        return ":".join([self.kernel, ",".join(f"{value:g}" for value in values)] if self.numbers else [self.kernel])


BLURS = (
    Blur("I do not know: find out", "estimate"),
    Blur(
        "Shaken: moved along a line",
        "motion",
        (
            Number("Length in pixels", 2, 80, 13, 0.5),
            Number("Direction in degrees, counter-clockwise from the horizontal", 0, 180, 30, 1),
        ),
    ),
    Blur("Out of focus", "disk", (Number("Radius in pixels", 0.5, 40, 3),)),
    Blur("Soft (a Gaussian)", "gaussian", (Number("Standard deviation in pixels", 0.3, 20, 1.6),)),
    Blur("Averaged over a square", "box", (Number("Side in pixels", 1, 40, 5, 1),)),
)
"""The kinds of blur, the first one chosen at first; a kernel in a file is there besides."""

KERNEL_FILE = "A kernel from a file"


FOLDER = Path(__file__).parent / "examples"


class Example(NamedTuple):
    """A picture to try.

    Attributes:
        label: what is wrong with it.
        path: where it is.
        task: what happened to it.
        mask: of its holes, a file.
        blur: how it was blurred, a label of `BLURS`.
    """

    label: str
    path: str
    task: str
    mask: str | None = None
    blur: str = BLURS[0].label


EXAMPLES = (
    Example("Out of focus", str(FOLDER / "soft.png"), "deblur"),
    Example("Shaken by 13 pixels", str(FOLDER / "shaken.png"), "deblur", blur=BLURS[1].label),
    Example("Noisy", str(FOLDER / "noisy.png"), "denoise"),
    Example("JPEG of low quality", str(FOLDER / "compressed.jpg"), "jpeg"),
    Example("Too small", str(FOLDER / "small.png"), "sr"),
    Example("Scratched", str(FOLDER / "scratched.png"), "inpaint", str(FOLDER / "mask.png")),
)
"""Of which one was shaken by the usual numbers of `BLURS`."""
