"""
Remove the artefacts of a JPEG
==============================

A JPEG file stores each block of 8x8 pixels as cosine coefficients, each rounded to a multiple of a step that is in
the file. So the file says exactly how wrong each coefficient may be, which is more than its pixels tell.
"""

import tempfile
from pathlib import Path

import numpy as np
import PIL.Image

import hvae_jax as hj
from pictures import show

sharp = hj.read_photograph("sharp.png").pixels
picture = PIL.Image.fromarray(np.uint8(np.rint(255 * sharp)))

# %%
# The same picture at three qualities, read back from the files. The file's own bytes come along in ``photo.jpeg``: a
# picture that went through another program has lost them.
shown = {}
with tempfile.TemporaryDirectory() as folder:
    for quality in (10, 25, 60):
        file = Path(folder) / f"{quality}.jpg"
        picture.save(file, quality=quality)
        photo = hj.read_photograph(file)
        done = hj.restore_photograph(photo, "jpeg")
        before, after = (hj.metrics.psnr(x, sharp) for x in (photo.pixels, done.image.pixels))
        print(
            f"quality {quality}: {file.stat().st_size / 1024:.0f} KiB, steps up to {photo.quantisation.max():.0f} grey "
            f"levels; {before:.2f} dB in the file, {after:.2f} dB restored"
        )
        shown[f"quality {quality}, {before:.1f} dB"] = photo.pixels
        shown[f"restored, {after:.1f} dB"] = done.image.pixels

show(shown, columns=2)

# %%
# A closer look
# -------------
#
# The blocks and the ringing at quality 10, three times enlarged.
rows, columns = slice(90, 190), slice(170, 320)
keys = list(shown)
show(
    {
        "the file": shown[keys[0]][rows, columns],
        "restored": shown[keys[1]][rows, columns],
        "sharp": sharp[rows, columns],
    }
)

# %%
# ``task="denoise"`` takes noise out of a JPEG as well, and ``task="deblur"`` uses the coefficients too. In a shell::
#
#     hvae-jax restore holiday.jpg --task jpeg --out better.png
