"""The images and degradations that the benchmarks share."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hvae_jax.images import ImageError, list_images, read_image
from hvae_jax.operators import Blur, Denoising, Inpainting, Operator, SuperResolution

DATA = Path(__file__).parent / "data"
"""Pictures and kernels that are free; see the README.md there."""

KERNELS = ("k4", "k7", "k9", "k11")
"""The paper's for natural images: two Gaussian, two motion blurs."""

NOISE_LEVELS = (2.55, 7.65, 12.75)
"""The paper's for deblurring, in grey levels of 255."""

MASKS = ("objects", "text", "random50", "random80")
"""Of Table 3 and three more; see `mask`."""

TASKS = ("deblurring", "super-resolution", "inpainting", "denoising")
"""Of the final table."""

SUPER_RESOLUTION_KERNEL = "k3"
"""Gaussian, of deviation 1.6 pixels."""


class Images(NamedTuple):
    """Images of one size.

    Attributes:
        names: of their files.
        pixels: in [0, 1].
        source: where they come from, in words.
    """

    names: tuple[str, ...]
    pixels: Float[np.ndarray, "N H W 3"]
    source: str

    @property
    def digest(self) -> str:
        """Of the pixels, to tell whether a finished row is of the same images."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()[:16]


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


def load_images(path: Path | None = None, size: int = 256, limit: int | None = None) -> Images:
    """The centre squares of photographs.

    Args:
        path: a folder; or a text file that names images, one path a line, relative to the folder above its own
            (`data/test/cbsd10.txt` names `test/bsds500_val/3096.jpg`); by default the ten free ones that are here.
        size: side of the squares in pixels.
        limit: take the first ones only.

    Returns:
        The images.

    Raises:
        ImageError: one cannot be read, or is smaller than the square.
    """
    path = DATA / "images" if path is None else path
    if path.is_file() and path.suffix == ".txt":
        files = [path.resolve().parent.parent / name for name in path.read_text().split()]
    else:
        files = list_images(path)
    squares = []
    for file in files[:limit]:
        pixels = read_image(file).pixels
        if min(pixels.shape[:2]) < size:
            raise ImageError(f"{file}: expected at least {size}x{size} pixels, got {pixels.shape[0]}x{pixels.shape[1]}")
        top, left = ((side - size) // 2 for side in pixels.shape[:2])
        square = pixels[top : top + size, left : left + size]
        squares.append(np.broadcast_to(square, (size, size, 3)))
    names = tuple(file.stem for file in files[:limit])
    return Images(names, np.stack(squares), f"{len(names)} of {path.name}, the middle {size}x{size} pixels")


def load_kernels(path: Path | None = None, names: Sequence[str] = KERNELS) -> dict[str, Float[np.ndarray, "h w"]]:
    """Blur kernels of an .npz file; by default of the one that is here."""
    with np.load(path or DATA / "usrnet12.npz") as arrays:
        if missing := [name for name in names if name not in arrays.files]:
            raise ValueError(f"{path}: expected kernels named {', '.join(names)}, got none named {missing[0]}")
        return {name: np.asarray(arrays[name], np.float32) for name in names}


def mask(kind: str, size: int, seed: int) -> Float[np.ndarray, "size size"]:
    """A mask for inpainting, 1 where observed, the same for the same seed.

    Args:
        kind: "objects", ellipses of 6 to 14 pixels, as small objects that were cut out; "boxes", rectangles with sides
            of 12 to 32 pixels; "text"; "random50", half of the pixels missing, and so on from "random01" to "random99".
        size: its side.
        seed: of the random places.

    Returns:
        The mask.

    Raises:
        ValueError: there is no such kind.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    observed = np.ones((size, size), np.float32)
    if kind == "objects":
        for _ in range(max(round(10 * (size / 256) ** 2), 1)):
            centre, axes, angle = rng.uniform(0, size, 2), rng.uniform(6, 14, 2), rng.uniform(0, np.pi)
            v, u = rows - centre[0], columns - centre[1]
            across, along = v * np.cos(angle) - u * np.sin(angle), v * np.sin(angle) + u * np.cos(angle)
            observed[(across / axes[0]) ** 2 + (along / axes[1]) ** 2 < 1] = 0
    elif kind == "boxes":
        for _ in range(max(round(12 * (size / 256) ** 2), 1)):
            height, width = rng.integers(12, 33, 2)
            top, left = rng.integers(0, max(size - height, 0) + 1), rng.integers(0, max(size - width, 0) + 1)
            observed[top : top + height, left : left + width] = 0
    elif kind == "text":
        import PIL.Image
        import PIL.ImageDraw

        page = PIL.Image.new("L", (size, size), 255)
        line = "hierarchical variational autoencoders restore images; " * 4
        for i, top in enumerate(range(4, size - 12, 24)):
            PIL.ImageDraw.Draw(page).text((4 - 29 * i % 60, top), line, fill=0, font_size=14)
        observed = (np.asarray(page) > 127).astype(np.float32)
    elif re.fullmatch(r"random\d\d", kind):
        observed = (rng.random((size, size)) >= int(kind[-2:]) / 100).astype(np.float32)
    else:
        raise ValueError(f"expected a mask 'objects', 'boxes', 'text' or 'randomNN' (NN % missing), got {kind!r}")
    return observed


def observe(label: dict[str, str | float], operator: Operator, sigma: float, images: Images, seed: int) -> Problem:
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
    images: Images,
    seed: int = 0,
    kernels: Path | None = None,
    noise_levels: Sequence[float] = NOISE_LEVELS,
) -> Iterator[Problem]:
    """The paper's Table 2: circular blur with each kernel at each noise level."""
    loaded = load_kernels(kernels)
    for sigma in noise_levels:
        for name, kernel in loaded.items():
            yield observe({"kernel": name}, Blur(kernel), sigma, images, seed)


def faces(images: Images, seed: int = 0, kernels: Path | None = None) -> Iterator[Problem]:
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


def inpainting(images: Images, seed: int = 0, sigma: float = 3.0) -> Iterator[Problem]:
    """The paper's Table 3, small occluded objects, and three more masks."""
    for kind in MASKS:
        operator = Inpainting(mask(kind, images.pixels.shape[1], seed))
        yield observe({"mask": kind}, operator, sigma, images, seed)


def final(
    images: Images, seed: int = 0, kernels: Path | None = None, tasks: Sequence[str] = TASKS, draws: int = 1
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
        "inpainting": ([({"case": name}, Inpainting(mask(kind, size, seed))) for name, kind in masks.items()], (3.0,)),
        "denoising": ([({}, Denoising())], (15.0, 25.0, 50.0)),
    }
    for draw in range(draws):
        for task in tasks:
            operators, noise_levels = listed[task]
            for sigma in noise_levels:
                for label, operator in operators:
                    yield observe({"task": task, **label, "draw": draw}, operator, sigma, images, seed + draw)
