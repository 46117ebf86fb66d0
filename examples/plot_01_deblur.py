"""
Deblur a photograph
===================

A camera that moved while the shutter was open leaves a blurred picture. If you know how it moved, a few lines take
the blur away. The picture here was blurred along a line of 13 pixels at 30 degrees and has a little noise; the sharp
one is at hand, so that the result can be measured.

In a shell it is one command::

    hvae-jax restore blurred.png --task deblur --kernel motion:13,30 --out restored.png
"""

import hvae_jax as hj
from pictures import show

photo = hj.read_photograph("blurred.png")
sharp = hj.read_photograph("sharp.png").pixels
print(f"{photo.pixels.shape[1]}x{photo.pixels.shape[0]} pixels, {photo.bit_depth} bit")

# %%
# :func:`hvae_jax.restore_photograph` does all that the command line does. The prior for natural images is in the
# package, and the noise is estimated.
done = hj.restore_photograph(photo, "deblur", kernel="motion:13,30")

print(f"noise: {255 * done.noise_std:.2f} grey levels, from {done.noise_source} (2.55 was added)")
print(f"{done.iterations} iterations, ended as {done.status.name}; warnings: {done.warnings or 'none'}")

# %%
# The peak signal-to-noise ratio (PSNR) says in decibels how close a picture is to the sharp one; 3 dB more is half
# the squared error.
before, after = hj.metrics.psnr(photo.pixels, sharp), hj.metrics.psnr(done.image.pixels, sharp)
print(f"PSNR {before:.2f} dB before, {after:.2f} dB after")

show({f"blurred, {before:.1f} dB": photo.pixels, f"restored, {after:.1f} dB": done.image.pixels, "sharp": sharp})

# %%
# What if the kernel is not right?
# --------------------------------
#
# A kernel that is a third too long, or at a right angle, does not explain the picture: it has edges that no picture
# blurred by it could have. What did not fit is told in sentences (the command line prints them, too), and where
# nothing helps the picture is left as it was. This is not proof against every wrong kernel: see :doc:`the limits
# </limits>`.
for kernel in ("motion:17,30", "motion:13,120"):
    other = hj.restore_photograph(photo, "deblur", kernel=kernel)
    print(f"{kernel}: {' '.join(other.warnings) or 'no warning'}")

# %%
# To keep the result, with the depth, the colour profile and the metadata of the file that it came from::
#
#     hj.write_photograph("restored.png", done.image)
