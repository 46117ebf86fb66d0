"""Random crops of a folder of photographs: batch k depends on the seed and k alone, so a run can resume anywhere."""

import os
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from hvae_jax.images import list_images, read_image
from hvae_jax.training.config import TrainConfig


class Photographs:
    """A folder of photographs as a grain data source of downsampled versions.

    A photograph is decoded when it is first asked for and kept, as long as all take no more than half of the
    machine's memory and 8 GiB; what does not fit is decoded each time.

    Args:
        files: the photographs.
        scales: downsampling factors; each photograph is there once per factor that leaves it large enough.
        crop_size: sides smaller than this are not used.

    Raises:
        ValueError: a file is missing, or no photograph is large enough.
    """

    def __init__(self, files: Sequence[Path], scales: Sequence[int], crop_size: int):
        self._files = list(files)
        self._scales = tuple(scales)
        self._crop_size = crop_size
        self._cache: dict[int, list[np.ndarray]] = {}
        self._free_bytes = _cache_limit()
        self._lock = threading.Lock()
        if missing := [str(file) for file in self._files if not file.is_file()]:
            raise ValueError(f"expected photographs that exist, got {len(missing)} that do not, first {missing[0]}")
        if not any(self[i] for i in range(len(self._files))):
            raise ValueError(
                f"expected photographs of at least {crop_size}x{crop_size} pixels, got none in {len(files)} files"
            )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> list[np.ndarray]:
        """The versions of one photograph, 8-bit RGB, largest first; empty if it is too small."""
        with self._lock:
            if index in self._cache:
                return self._cache[index]
        versions = self._load(self._files[index])
        with self._lock:
            size = sum(v.nbytes for v in versions)
            if index not in self._cache and size <= self._free_bytes:
                self._cache[index] = versions
                self._free_bytes -= size
        return versions

    def _load(self, path: Path) -> list[np.ndarray]:
        pixels = read_image(path).pixels
        rgb = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
        versions = []
        for scale in self._scales:
            height, width = rgb.shape[0] // scale, rgb.shape[1] // scale
            if min(height, width) < self._crop_size:
                continue
            cells = rgb[: height * scale, : width * scale].reshape(height, scale, width, scale, 3)
            versions.append(np.round(255 * cells.mean(axis=(1, 3))).astype(np.uint8))
        return versions


def _cache_limit() -> int:
    """Bytes of decoded photographs to keep."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        memory = 4 * 2**30
    return min(8 * 2**30, memory // 2)


def crops(folder: Path, config: TrainConfig, files: Path | None = None) -> Sequence[UInt8[np.ndarray, "B H W 3"]]:
    """Batches of random crops with random flips, without end, by number.

    Args:
        folder: the photographs.
        config: the run's settings.
        files: a text file that names the photographs to use, one path below `folder` a line; all if None.

    Returns:
        What gives the k-th batch when indexed: 8-bit, shape (batch_size, crop_size, crop_size, 3).

    Raises:
        ImportError: grain is not installed.
        ValueError: the folder holds no usable photograph, or one that `files` names is missing.
    """
    try:
        import grain
    except ImportError as error:
        raise ImportError("training needs grain: pip install 'hvae_jax[train]'") from error
    source = Photographs(_listed(Path(folder), files), config.scales, config.crop_size)
    size = config.crop_size

    def crop(versions: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        if not versions:  # a photograph that is too small: take another
            versions = next(v for i in rng.permutation(len(source)) if (v := source[int(i)]))
        image = versions[rng.integers(len(versions))]
        top, left = (rng.integers(side - size + 1) for side in image.shape[:2])
        patch = image[top : top + size, left : left + size]
        return np.ascontiguousarray(patch[:, ::-1] if rng.integers(2) else patch)

    endless = grain.MapDataset.source(source).seed(config.seed).shuffle().repeat()
    return endless.random_map(crop).batch(config.batch_size)


def _listed(folder: Path, files: Path | None) -> list[Path]:
    if files is None:
        return list_images(folder)
    try:
        names = Path(files).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the list of photographs {files}: {error}") from error
    return [folder / name.strip() for name in names if name.strip()]


def batches(
    source: Sequence[UInt8[np.ndarray, "B H W 3"]], start: int = 0
) -> Generator[UInt8[np.ndarray, "B H W 3"], None, None]:
    """The batches of `crops` from number `start` on; the next ones are cut while the device computes."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = [pool.submit(source.__getitem__, start + i) for i in range(2)]
        while True:
            yield ahead.pop(0).result()
            start += 1
            ahead.append(pool.submit(source.__getitem__, start + 1))
