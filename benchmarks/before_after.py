"""Make the README's picture: blurred, restored, sharp, side by side."""

from pathlib import Path

import numpy as np

import hvae_jax as hj
from hvae_jax.images import crop, extend_periodic, parse_kernel, read_image, write_image
from hvae_jax.operators import Blur

EXAMPLES = Path(__file__).parent.parent / "examples"


def main() -> None:
    prior = hj.load_prior()
    blurred, sharp = (read_image(EXAMPLES / f"{name}.png").pixels for name in ("blurred", "sharp"))
    kernel = parse_kernel("motion:13,30")
    y, box = extend_periodic(blurred, 8, prior.multiple, kernel)
    restored = np.asarray(crop(hj.restore(prior, y, Blur(kernel), 2.55 / 255).image, box))
    middle = (slice(20, 284), slice(90, 390))
    parts = [image[middle] for image in (blurred, restored, sharp)]
    gap = np.ones((parts[0].shape[0], 6, 3), np.float32)
    picture = np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)
    write_image(EXAMPLES / "before_after.png", picture, overwrite=True)


if __name__ == "__main__":
    main()
