"""Blur kernels: made from numbers, read from files, or written."""

import io
import math
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hvae_jax.images.bounds import decode_npy
from hvae_jax.images.formats import FITS, NPY, SUFFIXES, TIFF, FilePath, ImageError, check_is_file, reason
from hvae_jax.images.read import read_image
from hvae_jax.images.write import write_image

# In pixels, of kernels made from numbers: far above any blur worth restoring, and a slip fits in memory.
_MAX_KERNEL_WIDTH = 256


MOST_BYTES = 64 << 20
"""Of a kernel's file, and of what it holds."""


class Kernel(NamedTuple):
    """A kernel, and what was changed in what a file holds.

    Attributes:
        values: float32, not negative, with sum 1, its centre at size // 2.
        notes: sentences.
    """

    values: Float[np.ndarray, "kernel_height kernel_width"]
    notes: tuple[str, ...] = ()


def parse_kernel(
    spec: str, max_shape: tuple[int, int] | None = None
) -> Float[np.ndarray, "kernel_height kernel_width"]:
    """Make the blur kernel that a user describes on the command line; `read_kernel` without its notes.

    Args:
        spec: see there.
        max_shape: height and width of the image to be restored, which the kernel must not exceed.

    Returns:
        The kernel, float32, not negative, with sum 1; its centre is at size // 2.

    Raises:
        ImageError: the description is not understood, the file cannot be read, or it holds no kernel.
    """
    kernel = read_kernel(spec).values
    if max_shape is not None and (kernel.shape[0] > max_shape[0] or kernel.shape[1] > max_shape[1]):
        raise ImageError(f"kernel {spec}: expected at most the image's {max_shape} pixels, got {kernel.shape}")
    return kernel


def read_kernel(spec: str, *, keep_origin: bool = False) -> Kernel:
    """Make the blur kernel that a user describes.

    What a file holds is made a kernel as far as there is no doubt: a level at its border that is nearly constant (a
    camera's dark level) is subtracted, small negative numbers are taken as 0, empty borders are cut off, and it is
    centred, for a kernel whose centre of mass is elsewhere moves the picture.

    Args:
        spec: one of `gaussian:WIDTH` (standard deviation in pixels) or `gaussian:WIDTH,HEIGHT,ANGLE` (an elongated
            one, turned), `motion:LENGTH,ANGLE` (pixels; degrees counter-clockwise from the horizontal),
            `disk:RADIUS` (out of focus), `box:SIDE`, or a file: .npy, .npz or .mat (`file.npz:name` where it holds
            several arrays), .txt or .csv (rows of numbers, separated by spaces, commas or semicolons; lines that begin
            with # are skipped), .fits, or an image (its channels are averaged; of one colour with a shape in its alpha,
            that).
        keep_origin: leave a file's kernel where it is, its centre being at size // 2.

    Returns:
        The kernel, and what was changed.

    Raises:
        ImageError: the description is not understood, the file cannot be read, or it holds no kernel.
    """
    kind, _, numbers = spec.partition(":")
    notes: list[str] = []
    if kind in _MADE_KERNELS:
        make, forms = _MADE_KERNELS[kind]
        try:
            values = [float(number) for number in numbers.split(",")]
        except ValueError:
            values = []
        names = next((form for form in forms if len(form) == len(values)), None)
        if names is None or not all(map(math.isfinite, values)):
            wanted = " or ".join(f"{kind}:{','.join(form)}" for form in forms)
            raise ImageError(f"kernel {spec}: expected {wanted} with numbers, got {numbers!r}")
        for name, value in zip(names, values, strict=True):
            if name != "ANGLE" and not 0 < value <= _MAX_KERNEL_WIDTH:
                wanted = f"a {name} above 0 and at most {_MAX_KERNEL_WIDTH}"
                raise ImageError(f"kernel {spec}: expected {wanted}, got {value:g}")
        kernel = make(*values)
    else:
        kernel = _read_kernel(spec)
        if kernel.ndim == 3 and kernel.shape[-1] == 1:  # a picture of one channel
            kernel = kernel[..., 0]
        if kernel.ndim != 2 or kernel.size == 0 or kernel.dtype.kind not in "biuf":
            raise ImageError(
                f"kernel {spec}: expected a matrix of numbers, got shape {kernel.shape} of type {kernel.dtype}"
            )
        if np.isfinite(kernel).all() and kernel.max() > 0:
            kernel = _cleaned(kernel.astype(np.float64) / float(kernel.max()), keep_origin, notes)
    if not np.isfinite(kernel).all() or kernel.min() < 0 or kernel.max() == 0:
        raise ImageError(f"kernel {spec}: expected finite numbers of at least 0 and not all 0, got others")
    weights = kernel.astype(np.float64) / float(kernel.max())  # first, for the sum must not overflow
    return Kernel((weights / weights.sum()).astype(np.float32), tuple(f"kernel {spec}: {note}" for note in notes))


SMALL_NEGATIVE = 0.05
"""Of a kernel's maximum; more is no rounding."""

DARK_LEVEL = 0.01, 0.1
"""Of a kernel's maximum: a border above the former is a camera's if it varies by less than the latter times itself."""


def _cleaned(kernel: np.ndarray, keep_origin: bool, notes: list[str]) -> np.ndarray:
    """A file's kernel of maximum 1 without what is none of a kernel, centred."""
    border = np.concatenate([kernel[0], kernel[-1], kernel[:, 0], kernel[:, -1]])
    level = float(np.median(border))
    if min(kernel.shape) > 2 and level > DARK_LEVEL[0] and np.ptp(border) <= DARK_LEVEL[1] * level < level < 0.9:
        notes.append(
            f"a level of {level:.1%} of its maximum at its border, as of a camera's dark level, was subtracted"
        )
        kernel = np.maximum(kernel - border.max(), 0)
    if -SMALL_NEGATIVE <= kernel.min() < 0:
        notes.append(f"negative numbers down to {kernel.min():.1%} of its maximum were taken as 0")
        kernel = np.maximum(kernel, 0)
    if keep_origin or kernel.min() < 0:
        return kernel
    at = [
        float((np.arange(size) * kernel.sum(axis=1 - axis)).sum() / kernel.sum())
        for axis, size in enumerate(kernel.shape)
    ]
    away = [middle - size // 2 for middle, size in zip(at, kernel.shape, strict=True)]
    filled = [np.flatnonzero((kernel > 1e-6).any(axis=1 - axis)) for axis in (0, 1)]
    if max(map(abs, away)) > 0.5:
        notes.append(
            f"its centre of mass is {away[0]:+.1f} rows and {away[1]:+.1f} columns from its centre, which would move "
            "the picture; it was centred (--keep-origin leaves it)"
        )
        origin = [round(middle) for middle in at]
        reach = [max(o - int(f[0]), int(f[-1]) - o) for o, f in zip(origin, filled, strict=True)]
        padded = np.pad(kernel, [(r, r) for r in reach])
        return padded[origin[0] : origin[0] + 2 * reach[0] + 1, origin[1] : origin[1] + 2 * reach[1] + 1]
    # As much on both sides, so that the centre stays.
    empty = [min(int(f[0]), size - 1 - int(f[-1])) for f, size in zip(filled, kernel.shape, strict=True)]
    return kernel[empty[0] : kernel.shape[0] - empty[0], empty[1] : kernel.shape[1] - empty[1]]


def read_kernels(
    path: FilePath, names: Sequence[str] | None = None
) -> dict[str, Float[np.ndarray, "kernel_height kernel_width"]]:
    """Read blur kernels from an .npz file.

    Args:
        path: the file.
        names: of the kernels, in the order wanted; by default all that are there.

    Returns:
        The kernels by name, each as `parse_kernel` gives it.

    Raises:
        ImageError: there is no such file or kernel, or one is none.
    """
    path = Path(path)
    check_is_file(path)
    if path.suffix.lower() != ".npz":
        raise ImageError(f"{path}: expected an .npz file of kernels, got {path.suffix or 'no ending'}")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            known = list(archive.files)
    except Exception as error:  # damaged archives raise nearly anything; an array alone has no names
        raise ImageError(f"{path}: expected an .npz file of kernels, got another or a damaged file") from error
    wanted = known if names is None else names
    if missing := [name for name in wanted if name not in known]:
        raise ImageError(f"{path}: expected kernels named {', '.join(wanted)}, got none named {missing[0]}")
    if not wanted:
        raise ImageError(f"{path}: expected kernels, found none")
    return {name: parse_kernel(f"{path}:{name}") for name in wanted}


def write_kernel(
    path: FilePath, kernel: Float[np.ndarray, "kernel_height kernel_width"], *, overwrite: bool = False
) -> None:
    """Write a kernel, which `read_kernel` reads again: its numbers, or a picture whose white is the largest of them.

    Args:
        path: the file; .npy, .tif and .fits hold the numbers.
        kernel: not negative, with a positive sum.
        overwrite: whether an existing file may be replaced.

    Raises:
        ImageError: the file cannot be written.
    """
    exact = Path(path).suffix.lower() in (*NPY, *TIFF, *FITS)
    write_image(path, kernel if exact else kernel / kernel.max(), bit_depth=32, overwrite=overwrite)


def _gaussian(width: float, height: float | None = None, angle: float = 0.0) -> np.ndarray:
    height = width if height is None else height
    radius = math.ceil(3 * max(width, height))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    right, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along, across = x * right - y * up, x * up + y * right  # rows count downwards
    return np.exp(-0.5 * ((along / width) ** 2 + (across / height) ** 2))


def _disk(radius: float) -> np.ndarray:
    """A pixel at the rim weighs about the part of it that is inside."""
    reach = math.ceil(radius)
    return np.clip(radius + 0.5 - np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]), 0, 1)


def _box(side: float) -> np.ndarray:
    """Centred, so that a pixel at the edge of an even or broken side weighs the part of it that is inside."""
    reach = math.ceil((side - 1) / 2 - 1e-9)
    profile = np.clip(side / 2 + 0.5 - np.abs(np.arange(-reach, reach + 1)), 0, 1)
    return np.outer(profile, profile)


def _motion(length: float, angle: float) -> np.ndarray:
    """A straight path; a pixel weighs 1 less its distance to it, so that lines of any angle are smooth."""
    half = max(length - 1, 0) / 2
    right, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # A rounding error of the sine must not add an empty row.
    reach_y, reach_x = (math.ceil(half * abs(part) - 1e-9) for part in (up, right))
    y, x = np.mgrid[-reach_y : reach_y + 1, -reach_x : reach_x + 1]
    along = np.clip(x * right - y * up, -half, half)  # rows count downwards
    distance = np.hypot(x - along * right, y + along * up)
    return np.maximum(0, 1 - distance)


_MADE_KERNELS: dict[str, tuple[Callable[..., np.ndarray], tuple[tuple[str, ...], ...]]] = {
    "gaussian": (_gaussian, (("WIDTH",), ("WIDTH", "HEIGHT", "ANGLE"))),
    "motion": (_motion, (("LENGTH", "ANGLE"),)),
    "disk": (_disk, (("RADIUS",),)),
    "box": (_box, (("SIDE",),)),
}


def _read_kernel(spec: str) -> np.ndarray:
    member = re.fullmatch(r"(.+\.(?:npz|mat)):(.+)", spec, re.IGNORECASE)
    path, name = (Path(member[1]), member[2]) if member and not os.path.exists(spec) else (Path(spec), None)
    if not os.path.exists(path):
        wanted = "gaussian:WIDTH, motion:LENGTH,ANGLE, disk:RADIUS, box:SIDE or a file"
        raise ImageError(f"kernel {spec}: expected {wanted}, but there is no such file")
    check_is_file(path)
    suffix = path.suffix.lower()
    if suffix not in (*SUFFIXES, ".npz", ".mat", ".txt", ".csv"):
        raise ImageError(
            f"{path}: expected a kernel file ending in {', '.join(SUFFIXES)}, .npz, .mat, .txt or .csv, "
            f"got {suffix or 'no ending'}"
        )
    if suffix in SUFFIXES and suffix not in NPY:
        image = read_image(path)
        if image.alpha is not None and np.ptp(image.pixels) == 0 < np.ptp(image.alpha):
            return image.alpha[..., 0]
        return image.pixels.mean(axis=-1)
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ImageError(f"{path}: expected a kernel file of at most {MOST_BYTES} bytes, got {size}")
        # Read at once, so that a damaged length asks for no more memory than there is file.
        file = io.BytesIO(path.read_bytes())
        if suffix in NPY:
            return decode_npy(file, size)
        if suffix == ".npz":
            with zipfile.ZipFile(file) as archive:
                entries = {entry.removesuffix(".npy"): entry for entry in archive.namelist()}
                chosen = entries[_chosen(path, list(entries), name)]
                if archive.getinfo(chosen).file_size > MOST_BYTES:
                    raise ImageError(f"{path}: expected an array of at most {MOST_BYTES} bytes, got a larger one")
                content = archive.read(chosen)
                return decode_npy(io.BytesIO(content), len(content))
        if suffix == ".mat":
            from scipy.io import loadmat, whosmat

            shapes = {key: shape for key, shape, _ in whosmat(file) if not key.startswith("__")}
            chosen = _chosen(path, list(shapes), name)
            if 8 * math.prod(shapes[chosen]) > MOST_BYTES:
                raise ImageError(f"{path}: expected a matrix of at most {MOST_BYTES} bytes, got {shapes[chosen]}")
            file.seek(0)
            return np.asarray(loadmat(file, variable_names=[chosen])[chosen])
        lines = file.read().decode("utf-8-sig").replace(",", " ").replace(";", " ").splitlines()
        rows = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        return np.array([[float(number) for number in row] for row in rows])
    except ImageError:
        raise
    except Exception as error:  # damaged archives raise nearly anything
        raise ImageError(f"{path}: expected a kernel, got: {reason(error)}") from error


def _chosen(path: Path, names: Sequence[str], name: str | None) -> str:
    """The name of one of several arrays."""
    if name is None and len(names) == 1:
        name = names[0]
    if name is None:
        choice = f"choose with {path}:NAME from {', '.join(names)}"
        raise ImageError(f"{path}: expected one array, got {len(names)}; {choice}")
    if name not in names:
        raise ImageError(f"{path}: expected an array named {name}, got {', '.join(names)}")
    return name
