"""Algorithm 2 on a picture of any size in bounded memory: the prior sees tiles, the data step the whole.

An iteration's data step is global (a division of spectra, or a mask), so there is no seam to hide. The prior is
evaluated on tiles that overlap by as far as it sees, of which the inner parts are kept: they are what it gives on the
whole picture.

The loop over iterations and tiles is Python's. It holds a few copies of the picture and one tile's activations; each
tile is one call of one compiled program, between which a progress bar moves and Ctrl-C ends the run; and a run that
ended goes on from its last iteration.
"""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hvae_jax.encoding import compiled_reconstruct, reconstruct
from hvae_jax.files import writing
from hvae_jax.operators import Blur, Denoising, Operator, SuperResolution
from hvae_jax.prior import Prior
from hvae_jax.restoration.pnp_hvae import encode_decode
from hvae_jax.restoration.problem import Problem, pose
from hvae_jax.restoration.recommended import recommended_config
from hvae_jax.restoration.result import Restoration, Status
from hvae_jax.restoration.settings import RestoreConfig, StopState

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many evaluations of a tile are done, and how many there are at most."""

FARTHEST = 448
"""Pixels: a prior that sees farther is not evaluated on tiles."""

UNSEEN = 1e-5
"""Change of a pixel, in the images' unit, below which the prior does not see what changed."""


class Tile(NamedTuple):
    """A part of a picture.

    Attributes:
        seen: rows and columns on which the prior is evaluated.
        kept: those of the picture that are taken from there.
    """

    seen: tuple[slice, slice]
    kept: tuple[slice, slice]

    @property
    def inner(self) -> tuple[slice, slice]:
        """What is kept, as rows and columns of the tile."""
        rows, columns = (
            slice(kept.start - seen.start, kept.stop - seen.start)
            for seen, kept in zip(self.seen, self.kept, strict=True)
        )
        return rows, columns


def plan_tiles(height: int, width: int, largest: int, margin: int, multiple: int) -> list[Tile]:
    """Tiles of one size that cover a picture, overlapping by twice a margin at least; as few as may be.

    Args:
        height: of the picture, a multiple of `multiple`.
        width: likewise.
        largest: side of a tile, at most; more than twice the margin.
        margin: pixels around what is kept of a tile, but at the picture's borders.
        multiple: of the prior.

    Returns:
        The tiles.

    Raises:
        ValueError: the tiles are too small for the margin.
    """
    largest = largest // multiple * multiple
    if largest <= 2 * margin:
        raise ValueError(
            f"expected tiles of more than {2 * margin} pixels, as this prior sees {margin} far, got {largest}"
        )

    def along(length: int) -> list[tuple[slice, slice]]:
        count = 1 if length <= largest else math.ceil((length - 2 * margin) / (largest - 2 * margin))
        side = math.ceil((length + 2 * margin * (count - 1)) / count / multiple) * multiple
        side = min(side, length)
        starts = [min(i * (side - 2 * margin) // multiple * multiple, length - side) for i in range(count)]
        cuts = [0, *(start + margin for start in starts[1:]), length]
        return [(slice(start, start + side), slice(*cuts[i : i + 2])) for i, start in enumerate(starts)]

    return [
        Tile((rows, columns), (kept_rows, kept_columns))
        for rows, kept_rows in along(height)
        for columns, kept_columns in along(width)
    ]


_sight: dict[tuple[Any, str], int] = {}


def sight(prior: Prior) -> int:
    """How far a prior sees, in pixels: beyond that, what changes in an image does not change the decoded mean.

    It is measured, on an image of which one half is exchanged, and kept for the prior.

    Args:
        prior: the prior.

    Returns:
        A multiple of `prior.multiple`.

    Raises:
        ValueError: the prior has one image size, or sees farther than 448 pixels.
    """
    if prior.image_size is not None:
        raise ValueError(f"expected a prior of any size for tiles, got one of {prior.image_size} pixels")
    key = (prior.model, prior.digest)
    if key not in _sight:
        multiple = prior.multiple
        shape = (max(64 // multiple, 1) * multiple, 2 * -(-FARTHEST // multiple) * multiple, prior.config.channels)
        rng = np.random.default_rng(0)
        # Steps and noise, for the prior sees farther in a picture than in noise alone.
        steps = np.repeat(np.repeat(rng.random((shape[0] // 8, shape[1] // 8, shape[2])), 8, axis=0), 8, axis=1)
        one = (0.7 * steps + 0.3 * rng.random(shape)).astype(np.float32)
        other = one.copy()
        other[:, shape[1] // 2 :] = rng.random((shape[0], shape[1] // 2, shape[2]))
        level = {"noise_level": 49 / 255} if prior.config.noise_conditional else {}
        means = reconstruct(prior, np.stack([one, other]), 1.0, **level)
        changed = np.abs(np.asarray(means[0] - means[1]))[:, : shape[1] // 2].max(axis=(0, 2)) > UNSEEN
        far = shape[1] // 2 - int(np.argmax(changed)) if changed.any() else 0
        _sight[key] = -(-far // multiple) * multiple
    if _sight[key] > FARTHEST - prior.multiple:
        raise ValueError(
            f"expected a prior that sees at most {FARTHEST} pixels far for tiles, got one that sees farther"
        )
    return _sight[key]


def restore_tiled(
    prior: Prior,
    y: Float[ArrayLike, "*observations"],
    operator: Operator,
    noise_std: ArrayLike,
    config: RestoreConfig | None = None,
    *,
    tile: int = 1024,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Restoration:
    """Restore one picture of any size by Algorithm 2, the prior evaluated on tiles; see `restore`.

    The result is that of `restore` to 1e-4.

    Args:
        prior: the prior, of any size.
        y: the observation, without a batch axis.
        operator: A.
        noise_std: σ in the images' unit.
        config: the settings; by default those that the prior recommends.
        tile: largest side of a tile in pixels.
        progress: told before each tile.
        resume: a folder where the last iteration is kept, from which the same call goes on after it was interrupted;
            it is removed at the end.

    Returns:
        The restored image, both iterates, and how it ended; arrays of NumPy.

    Raises:
        ValueError: a shape, a type or a setting does not fit; the settings need J1 (eq. 15), whose latent terms are of
            the whole picture and not the sum of those of overlapping tiles.
        OSError: the folder cannot be written.

    Example:
        >>> out = restore_tiled(prior, y, operators.Blur(kernel), 2.55 / 255, tile=1024)
    """
    if config is None:
        config = recommended_config(prior, noise_std, operator)
    if config.needs_objective:
        raise ValueError(
            "expected settings without J1 (history, Plateau of the objective) for tiles, got one: its latent terms are "
            "not those of tiles that overlap"
        )
    if config.initial == "official":
        raise ValueError('expected initial="encode" or "image" for tiles, got "official", which draws at random')
    problem, single = pose(prior, y, operator, noise_std, config, None, None)
    if not single:
        raise ValueError(f"expected one picture for tiles, got a batch of {len(problem.y)}")
    _, height, width, _ = operator.image_shape(problem.y.shape)
    run = _Run(problem, plan_tiles(height, width, tile, sight(prior), prior.multiple), square=height == width)
    kept = None if resume is None else resume / f".hvae-jax-part-{run.digest()}.npz"
    out = run.restore(progress or (lambda done, count: None), kept)
    if kept is not None:
        kept.unlink(missing_ok=True)
    return out._replace(image=out.mean if config.returns in ("mean", ("mean",)) else out.x)


class _Run:
    """A restoration in tiles: the problem, and where it is."""

    def __init__(self, problem: Problem, tiles: list[Tile], square: bool) -> None:
        self._problem, self._tiles, self._config, self._square = problem, tiles, problem.config, square
        # Without what is of the whole picture, so that pictures with tiles of one size share one program.
        small = jnp.zeros((1, 1, 1, problem.y.shape[-1]), problem.y.dtype)
        self._local = problem._replace(y=small, operator=Denoising(), start=None, reference=None)

    def restore(self, progress: Progress, kept: Path | None) -> Restoration:
        """The loop of `pnp_hvae.restore`."""
        config, dtype = self._config, self._problem.y.dtype
        beta = jnp.full((1,), config.stop.betas[0], dtype)
        rule = StopState(beta, jnp.full((1,), jnp.inf, dtype), jnp.zeros((1,), jnp.int32))
        first, residual = 0, np.float32(np.inf)
        begun = config.initial == "encode"
        count = len(self._tiles) * (config.max_iterations + begun)
        status = Status.ITERATION_LIMIT if float(np.asarray(config.stop.tolerance)) > 0 else Status.COMPLETED
        state = self._load(kept)
        if state is None:
            x = np.asarray(self._problem.x0)
            mean = self._evaluate(x, 0, rule.beta, partial(_told, progress, 0, count)) if begun else x
        else:
            x, mean, first, rule = state
        for k in range(first, config.max_iterations):
            new = self._data_step(mean, k, rule.beta)
            done = partial(_told, progress, len(self._tiles) * (k + begun), count)
            new_mean = self._evaluate(new, k, rule.beta, done)
            if not (np.isfinite(new).all() and np.isfinite(new_mean).all()):
                status, first = Status.NOT_FINITE, k
                break
            residual = _distance(new, x)
            x, mean, first = new, new_mean, k + 1
            rule, stopped = config.stop.update(rule, jnp.full((1,), residual, dtype), None)
            if bool(stopped[0]) and not (config.initial == "image" and k == 0):
                status = Status.CONVERGED
                break
            if kept is not None and first < config.max_iterations:
                self._save(kept, x, mean, first, rule)
        progress(count, count)
        last = self._data_step(mean, max(first - 1, 0), rule.beta)
        last = last if np.isfinite(last).all() else x
        one = (jnp.asarray(first), jnp.asarray(residual), jnp.asarray(int(status)))
        return Restoration(last[0], last[0], mean[0], *one, None)

    def _evaluate(self, x: np.ndarray, k: int, beta: Array, progress: Callable[[int], None]) -> np.ndarray:
        mean = np.empty_like(x)
        iteration = jnp.full((1,), k, jnp.int32)
        for i, tile in enumerate(self._tiles):
            progress(i)
            part = _evaluate(self._local, x[:, *tile.seen], beta, iteration, self._square)
            mean[:, *tile.kept] = np.asarray(part)[:, *tile.inner]
        return mean

    def _data_step(self, mean: np.ndarray, k: int, beta: Array) -> np.ndarray:
        problem: Any = self._problem
        if not isinstance(problem.operator, Blur | SuperResolution):
            return np.asarray(_data_step(problem, mean, k, beta))
        # Which do the same in each channel: one after the other takes a third of the memory.
        x = np.empty_like(mean)
        for c in range(mean.shape[-1]):
            channel = problem._replace(y=problem.y[..., c : c + 1], start=None)
            x[..., c : c + 1] = _data_step(channel._replace(prior=None), mean[..., c : c + 1], k, beta)
        return x

    def digest(self) -> str:
        """Of all that the result depends on."""
        digest = hashlib.sha256(repr((self._config.max_iterations, self._config.initial, self._tiles)).encode())
        digest.update(repr((self._config.orientations, jax.tree.structure(self._problem))).encode())
        for leaf in jax.tree.leaves(self._problem):
            digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
        return digest.hexdigest()[:16]

    def _save(self, path: Path, x: np.ndarray, mean: np.ndarray, iteration: int, rule: StopState) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as file:
            np.savez(file, x=x, mean=mean, iteration=iteration, **rule._asdict())

    def _load(self, path: Path | None) -> tuple[np.ndarray, np.ndarray, int, StopState] | None:
        if path is None or not path.exists():
            return None
        with np.load(path) as kept:
            rule = StopState(*(jnp.asarray(kept[name]) for name in StopState._fields))
            return kept["x"], kept["mean"], int(kept["iteration"]), rule


@partial(jax.jit, static_argnames="square")
def _evaluate(problem: Problem, x: Array, beta: Array, iteration: Array, square: bool) -> Array:
    return encode_decode(problem, x, beta, iteration, square)[0]


@jax.jit
def _data_step(problem: Problem, mean: Array, iteration: Array, beta: Array) -> Array:
    gamma = problem.decoder_std(iteration)
    return problem.data_step()(mean, problem.ratio(beta, gamma))


def _told(progress: Progress, before: int, count: int, done: int) -> None:
    progress(before + done, count)


def _distance(x: np.ndarray, y: np.ndarray) -> np.floating:
    """Root of the mean squared difference, some rows at a time so that there is no other copy."""
    parts = (slice(start, start + 256) for start in range(0, x.shape[1], 256))
    total = sum(float(np.sum((x[:, rows] - y[:, rows]) ** 2)) for rows in parts)
    return np.float32(math.sqrt(total / x.size))


_bytes: dict[Any, float] = {}


def bytes_per_pixel(prior: Prior) -> float:
    """Memory of one evaluation of a prior, of each pixel, as the compiler reckons it; kept for the priors of a model.

    Args:
        prior: the prior, of any size.
    """
    if prior.model not in _bytes:
        side = max(128 // prior.multiple, 1) * prior.multiple
        x = jax.ShapeDtypeStruct((1, side, side, prior.config.channels), jnp.float32)
        one = jax.ShapeDtypeStruct((1,), jnp.float32)
        tau = jax.ShapeDtypeStruct((1, prior.levels), jnp.float32)
        analysis = compiled_reconstruct.lower(prior.network, x, tau, one, one).compile().memory_analysis()
        assert analysis is not None
        _bytes[prior.model] = (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / side**2
    return _bytes[prior.model]
