"""Fits EPLL's Gaussian mixture to photographs, with scikit-learn.

Example:
    python -m benchmarks.methods.fit_epll --images PHOTOS --only hvae_jax/pretrained/ATTRIBUTION.md
"""

import argparse
import re
from pathlib import Path

import numpy as np

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--only", type=Path, help="Markdown table whose first column names the files to use")
    parser.add_argument("--components", type=int, default=100)
    parser.add_argument("--patches", type=int, default=100_000)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=MIXTURE)
    arguments = parser.parse_args()
    from sklearn.mixture import GaussianMixture

    if arguments.only:
        names = re.findall(r"^\| (\S+\.(?:jpg|png)) \|", arguments.only.read_text(), re.MULTILINE)
        files = [arguments.images / name for name in names]
    else:
        files = sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    patches = sample_patches(files, arguments.patches, arguments.seed)
    print(f"{len(files)} photographs, {len(patches)} patches, deviation {patches.std():.4f}")
    mixture = GaussianMixture(
        arguments.components,
        reg_covar=1e-6,  # 0.25 grey levels of 255
        max_iter=arguments.iterations,
        random_state=arguments.seed,
        verbose=2,
        verbose_interval=1,
    ).fit(patches)
    factors = np.linalg.cholesky(mixture.covariances_.astype(np.float64))
    packed = factors[:, *np.tril_indices(PATCH**2)]
    arrays = {"weights": mixture.weights_, "means": mixture.means_, "cholesky": packed}
    np.savez_compressed(arguments.out, **{name: array.astype(np.float16) for name, array in arrays.items()})
    print(f"log-likelihood {mixture.lower_bound_:.2f} a patch; {arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
