"""BM3D as a denoiser, by its authors' package."""

import numpy as np
from jaxtyping import Array, Float

from benchmarks.methods.contract import Unavailable


def load_bm3d():
    """The denoiser of the package `bm3d`, image by image on the host; colour pictures are denoised jointly.

    Returns:
        The function (x, deviation) -> x.

    Raises:
        Unavailable: the package is not installed.

    Source: Dabov et al., "Image denoising by sparse 3D transform-domain collaborative filtering", TIP 2007; Makinen,
    Azzari and Foi, "Collaborative filtering of correlated noise", TIP 2020. Its licence allows non-commercial use only.
    """
    try:
        from bm3d import bm3d, bm3d_rgb
    except ImportError as error:
        raise Unavailable("bm3d needs its package: pip install 'hvae_jax[bm3d]'") from error

    def denoise(image: np.ndarray, deviation: float) -> np.ndarray:
        if image.shape[-1] == 3:
            return bm3d_rgb(image, deviation)
        return np.stack([bm3d(channel, deviation) for channel in np.moveaxis(image, -1, 0)], axis=-1)

    def denoiser(
        x: Float[Array, "batch height width channels"], deviation: float
    ) -> Float[np.ndarray, "batch height width channels"]:
        return np.stack([denoise(image, deviation) for image in np.asarray(x, np.float64)]).astype(np.float32)

    return denoiser
