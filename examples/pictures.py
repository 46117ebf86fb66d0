"""What the example scripts share: pictures side by side."""

import matplotlib.pyplot as plt
import numpy as np


def show(pictures, columns=None):
    """Show pictures side by side.

    Args:
        pictures: title to picture, (H, W, C) or (H, W), in [0, 1].
        columns: of the grid; by default all in one row.
    """
    columns = columns or len(pictures)
    rows = -(-len(pictures) // columns)
    height, width = np.shape(next(iter(pictures.values())))[:2]
    size = 10 / columns
    figure, axes = plt.subplots(rows, columns, figsize=(10, rows * (size * height / width + 0.35)), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, picture) in zip(axes.flat, pictures.items(), strict=False):
        axis.imshow(np.clip(picture, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.3)
    plt.show()
