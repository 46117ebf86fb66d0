"""The methods that the benchmarks compare with, each a function of observations, operator and noise level.

A method is any `Callable[[y, A, noise_std], x]`: y (batch, ...) float32 observations of an operator A of
`hvae_jax.operators` with noise of deviation noise_std (in the images' unit, 7.65/255), x (batch, height, width,
channels) the restored images. `get` makes one by its name in `METHODS`:

    >>> method = get("tv")
    >>> x = method(y, Blur(kernel), 7.65 / 255)

or takes one of your own. ILO, for example, which the paper compares with on faces, is in no library that is kept up; if
you have its authors' code and a StyleGAN2, write in a file `ilo.py`

    def restore(y, A, noise_std):
        ...  # A(x) and A.adjoint(y) are the operator and its transpose
        return x

and name it wherever a benchmark takes a method: `--method ilo.py:restore`, or `get("ilo.py:restore")`.
"""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Array

from benchmarks.methods.bm3d import load_bm3d
from benchmarks.methods.contract import Method, Unavailable
from benchmarks.methods.dncnn import load_dncnn
from benchmarks.methods.epll import epll
from benchmarks.methods.hqs import Denoiser, plug_and_play
from benchmarks.methods.variational import TIKHONOV_WEIGHT, TV_WEIGHT, admm_tv, tikhonov
from hvae_jax.metrics import psnr
from hvae_jax.operators import Operator

__all__ = [
    "METHODS",
    "Denoiser",
    "Method",
    "Unavailable",
    "admm_tv",
    "epll",
    "get",
    "load_bm3d",
    "load_dncnn",
    "plug_and_play",
    "tikhonov",
    "tuned",
]


def _tikhonov(weight: float = TIKHONOV_WEIGHT) -> Method:
    return functools.partial(tikhonov, weight=weight)


def _tv(weight: float = TV_WEIGHT) -> Method:
    return functools.partial(admm_tv, weight=weight)


def _bm3d(**options: Any) -> Method:
    return plug_and_play(load_bm3d(), **options)


def _fdncnn(weights: str | os.PathLike | None = None, **options: Any) -> Method:
    if weights is None:
        raise Unavailable("FDnCNN's weights have no licence and are not shipped: give weights=FILE.npz, see load_dncnn")
    try:
        return plug_and_play(load_dncnn(weights), **options)
    except OSError as error:
        raise Unavailable(f"FDnCNN's weights cannot be read: {error}") from error


def _peer(name: str) -> Callable[..., Method]:
    """The factory of a method in `benchmarks.methods.peers`, which can be imported only with the extra."""

    def factory(**options: Any) -> Method:
        try:
            from benchmarks.methods import peers
        except ImportError as error:
            raise Unavailable(
                f"{name} needs deepinv and PyTorch: pip install 'hvae_jax[peers]' (no module {error.name})"
            ) from error
        return getattr(peers, name.replace("-", "_"))(**options)

    return factory


METHODS: dict[str, Callable[..., Method]] = {
    "tikhonov": _tikhonov,
    "tv": _tv,
    "epll": epll,
    "bm3d": _bm3d,
    "pnp": plug_and_play,
    "fdncnn": _fdncnn,
    **{name: _peer(name) for name in ("gs-pnp", "pnp-mmo", "dpir", "diffpir", "dps")},
}
"""Name -> function of options that makes the method, or raises `Unavailable`."""


def get(name: str, **options: Any) -> Method:
    """A method by name, or one of your own.

    Args:
        name: in `METHODS`, or "module:function" or "path/to/file.py:function" of a function (y, A, noise_std) -> x.
        options: of the method: `weight` of "tikhonov" and "tv"; `denoiser` of "pnp", any function (x, deviation) -> x;
            `weights` of "fdncnn" and the networks of deepinv, a file; keyword arguments of your own function.

    Returns:
        The method.

    Raises:
        Unavailable: it needs something that is not here; the message says what.
        ValueError: there is no such method.
    """
    if name in METHODS:
        return METHODS[name](**options)
    place, _, function = name.rpartition(":")
    if not place or not function:
        raise ValueError(f"expected one of {', '.join(METHODS)}, or MODULE:FUNCTION or FILE.py:FUNCTION, got {name!r}")
    try:
        module = _run(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        method = getattr(module, function)
    except (OSError, ImportError, AttributeError) as error:
        raise ValueError(f"expected a function {function} in {place}, got the error: {error}") from error
    return functools.partial(method, **options) if options else method


def _run(file: Path) -> ModuleType:
    """The module in a file."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tuned(
    method: Callable[..., Array],
    cases: Iterable[tuple[Array, Operator, float, Array]],
    weights: Sequence[float],
) -> float:
    """The weight with the best mean PSNR; walks up from the first one until the mean falls.

    Args:
        method: `tikhonov` or `admm_tv`, or another function (y, A, noise_std, weight) -> x.
        cases: (y, A, noise_std, clean images).
        weights: increasing, in between which quality has one maximum.

    Returns:
        One of the weights.
    """
    cases = list(cases)
    best, best_quality = weights[0], -np.inf
    for weight in weights:
        quality = np.mean([np.mean(psnr(method(y, A, std, weight), clean)) for y, A, std, clean in cases])
        if quality < best_quality:
            break
        best, best_quality = weight, quality
    return float(best)
