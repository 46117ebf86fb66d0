"""What a restoration of a photograph ends with, and how sure it is."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from hvae_jax.images import Image
from hvae_jax.photographs.blind.estimating import KernelEstimate
from hvae_jax.photographs.checking import GREY_LEVELS
from hvae_jax.restoration import Calibration, Status
from hvae_jax.restoration.calibration import local_contrast


class Restored(NamedTuple):
    """What `restore_photograph` returns.

    Attributes:
        image: the result, with the depth and the opacity of the photograph.
        noise_std: the noise that was assumed, in the images' unit.
        noise_source: what it was estimated from, or "given".
        kernel: the kernel that was assumed, if any.
        status: a `Status`.
        iterations: iterations done.
        deviation: of draws from the posterior, the mean over the channels and near pixels, (H, W), in the unit of black
            to white, NaN at pixels that were left as they were; None where not asked for, where the sampling
            diverged, or where the whole picture was left.
        missing: the pixels that were filled, (H, W), of inpainting; else None.
        calibration: how the deviation becomes an interval; None where the prior knows none for this task.
        unit: the distance of white from black in the image's values.
        warnings: sentences about what did not fit; empty if all did.
        estimate: of the kernel, where that was asked for.
        left: whether the picture was left as it was, for a reason that is among the warnings.
    """

    image: Image
    noise_std: float
    noise_source: str
    kernel: Float[np.ndarray, "kh kw"] | None
    status: Status
    iterations: int
    deviation: Float[np.ndarray, "H W"] | None
    missing: Bool[np.ndarray, "H W"] | None
    calibration: Calibration | None
    unit: float
    warnings: tuple[str, ...]
    estimate: KernelEstimate | None = None
    left: bool = False

    def half_width(self, level: float = 0.9) -> Float[np.ndarray, "H W"]:
        """Half the width of the interval around each pixel that holds the truth in `level` of the pixels.

        It was fitted on photographs degraded for the task, and holds for pictures like those, with the right kernel
        and noise, over all pixels together.

        Args:
            level: 0.5 to 0.99.

        Returns:
            In the unit of black to white, one for all channels; NaN where `deviation` is.

        Raises:
            ValueError: there is no deviation or no calibration, or the level is out of range.
        """
        if self.deviation is None or self.calibration is None:
            raise ValueError(
                "expected a deviation (uncertainty=key) and a prior that is calibrated for the task (hvae-jax tune "
                f"--calibrate), got no {'deviation' if self.deviation is None else 'calibration'}"
            )
        contrast = local_contrast(self.image.pixels / np.float32(self.unit))
        return self.calibration.half_width(self.deviation, contrast, level, self.missing)

    def interval(
        self, level: float = 0.9
    ) -> tuple[Float[np.ndarray, "H W channels"], Float[np.ndarray, "H W channels"]]:
        """The ends of the intervals of `half_width`, in the image's own values.

        Args:
            level: 0.5 to 0.99.

        Returns:
            Lower and upper ends.

        Raises:
            ValueError: as `half_width`.
        """
        half = self.unit * self.half_width(level)[..., None]
        return self.image.pixels - half, self.image.pixels + half

    def uncertainty(self, level: float = 0.9) -> Float[np.ndarray, "H W"]:
        """How sure the result is: `half_width`, or the draws' deviation where the prior is not calibrated for the task.

        Args:
            level: 0.5 to 0.99.

        Returns:
            In the unit of black to white; NaN where `deviation` is.

        Raises:
            ValueError: there is no deviation, or the level is out of range.
        """
        if self.calibration is None and self.deviation is not None:
            return self.deviation
        return self.half_width(level)

    def uncertainty_picture(self, level: float = 0.9, white: float = 50 / 255) -> Float[np.ndarray, "H W"]:
        """The picture of `uncertainty`, in [0, 1]; white also where nothing is known.

        Args:
            level: 0.5 to 0.99.
            white: what is white and above, in the unit of black to white.

        Raises:
            ValueError: as `uncertainty`.
        """
        return np.nan_to_num(np.clip(self.uncertainty(level) / np.float32(white), 0, 1), nan=1)

    def in_words(self, seconds: float) -> str:
        """How the restoration went, which noise was assumed, and which kernel where it was estimated.

        Args:
            seconds: that it took.
        """
        if self.left:
            return f"left as it was, {seconds:.1f} s"
        how = "converged" if self.status is Status.CONVERGED else "restored"
        count = f"{self.iterations} iteration{'' if self.iterations == 1 else 's'}"
        estimated = "" if self.noise_source == "given" else f" (estimated from {self.noise_source})"
        noise = f"noise {GREY_LEVELS * self.noise_std:.2f} of {GREY_LEVELS}{estimated}"
        found = (
            "" if self.estimate is None else f"; {self.estimate.description}, confidence {self.estimate.confidence:.2f}"
        )
        return f"{how} in {count}, {seconds:.1f} s; {noise}{found}"


def left_as_it_was(image: Image, estimate: KernelEstimate, unit: float, warnings: list[str]) -> Restored:
    """A photograph whose blur is not known."""
    if image.missing is not None and image.missing.any():
        warnings.append(f"{int(image.missing.sum())} missing pixels (NaN) were not filled: they are 0")
    return Restored(
        image=image._replace(missing=None, jpeg=None),
        noise_std=estimate.noise_std,
        noise_source="the picture",
        kernel=None,
        status=Status.CONVERGED,
        iterations=0,
        deviation=None,
        missing=None,
        calibration=None,
        unit=unit,
        warnings=(*warnings, f"{estimate.description}; it was left as it was"),
        estimate=estimate,
        left=True,
    )
