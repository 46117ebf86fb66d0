"""Sheets of pictures with captions, for the README and the model card."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
from jaxtyping import Float
from numpy.typing import ArrayLike

GAP, STRIP = 6, 20


def sheet(rows: Sequence[Sequence[tuple[str, ArrayLike]]]) -> Float[np.ndarray, "height width 3"]:
    """Pictures in rows on white, each above its caption.

    Args:
        rows: of captions and pictures; all pictures are of one size, (H, W, 3) in [0, 1].

    Returns:
        The sheet, in [0, 1].
    """
    height, width, _ = np.shape(rows[0][0][1])
    columns = max(map(len, rows))
    page = PIL.Image.new(
        "RGB", (columns * (width + GAP) - GAP, len(rows) * (height + STRIP + GAP) - GAP), (255, 255, 255)
    )
    draw = PIL.ImageDraw.Draw(page)
    for i, row in enumerate(rows):
        for j, (caption, picture) in enumerate(row):
            left, top = j * (width + GAP), i * (height + STRIP + GAP)
            samples = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
            page.paste(PIL.Image.fromarray(samples), (left, top))
            draw.text((left + width / 2, top + height + STRIP / 2), caption, fill=(0, 0, 0), font_size=13, anchor="mm")
    return np.asarray(page, np.float32) / 255
