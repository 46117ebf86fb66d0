"""How much memory a restoration may take: a large picture's prior is evaluated on tiles; see `restoration.tiles`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax

from hvae_jax.operators import Operator
from hvae_jax.prior import Prior
from hvae_jax.restoration import Restoration, RestoreConfig, restore
from hvae_jax.restoration.tiles import Progress, bytes_per_pixel, restore_tiled, sight

LARGEST_WHOLE = 2048 * 2048
"""Pixels above which a picture is restored in tiles even where there is memory: so that it can be interrupted."""

LARGEST_TILE = 3200
"""Side in pixels; larger ones gain little."""

COPIES = 12
"""Of a picture, as float32, that a restoration holds beside a tile's activations, those of its checks included."""

BASE = 0.7 * 2**30
"""Bytes of the process with its libraries and compiled programs."""


class Room(NamedTuple):
    """In what pieces to restore.

    Attributes:
        tile: largest side of a tile in pixels; None for the whole picture at once.
        progress: told how many evaluations of a tile are done.
        resume: a folder where an interrupted restoration is kept.
    """

    tile: int | None = None
    progress: Progress | None = None
    resume: Path | None = None

    @classmethod
    def of(
        cls,
        prior: Prior,
        height: int,
        width: int,
        memory: float | None,
        progress: Progress | None = None,
        resume: Path | None = None,
    ) -> Room:
        """For a picture of a size.

        Args:
            prior: the prior.
            height: of the result.
            width: likewise.
            memory: bytes that the process may take; None for what the machine has free, with all pictures of up to four
                megapixels at once.
            progress: see `Room`.
            resume: see `Room`.

        Raises:
            ValueError: the memory is too little for any tile, or the prior sees too far for tiles.
        """
        area = height * width
        if prior.image_size is not None or (memory is None and area <= LARGEST_WHOLE):
            return cls()
        try:
            far = sight(prior)
        except ValueError:
            if memory is not None:
                raise
            return cls()  # it takes what it takes
        allowed = 0.9 * free_memory() if memory is None else memory
        picture = area * prior.config.channels * 4
        per_pixel = bytes_per_pixel(prior)
        left = allowed - BASE - COPIES * picture
        if area <= LARGEST_WHOLE and area * per_pixel <= left:
            return cls()
        side = int(min(math.sqrt(max(left, 0) / per_pixel), LARGEST_TILE))
        least = 2 * far + 4 * prior.multiple
        if side < least:
            need = BASE + COPIES * picture + least**2 * per_pixel
            raise ValueError(
                f"expected {need / 2**30:.1f} GiB of memory at least for a picture of {height}x{width} pixels, "
                f"got {allowed / 2**30:.1f}"
            )
        return cls(side, progress, resume)

    def restore(self, prior: Prior, y: Any, operator: Operator, noise_std: float, config: RestoreConfig) -> Restoration:
        """Algorithm 2."""
        if self.tile is None:
            return restore(prior, y, operator, noise_std, config)
        own = {"tile": self.tile, "progress": self.progress, "resume": self.resume}
        return restore_tiled(prior, y, operator, noise_std, config, **own)  # type: ignore[arg-type]


def free_memory() -> float:
    """Bytes that the default device has free."""
    statistics = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    lines = Path("/proc/meminfo")
    if lines.exists():
        free = next(int(line.split()[1]) * 1024 for line in lines.read_text().splitlines() if "MemAvailable" in line)
        for group in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
            text = Path(group).read_text().strip() if Path(group).exists() else "max"
            if text.isdecimal():
                free = min(free, int(text))
        return free
    return 4 * 2**30
