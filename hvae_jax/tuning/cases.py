"""What a search measures: photographs degraded for a task, each in its way, restored with candidates."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hvae_jax.images import make_mask, parse_kernel, read_kernels
from hvae_jax.images.formats import FilePath
from hvae_jax.metrics import psnr
from hvae_jax.operators import Blur, Denoising, Inpainting, Operator, SuperResolution
from hvae_jax.prior import Prior
from hvae_jax.restoration import RestoreConfig, restore
from hvae_jax.restoration.recommended import config_from_rows
from hvae_jax.tuning.search import Row

FACTORS = (2, 4)
"""Of super-resolution."""
KERNELS = ("gaussian:2", "motion:13,30", "gaussian:2.8,1.2,45", "motion:19,115")
"""Of deblurring, as `parse_kernel` takes them: like the paper's, two Gaussian and two motion blurs in turns."""
PAPER_KERNELS = ("k4", "k9", "k7", "k11")
"""The paper's, by the names that files of kernels give them, in the same order."""
SUPER_RESOLUTION_KERNEL = "gaussian:1.6"
MASKS = ("random70", "random30", "boxes", "text")
"""Of inpainting, as `make_mask` takes them."""


class Case(NamedTuple):
    """A task at a noise level: the images, each degraded in its way.

    Attributes:
        name: the task, with the factor of super-resolution.
        sigma: σ in grey levels of 255.
        clean: the images.
        observed: their observations.
        operator: makes the operator of a batch, from the images' numbers.
    """

    name: str
    sigma: float
    clean: Float[np.ndarray, "N S S 3"]
    observed: Float[np.ndarray, "N s s 3"]
    operator: Callable[[Sequence[int]], Operator]

    def scores(self, prior: Prior, pairs: Sequence[tuple[Row, int]], batch: int) -> list[tuple[float, float]]:
        """PSNR of the last data step and of the last mean, of an image restored with a candidate, for each pair.

        Args:
            prior: the prior.
            pairs: at most `batch` candidates with one number of iterations, each with the number of an image.
            batch: restorations in the call, which is filled up so that all are of one size.
        """
        whole = [*pairs, *[pairs[-1]] * (batch - len(pairs))]
        config = joined([config_from_rows([row], self.sigma / 255, prior.levels) for row, _ in whole])
        index = [image for _, image in whole]
        out = restore(prior, self.observed[index], self.operator(index), self.sigma / 255, config)
        both = np.stack([psnr(x, self.clean[index]) for x in (out.x, out.mean)], axis=1).astype(np.float64)
        # What is not finite, a restoration that diverged, scores nothing.
        return [(x, mean) for x, mean in np.nan_to_num(both[: len(pairs)], nan=0.0).round(4).tolist()]


def joined(configs: Sequence[RestoreConfig]) -> RestoreConfig:
    """Settings of single images, with schedules of one length, as those of a batch."""

    def side_by_side(name: str) -> np.ndarray:
        return np.concatenate([getattr(config, name) for config in configs], axis=1)

    return configs[0].replace(
        temperature=np.stack([np.atleast_1d(config.temperature) for config in configs]),
        decoder_std=side_by_side("decoder_std"),
        noise_level=side_by_side("noise_level"),
        returns="x",
    )


def cases_of(tasks: Sequence[str], noise_levels: Sequence[float]) -> list[tuple[str, int | None, float]]:
    """Task, factor of super-resolution or None, and σ of each case, a task after the other."""
    kinds = [(task, factor) for task in dict.fromkeys(tasks) for factor in (FACTORS if task == "sr" else (None,))]
    return [(task, factor, sigma) for task, factor in kinds for sigma in noise_levels]


def pose(
    task: str,
    factor: int | None,
    sigma: float,
    images: Float[np.ndarray, "N S S 3"],
    kernels: Float[np.ndarray, "K h w"],
    seed: int = 0,
) -> Case:
    """Degrade images for a task; kernels and masks take turns.

    Args:
        task: of `settings.TUNED`.
        factor: of super-resolution, else None.
        sigma: the noise's deviation in grey levels of 255.
        images: the clean images.
        kernels: of deblurring.
        seed: of masks and noise, at least 0.

    Returns:
        The case.
    """
    masks = np.stack([make_mask(kind, images.shape[1], seed) for kind in MASKS])[..., None]
    degradations: dict[str, Callable[[Sequence[int]], Operator]] = {
        "deblur": lambda index: Blur(kernels[np.array(index) % len(kernels)]),
        "sr": lambda index: SuperResolution(parse_kernel(SUPER_RESOLUTION_KERNEL), factor or 1),
        "inpaint": lambda index: Inpainting(masks[np.array(index) % len(masks)]),
        "denoise": lambda index: Denoising(),
    }
    operator = degradations[task]
    y = np.asarray(operator(range(len(images)))(images))
    noise = sigma / 255 * np.random.default_rng(seed).standard_normal(y.shape, np.float32)
    return Case(task if factor is None else f"{task} x{factor}", sigma, images, y + noise, operator)


def tuning_kernels(path: FilePath | None = None) -> Float[np.ndarray, "K h w"]:
    """Kernels of deblurring for `tune`, each with the same centre in an array of one size.

    Args:
        path: an .npz file, of which the paper's four are taken if it has them, else all; by default the kernels
            are `KERNELS`.

    Returns:
        The kernels, each with sum 1.

    Raises:
        ImageError: the file cannot be read, or holds what is no kernel.
    """
    if path is None:
        kernels = [parse_kernel(spec) for spec in KERNELS]
    else:
        found = read_kernels(path)
        kernels = [found[name] for name in (PAPER_KERNELS if set(PAPER_KERNELS) <= set(found) else found)]
    size = max(side for kernel in kernels for side in kernel.shape)
    same = np.zeros((len(kernels), size, size), np.float32)
    for whole, kernel in zip(same, kernels, strict=True):
        top, left = (size // 2 - side // 2 for side in kernel.shape)
        whole[top : top + kernel.shape[0], left : left + kernel.shape[1]] = kernel
    return same
