"""
A blur that nobody knows
========================

Mostly nobody can tell how a photograph was blurred. With ``kernel="estimate"`` the blur, the same everywhere, is found
out from the picture, or the picture is left as it was. The one here was put out of focus: it is the mean over a disc
with a radius of 4 pixels, with noise. In a shell::

    hvae-jax restore blurred.png --task deblur --kernel estimate --save-kernel kernel.png --out restored.png
"""

import numpy as np

import hvae_jax as hj
from pictures import show

sharp = hj.read_photograph("sharp.png")
blurred = hj.degrade_photograph(sharp, "deblur", kernel="disk:4", noise_std=5 / 255, boundary="natural")

done = hj.restore_photograph(blurred, "deblur", kernel="estimate")
print(f"{done.estimate.description}, confidence {done.estimate.confidence:.2f}; warnings: {done.warnings or 'none'}")

# %%
# The part of the picture with the most edges is restored with kernels of several kinds, each made to fit. What the
# restored parts look like, and how well the kernels agree, tells how probably a restoration with each of them helps:
# the confidence, from 0 to 1.
for candidate in done.estimate.candidates:
    print(f"{candidate.kind:35} {candidate.confidence:.2f}")

# %%
# White is a kernel's largest value.
true = hj.images.parse_kernel("disk:4")
side = max(*true.shape, *done.kernel.shape)


def framed(kernel):
    """A kernel in the middle of a square."""
    rows, columns = ((side - n) // 2 for n in kernel.shape)
    return np.pad(kernel / kernel.max(), ((rows, rows), (columns, columns)))


show({"the kernel": framed(true), "estimated": framed(done.kernel)}, columns=4)

# %%
# The result, and that of a restoration that is told the kernel.
height, width, _ = blurred.pixels.shape
row, column = (n // 2 for n in true.shape)
truth = sharp.pixels[row : row + height, column : column + width]
told = hj.restore_photograph(blurred, "deblur", kernel="disk:4")
pictures = {"blurred": blurred.pixels, "estimated kernel": done.image.pixels, "known kernel": told.image.pixels}
# sphinx_gallery_thumbnail_number = 2
show({f"{name}, {hj.metrics.psnr(picture, truth):.1f} dB": picture for name, picture in pictures.items()})

# %%
# Where it is not sure
# --------------------
#
# A picture that is sharp is told at once, and one for which no kernel would surely help after a look. Both are left as
# they were, and why is a sentence; :doc:`the limits </limits>` say how often.
other = hj.restore_photograph(sharp, "deblur", kernel="estimate")
print(f"{' '.join(other.warnings)}; the same pixels: {np.array_equal(other.image.pixels, sharp.pixels)}")
