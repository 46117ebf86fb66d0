"""Photographs in each device's memory, and random crops of them that a step cuts itself.

The crops of step k depend on the photographs, the settings and k alone, so a run can resume anywhere, on any device.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from hvae_jax.images import list_images, read_image
from hvae_jax.training.config import TrainConfig
from hvae_jax.training.devices import place

PITCH = 4096
"""Bytes in a row of the store, so that no index needs more than 32 bits, however large the store is."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Store(NamedTuple):
    """Decoded photographs, each in several sizes; a pytree.

    The arrays have room for more than there is, so that every set of one folder has the same shapes.

    Attributes:
        pixels: the versions' bytes one after the other, RGB, each version from the start of a row of `PITCH`.
        row: the row where each version starts.
        height: of each version.
        width: of each version.
        first: the first version of each photograph.
        versions: number of versions of each photograph.
        photographs: number of photographs.
    """

    pixels: UInt8[Array, "R pitch"]
    row: Int[Array, " V"]
    height: Int[Array, " V"]
    width: Int[Array, " V"]
    first: Int[Array, " P"]
    versions: Int[Array, " P"]
    photographs: Int[Array, ""]


def random_crops(store: Store, key: Array, count: int, size: int) -> UInt8[Array, "B S S 3"]:
    """Crops at random places, each turned and mirrored at random into one of the 8 symmetries of the square.

    A photograph is drawn uniformly, then one of its versions, then the place.

    Args:
        store: the photographs; every version is at least as large as a crop.
        key: a key of `jax.random`.
        count: number of crops B.
        size: their side S in pixels.

    Returns:
        8-bit RGB, shape (B, S, S, 3).
    """
    keys = jax.random.split(key, 5)

    def draw(key: Array, bound: Array | int) -> Array:
        return jax.random.randint(key, (count,), 0, bound)

    photograph = draw(keys[0], store.photographs)
    version = store.first[photograph] + draw(keys[1], store.versions[photograph])
    height, width = store.height[version], store.width[version]
    top, left = draw(keys[2], height - size + 1), draw(keys[3], width - size + 1)
    symmetry = draw(keys[4], 8)[:, None, None]
    upside_down, mirrored, transposed = ((symmetry >> bit) % 2 == 1 for bit in range(3))

    # For each pixel of a crop the place in the version that it comes from.
    i, j = jnp.arange(size)[:, None], jnp.arange(size)[None, :]
    i, j = jnp.where(transposed, j, i), jnp.where(transposed, i, j)
    y = top[:, None, None] + jnp.where(upside_down, size - 1 - i, i)
    x = left[:, None, None] + jnp.where(mirrored, size - 1 - j, j)
    byte = 3 * (y * width[:, None, None] + x)[..., None] + jnp.arange(3)
    row = store.row[version][:, None, None, None] + byte // PITCH
    return store.pixels.at[row, byte % PITCH].get(mode="promise_in_bounds")


class Photographs:
    """A folder of photographs as a store on each device.

    They are decoded once if they all fit `store_gib`. Else the store holds as many as fit, in an order that is
    drawn anew every `store_steps` steps, and the next set is decoded while the device works on this one.

    Args:
        folder: the photographs.
        config: the run's settings.
        where: the devices that have a copy of the store; each process decodes the photographs for its own.
        files: a text file that names the photographs to use, one path below `folder` a line; all if None.

    Raises:
        ValueError: the folder holds no photograph, or one that `files` names is missing.

    Attributes:
        names: of the photographs, relative to the folder.
        seconds: that were spent waiting for photographs, the first set's apart.
    """

    def __init__(self, folder: Path, config: TrainConfig, where: jax.sharding.Sharding, files: Path | None = None):
        self._files = _listed(Path(folder), files)
        self.names = [os.path.relpath(file, folder) for file in self._files]
        self._config = config
        self._where = where
        self._loader = ThreadPoolExecutor(max_workers=1)
        self._coming: dict[int, Future[tuple[Store, bool]]] = {}
        self._store: Store | None = None
        self._set: int | None = None
        self._complete = False
        self.seconds = 0.0
        if missing := [str(file) for file in self._files if not file.is_file()]:
            raise ValueError(f"expected photographs that exist, got {len(missing)} that do not, first {missing[0]}")

    def at(self, step: int) -> tuple[Store, int]:
        """What the step after `step` cuts its crops from, and for how many steps it is that.

        Raises:
            ValueError: a photograph cannot be read, none is large enough, or the memory is too small.
        """
        number, done = divmod(step, self._config.store_steps)
        if self._store is None or not (self._complete or self._set == number):
            start, is_first = time.perf_counter(), self._store is None
            coming = self._coming.pop(number, None) or self._loader.submit(self._pack, number)
            self._store, self._complete = coming.result()
            self._set = number
            if not self._complete:
                self._coming = {number + 1: self._loader.submit(self._pack, number + 1)}
            if not is_first:
                self.seconds += time.perf_counter() - start
        return self._store, self._config.steps if self._complete else self._config.store_steps - done

    def close(self) -> None:
        """Stop decoding."""
        self._loader.shutdown(cancel_futures=True)

    def _pack(self, number: int) -> tuple[Store, bool]:
        """The `number`-th set of photographs, and whether it is all of them."""
        rows = int(self._config.store_gib * 2**30) // PITCH
        pixels = np.zeros((rows, PITCH), np.uint8)  # costs no memory before it is written to
        used = 0
        places: dict[int, list[tuple[int, int, int]]] = {}
        complete = True
        order = np.random.default_rng((self._config.seed, number)).permutation(len(self._files)).tolist()
        for index, versions in zip(order, _map_ahead(self._load, order), strict=True):
            if used + sum(_rows(version) for version in versions) > rows:
                complete = False
                break
            for version in versions:
                pixels[used : used + _rows(version)].reshape(-1)[: version.size] = version.reshape(-1)
                places.setdefault(index, []).append((used, *version.shape[:2]))
                used += _rows(version)
        if not places:
            size, count = self._config.crop_size, len(self._files)
            raise ValueError(
                f"expected photographs of at least {size}x{size} pixels, got none in {count} files"
                if complete
                else f"expected store_gib large enough for one photograph, got {self._config.store_gib}"
            )
        # Twice where a set follows, for it comes before the last step with this one has ended.
        needed = PITCH * (used if complete else 2 * rows)
        if needed > (limit := _memory(self._where)):
            raise ValueError(
                f"expected {needed / 2**30:.1f} GiB of memory for the photographs, got {limit / 2**30:.1f}; "
                "set a smaller store_gib"
            )
        # In the order of the files, for a set that holds all is the same whatever its number.
        groups = [places[index] for index in sorted(places)]
        row, height, width = np.array([place for group in groups for place in group], np.int32).T
        counts = np.array([len(group) for group in groups], np.int32)

        def table(values: np.ndarray, length: int) -> Array:
            return place(np.pad(values, (0, length - len(values))), self._where)

        most = len(self._files) * len(self._config.scales)
        store = Store(
            pixels=place(pixels[:used] if complete else pixels, self._where),
            row=table(row, most),
            height=table(height, most),
            width=table(width, most),
            first=table(np.cumsum(counts, dtype=np.int32) - counts, len(self._files)),
            versions=table(counts, len(self._files)),
            photographs=place(np.int32(len(groups)), self._where),
        )
        return store, complete

    def _load(self, index: int) -> list[UInt8[np.ndarray, "H W 3"]]:
        """The versions of one photograph, 8-bit RGB, largest first; none if it is too small."""
        pixels = read_image(self._files[index]).pixels
        rgb = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
        versions = []
        for scale in self._config.scales:
            height, width = rgb.shape[0] // scale, rgb.shape[1] // scale
            if min(height, width) < self._config.crop_size:
                continue
            cells = rgb[: height * scale, : width * scale].reshape(height, scale, width, scale, 3)
            versions.append(np.round(255 * cells.mean(axis=(1, 3))).astype(np.uint8))
        return versions


def _listed(folder: Path, files: Path | None) -> list[Path]:
    if files is None:
        return list_images(folder)
    try:
        names = Path(files).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the list of photographs {files}: {error}") from error
    return [folder / name.strip() for name in names if name.strip()]


def _map_ahead(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """`map` in a pool of threads that is only a few items ahead, for the results are large."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[_Result]] = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _rows(version: np.ndarray) -> int:
    return -(-version.size // PITCH)


def _memory(where: jax.sharding.Sharding) -> int:
    """Bytes of photographs per device: 60 % of its memory where it is known, else its share of half the machine's."""
    devices: list[jax.Device] = list(where.addressable_devices)
    if limit := (devices[0].memory_stats() or {}).get("bytes_limit"):
        return int(0.6 * limit)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // len(devices)
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 2 * 2**30
