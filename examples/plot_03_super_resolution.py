"""
Enlarge a picture
=================

Super-resolution makes a picture larger by a whole factor. Each pixel of the small picture is taken to be the mean of
a cell of pixels of the large one (or what another kernel saw there), plus noise; the prior fills in what is
consistent with that.
"""

import jax

import hvae_jax as hj
from pictures import show

sharp = hj.read_photograph("../benchmarks/data/images/osprey.png")

# %%
# To have something to measure, the picture is reduced first. :func:`hvae_jax.degrade_photograph` simulates any of the
# tasks; on the command line it is ``hvae-jax degrade``.
shown = {}
for factor in (2, 4):
    small = hj.degrade_photograph(sharp, "sr", factor=factor, noise_std=2.55 / 255, seed=0)
    done = hj.restore_photograph(small, "sr", factor=factor, noise_std=2.55 / 255)

    # What an image viewer would do.
    bicubic = jax.image.resize(small.pixels, sharp.pixels.shape, "cubic")

    before, after = (hj.metrics.psnr(x, sharp.pixels) for x in (bicubic, done.image.pixels))
    print(f"x{factor}: bicubic {before:.2f} dB, restored {after:.2f} dB")
    shown[f"x{factor}, bicubic, {before:.1f} dB"] = bicubic
    shown[f"x{factor}, restored, {after:.1f} dB"] = done.image.pixels

show(shown, columns=4)

# %%
# How far to trust it
# -------------------
#
# At a factor of 4 fifteen of sixteen numbers are missing. The prior is small and was trained to restore and not to
# invent, and PSNR, which rewards what is smooth, is no higher for it than for bicubic interpolation on this picture.
# By SSIM and LPIPS, which weigh structure and appearance, it is closer:
for name, picture in shown.items():
    ssim, lpips = hj.metrics.ssim(picture, sharp.pixels), hj.metrics.lpips(picture, sharp.pixels)
    print(f"{name}: SSIM {ssim:.3f}, LPIPS {lpips:.3f} (lower is closer)")

# %%
# In a shell::
#
#     hvae-jax restore small.png --task sr --factor 2 --out large.png
