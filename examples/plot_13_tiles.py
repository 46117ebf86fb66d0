"""
A large picture in tiles
========================

A picture that does not fit into memory is restored in tiles. The data step, which is cheap, sees the whole picture;
the prior sees tiles that overlap by as far as it looks. So there is no seam, and the result is what it would be in
one piece.

:func:`hvae_jax.restore_photograph` and the command line do this by themselves above four megapixels, or where
``memory`` is less than a picture needs. Here it is done by hand on a small picture, so that both ways can be
compared.
"""

import matplotlib.pyplot as plt
import numpy as np

import hvae_jax as hj
from hvae_jax.restoration.tiles import plan_tiles, restore_tiled, sight
from pictures import show

prior = hj.load_prior()
sharp = hj.read_photograph("sharp.png").pixels
A = hj.operators.Blur(hj.images.parse_kernel("gaussian:1.2"))
noise_std = 3 / 255
y = A(sharp) + noise_std * np.random.default_rng(0).standard_normal(sharp.shape, np.float32)

# %%
# How far does the prior look? It is measured: what is farther away than this does not change a pixel by more than
# 1e-5.
margin = sight(prior)
print(f"the prior sees {margin} pixels far")

# %%
# The tiles: what each one sees, and the part of it that is kept.
tiles = plan_tiles(*y.shape[:2], largest=304, margin=margin, multiple=prior.multiple)
figure, axis = plt.subplots(figsize=(6, 4))
axis.imshow(np.clip(y, 0, 1))
for i, tile in enumerate(tiles):
    for (rows, columns), style in ((tile.seen, "--"), (tile.kept, "-")):
        corner, width, height = (columns.start, rows.start), columns.stop - columns.start, rows.stop - rows.start
        axis.add_patch(plt.Rectangle(corner, width, height, fill=False, color=f"C{i}", linestyle=style, linewidth=2))
axis.set_title(f"{len(tiles)} tiles: dashed what is seen, solid what is kept", fontsize=9)
axis.axis("off")
figure.tight_layout()
plt.show()

# %%
# Restored in tiles, with a bar's worth of progress, and in one piece.
told = []
in_tiles = restore_tiled(prior, y, A, noise_std, tile=304, progress=lambda done, count: told.append((done, count)))
whole = hj.restore(prior, y, A, noise_std)
print(f"{told[-1][1]} evaluations of a tile")

before, after = hj.metrics.psnr(y, sharp), hj.metrics.psnr(in_tiles.image, sharp)
difference = np.abs(np.asarray(in_tiles.image) - np.asarray(whole.image))
print(
    f"PSNR {before:.2f} dB before, {after:.2f} dB in tiles, {hj.metrics.psnr(whole.image, sharp):.2f} dB in one piece"
)
print(f"largest difference between the two: {difference.max():.1e}, a grey level being {1 / 255:.1e}")

show({f"observed, {before:.1f} dB": y, f"in tiles, {after:.1f} dB": in_tiles.image})

# %%
# With ``resume=FOLDER`` the last iteration is kept in a file, and a run that was interrupted goes on from there. In a
# shell, where it is kept beside the result::
#
#     hvae-jax restore huge.tif --task denoise --memory 4 --out restored.tif
