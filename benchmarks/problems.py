"""The images and degradations that the benchmarks share."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hvae_jax.images import Squares, make_mask, read_kernels, read_squares
from hvae_jax.operators import Blur, Denoising, Inpainting, Operator, SuperResolution

DATA = Path(__file__).parent / "data"
"""Pictures and kernels that are free; see the README.md there."""

KERNELS = ("k4", "k7", "k9", "k11")
"""The paper's for natural images: two Gaussian, two motion blurs."""

NOISE_LEVELS = (2.55, 7.65, 12.75)
"""The paper's for deblurring, in grey levels of 255."""

MASKS = ("objects", "text", "random50", "random80")
"""Of Table 3 and three more; see `make_mask`."""

TASKS = ("deblurring", "super-resolution", "inpainting", "denoising")
"""Of the final table."""

SUPER_RESOLUTION_KERNEL = "k3"
"""Gaussian, of deviation 1.6 pixels."""


class Problem(NamedTuple):
    """Images, degraded in one way.

    Attributes:
        label: what distinguishes it in its experiment: task, kernel, mask, noise.
        operator: A.
        noise_std: σ in the images' unit.
        clean: the images, shape (N, H, W, 3).
        observed: A x + σ ε, not clipped.
    """

    label: dict[str, str | float]
    operator: Operator
    noise_std: float
    clean: Float[np.ndarray, "N H W 3"]
    observed: Float[np.ndarray, "N h w 3"]


def load_images(path: Path | None = None, size: int = 256, limit: int | None = None) -> Squares:
    """The middle squares of photographs; by default of the ten free ones that are here; see `read_squares`."""
    return read_squares(DATA / "images" if path is None else path, size, limit)


def load_kernels(path: Path | None = None, names: Sequence[str] = KERNELS) -> dict[str, Float[np.ndarray, "h w"]]:
    """Blur kernels of an .npz file; by default of the one that is here; see `read_kernels`."""
    return read_kernels(path or DATA / "usrnet12.npz", names)


def observe(label: dict[str, str | float], operator: Operator, sigma: float, images: Squares, seed: int) -> Problem:
    """Degrade images; all get one and the same noise.

    Args:
        label: what the problem is called.
        operator: A.
        sigma: the noise's deviation in grey levels of 255.
        images: the clean images.
        seed: of the noise.

    Returns:
        The problem.
    """
    y = np.asarray(operator(images.pixels))
    noise = np.random.default_rng(seed).standard_normal(y.shape[1:])
    observed = np.asarray(operator.observed(y + (sigma / 255 * noise).astype(np.float32)))
    return Problem({**label, "σ": sigma}, operator, sigma / 255, images.pixels, observed)


def deblurring(
    images: Squares,
    seed: int = 0,
    kernels: Path | None = None,
    noise_levels: Sequence[float] = NOISE_LEVELS,
) -> Iterator[Problem]:
    """The paper's Table 2: circular blur with each kernel at each noise level."""
    loaded = load_kernels(kernels)
    for sigma in noise_levels:
        for name, kernel in loaded.items():
            yield observe({"kernel": name}, Blur(kernel), sigma, images, seed)


def faces(images: Squares, seed: int = 0, kernels: Path | None = None) -> Iterator[Problem]:
    """The paper's Table 1, its kernels not being told: super-resolution, two deblurrings, and an occlusion."""
    loaded = load_kernels(kernels, ("k3", "k4", "k10"))
    size = images.pixels.shape[1]
    box = np.ones((size, size), np.float32)
    box[size // 3 : size * 5 // 8, size * 5 // 16 : size * 11 // 16] = 0  # eyes and nose of a centred face
    operators: dict[str, tuple[Operator, float]] = {
        "SR x4": (SuperResolution(loaded["k3"], 4), 3.0),
        "Deblurring (motion)": (Blur(loaded["k10"]), 8.0),
        "Deblurring (Gaussian)": (Blur(loaded["k4"]), 8.0),
        "Inpainting": (Inpainting(box), 3.0),
    }
    for task, (operator, sigma) in operators.items():
        yield observe({"task": task}, operator, sigma, images, seed)


def inpainting(images: Squares, seed: int = 0, sigma: float = 3.0) -> Iterator[Problem]:
    """The paper's Table 3, small occluded objects, and three more masks."""
    for kind in MASKS:
        operator = Inpainting(make_mask(kind, images.pixels.shape[1], seed))
        yield observe({"mask": kind}, operator, sigma, images, seed)


def final(
    images: Squares, seed: int = 0, kernels: Path | None = None, tasks: Sequence[str] = TASKS, draws: int = 1
) -> Iterator[Problem]:
    """The problems of the final table.

    Args:
        images: the clean images.
        seed: of the masks and the first draw of the noise.
        kernels: an .npz file of blur kernels; by default the one that is here.
        tasks: some of `TASKS`.
        draws: how often to draw the noise, with the seeds that follow `seed`.

    Yields:
        The problems; their labels have "task", "kernel" (an average of deblurring is over kernels) or "case" (which
        super-resolution or mask), and "draw", the number of the noise.

    Raises:
        ValueError: there is no such task, or a kernel is missing.
    """
    if unknown := [task for task in tasks if task not in TASKS]:
        raise ValueError(f"expected tasks of {', '.join(TASKS)}, got {unknown[0]!r}")
    loaded = load_kernels(kernels, (*KERNELS, SUPER_RESOLUTION_KERNEL))
    size = images.pixels.shape[1]
    masks = {"30 % missing": "random30", "70 % missing": "random70", "boxes": "boxes", "text": "text"}
    listed: dict[str, tuple[list[tuple[dict[str, str | float], Operator]], tuple[float, ...]]] = {
        "deblurring": ([({"kernel": name}, Blur(loaded[name])) for name in KERNELS], NOISE_LEVELS),
        "super-resolution": (
            [({"case": f"x{f}"}, SuperResolution(loaded[SUPER_RESOLUTION_KERNEL], f)) for f in (2, 4)],
            (3.0,),
        ),
        "inpainting": (
            [({"case": name}, Inpainting(make_mask(kind, size, seed))) for name, kind in masks.items()],
            (3.0,),
        ),
        "denoising": ([({}, Denoising())], (15.0, 25.0, 50.0)),
    }
    for draw in range(draws):
        for task in tasks:
            operators, noise_levels = listed[task]
            for sigma in noise_levels:
                for label, operator in operators:
                    yield observe({"task": task, **label, "draw": draw}, operator, sigma, images, seed + draw)
