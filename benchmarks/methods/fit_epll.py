"""Fits EPLL's Gaussian mixture to photographs, with scikit-learn.

Example:
    python -m benchmarks fit-epll --images PHOTOS --only hvae_jax/pretrained/ATTRIBUTION.md
"""

import argparse
import re
from pathlib import Path

import numpy as np

from benchmarks.command import AddOption
from benchmarks.methods.epll import MIXTURE, PATCH
from hvae_jax.images import read_image


def sample_patches(files: list[Path], count: int, seed: int) -> np.ndarray:
    """Patches of random channels at random places without their mean, equally many of each picture, (count, 64)."""
    rng = np.random.default_rng(seed)
    share = -(-count // len(files))
    patches = []
    for file in files:
        pixels = read_image(file).pixels
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (PATCH, PATCH), axis=(0, 1))
        places = tuple(rng.integers(0, side, share) for side in windows.shape[:3])
        patches.append(windows[places].reshape(share, PATCH**2))
    drawn = np.concatenate(patches)[:count]
    return drawn - drawn.mean(axis=1, keepdims=True)


def add_options(add: AddOption) -> None:
    """Its own ones."""
    add("--images", type=Path, required=True, help="folder of photographs")
    add("--only", type=Path, help="Markdown table whose first column names the files to use")
    add("--components", type=int, default=100)
    add("--patches", type=int, default=100_000)
    add("--iterations", type=int, default=20)
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=MIXTURE)


def run(args: argparse.Namespace, command: str) -> None:
    """Run it."""
    from sklearn.mixture import GaussianMixture

    if args.only:
        names = re.findall(r"^\| (\S+\.(?:jpg|png)) \|", args.only.read_text(), re.MULTILINE)
        files = [args.images / name for name in names]
    else:
        files = sorted(path for path in args.images.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    patches = sample_patches(files, args.patches, args.seed)
    print(f"{len(files)} photographs, {len(patches)} patches, deviation {patches.std():.4f}")
    mixture = GaussianMixture(
        args.components,
        reg_covar=1e-6,  # 0.25 grey levels of 255
        max_iter=args.iterations,
        random_state=args.seed,
        verbose=2,
        verbose_interval=1,
    ).fit(patches)
    factors = np.linalg.cholesky(mixture.covariances_.astype(np.float64))
    packed = factors[:, *np.tril_indices(PATCH**2)]
    arrays = {"weights": mixture.weights_, "means": mixture.means_, "cholesky": packed}
    np.savez_compressed(args.out, **{name: array.astype(np.float16) for name, array in arrays.items()})
    print(f"log-likelihood {mixture.lower_bound_:.2f} a patch; {args.out}: {args.out.stat().st_size} bytes")
