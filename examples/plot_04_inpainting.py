"""
Fill holes that you draw
========================

Scratches, dust and writing can be marked in a mask: 1 where the picture is good, 0 where it is to be filled. Any
program that draws will do; here it is Pillow. On the command line a mask is a picture of the same size, white where
the picture is good.
"""

import numpy as np
import PIL.Image
import PIL.ImageDraw

import hvae_jax as hj
from pictures import show

sharp = hj.read_photograph("sharp.png")
height, width, _ = sharp.pixels.shape

drawing = PIL.Image.new("L", (width, height), 255)
pen = PIL.ImageDraw.Draw(drawing)
pen.line([(10, 20), (150, 120), (260, 90), (430, 280)], fill=0, width=5)
pen.line([(30, 290), (120, 180), (200, 40)], fill=0, width=3)
pen.ellipse([320, 60, 350, 90], fill=0)
pen.text((150, 240), "SAMPLE", fill=0, font_size=40)
mask = np.asarray(drawing) > 127
print(f"{1 - mask.mean():.1%} of the pixels are missing")

# %%
# What the holes hold is never read. So the damaged picture is just the mask times the sharp one, with a little noise.
damaged = hj.degrade_photograph(sharp, "inpaint", mask=mask, noise_std=2 / 255, seed=0)
done = hj.restore_photograph(damaged, "inpaint", mask=mask, noise_std=2 / 255)

# %%
# A baseline is the smoothest fill, where each pixel of a hole is the mean of its neighbours; it is also what the
# restoration starts from. The error is measured in the holes alone.
smooth = hj.operators.Inpainting(mask).initial(damaged.pixels)


def psnr_in_holes(picture):
    """PSNR over the missing pixels."""
    error = (np.clip(picture, 0, 1) - sharp.pixels)[~mask]
    return -10 * np.log10(np.mean(error**2))


before, after = psnr_in_holes(smooth), psnr_in_holes(done.image.pixels)
print(f"in the holes: smooth fill {before:.2f} dB, restored {after:.2f} dB")

show(
    {
        "damaged": damaged.pixels,
        f"smooth fill, {before:.1f} dB in the holes": smooth,
        f"restored, {after:.1f} dB in the holes": done.image.pixels,
        "as it was": sharp.pixels,
    },
    columns=2,
)

# %%
# Narrow holes are continued from both sides. A large hole has nothing to be continued from: the prior makes no
# objects, and a square of 64 pixels is filled hardly better than by the smooth fill (:doc:`the model card
# </repository/model-card>` has the numbers).
