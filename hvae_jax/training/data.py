"""Random crops of a folder of photographs: batch k depends on the seed and k alone, so a run can resume anywhere."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from hvae_jax.images import list_images, read_image

_CACHE_BYTES = 8 * 2**30


class Photographs:
    """A folder of photographs as a grain data source of downsampled versions.

    A photograph is decoded when it is first asked for and kept in memory up to a limit of 8 GiB in all.

    Args:
        files: the photographs.
        scales: downsampling factors; each photograph is there once per factor that leaves it large enough.
        crop_size: sides smaller than this are not used.

    Raises:
        ValueError: no photograph is large enough.
    """

    def __init__(self, files: Sequence[Path], scales: Sequence[int], crop_size: int):
        self._files = list(files)
        self._scales = tuple(scales)
        self._crop_size = crop_size
        self._cache: dict[int, list[np.ndarray]] = {}
        self._cached_bytes = 0
        self._lock = threading.Lock()
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
            if index not in self._cache and self._cached_bytes + size <= _CACHE_BYTES:
                self._cache[index] = versions
                self._cached_bytes += size
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


def batches(
    folder: Path, config, start: int = 0, files: Path | None = None
) -> Iterator[UInt8[np.ndarray, "B H W 3"]]:
    """Batches of random crops with random flips, without end.

    Args:
        folder: the photographs.
        config: the run's `TrainConfig`.
        start: number of the first batch; the sequence continues as if all before it had been drawn.
        files: a text file that names the photographs to use, one path below `folder` a line; all if None.

    Yields:
        8-bit crops of shape (batch_size, crop_size, crop_size, 3).

    Raises:
        ImportError: grain is not installed.
        ValueError: the folder holds no usable photograph.
    """
    try:
        import grain
    except ImportError as error:
        raise ImportError("training needs grain: pip install 'hvae_jax[train]'") from error
    names = list_images(folder) if files is None else [folder / n for n in files.read_text().splitlines() if n]
    source = Photographs(names, config.scales, config.crop_size)
    size = config.crop_size

    def crop(versions: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        if not versions:  # a photograph that is too small: take another
            versions = next(v for i in rng.permutation(len(source)) if (v := source[int(i)]))
        image = versions[rng.integers(len(versions))]
        top, left = (rng.integers(side - size + 1) for side in image.shape[:2])
        patch = image[top : top + size, left : left + size]
        return np.ascontiguousarray(patch[:, ::-1] if rng.integers(2) else patch)

    dataset = (
        grain.MapDataset.source(source)
        .seed(config.seed)
        .shuffle()
        .repeat()
        .random_map(crop)
        .batch(config.batch_size)
    )
    # The next batches are cut while the device computes.
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = [pool.submit(dataset.__getitem__, start + i) for i in range(2)]
        while True:
            yield ahead.pop(0).result()
            start += 1
            ahead.append(pool.submit(dataset.__getitem__, start + 1))
