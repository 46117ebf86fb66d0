"""
Which settings matter
=====================

:func:`hvae_jax.recommended_config` chooses the settings from the task and the noise level, by what was measured on
other photographs. If you set them yourself, three numbers matter: γ (``decoder_std``), how far the result may be from
what the prior expects; s (``noise_level``), the noise that a noise-conditional prior is told of; and τ
(``temperature``).
"""

import matplotlib.pyplot as plt
import numpy as np

import hvae_jax as hj
from pictures import show

prior = hj.load_prior()
sharp = hj.read_photograph("../benchmarks/data/images/colosseum.png").pixels[96:192, 80:176]
A = hj.operators.Blur(hj.images.parse_kernel("gaussian:1.6"))
noise_std = 7.65 / 255
y = A(sharp) + noise_std * np.random.default_rng(0).standard_normal(sharp.shape, np.float32)

recommended = hj.restore(prior, y, A, noise_std)
recommended_psnr = float(hj.metrics.psnr(recommended.image, sharp))
print(f"observed {hj.metrics.psnr(y, sharp):.2f} dB; recommended settings {recommended_psnr:.2f} dB")


def restored(config):
    """The restorations of one picture with settings that differ, as a batch in one program; and their PSNR."""
    count = max(
        np.shape(value)[0] for value in (config.decoder_std, config.noise_level, config.temperature) if np.ndim(value)
    )
    batch, truth = np.broadcast_to(y, (count, *y.shape)), np.broadcast_to(sharp, (count, *y.shape))
    out = hj.restore(prior, batch, A, noise_std, config)
    return out.image, hj.metrics.psnr(out.image, truth)


# %%
# γ and s, fixed
# --------------
#
# First without annealing: γ and s are the same in all of 15 iterations, and s = γ/1.85, as the bundled prior has it.
# A small γ trusts the prior: the picture hardly moves from its start. A large one trusts the data, and noise comes
# through.
gammas = np.array([3, 6, 10, 15, 25, 40, 60, 90]) / 255
fixed = hj.RestoreConfig(
    temperature=1.0,
    decoder_std=gammas,
    noise_level=gammas / 1.85,
    max_iterations=15,
    orientations="cycle",
    returns="mean",
)
images, by_gamma = restored(fixed)
shown = (0, 3, 5, 7)
show({f"γ = {255 * gammas[i]:.0f}, {by_gamma[i]:.1f} dB": images[i] for i in shown})

# %%
# What if the prior is told of more or less noise than goes with γ? Here γ is the best of those above.
best = int(np.argmax(by_gamma))
levels = np.array([0.25, 0.5, 0.7, 1, 1.4, 2, 3]) * gammas[best] / 1.85
images, by_level = restored(fixed.replace(decoder_std=np.full(len(levels), gammas[best]), noise_level=levels))
show({f"s = {255 * levels[i]:.1f}, {by_level[i]:.1f} dB": images[i] for i in (0, 2, 3, 6)})

# %%
# The temperature
# ---------------
#
# A noise-conditional prior is told by s how much to smooth. For a prior that is not told (the paper's own) the
# temperature says it; :doc:`/paper` has the curve of the paper's figure 7.
temperatures = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
constant = fixed.replace(decoder_std=gammas[best], noise_level=gammas[best] / 1.85)
images, by_temperature = restored(constant.replace(temperature=temperatures[:, None]))
show({f"τ = {temperatures[i]:.1f}, {by_temperature[i]:.1f} dB": images[i] for i in (0, 2, 5)})

# %%
# Side by side, with the recommended settings as a dotted line: they anneal γ and s over 8 iterations, so that no γ
# has to be searched for with the truth at hand, as it was here.
figure, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True)
for axis, x, values, name in (
    (axes[0], 255 * gammas, by_gamma, "γ (grey levels), s = γ/1.85"),
    (axes[1], 255 * levels, by_level, f"s (grey levels), γ = {255 * gammas[best]:.0f}"),
    (axes[2], temperatures, by_temperature, "τ"),
):
    axis.plot(x, values, "o-")
    axis.axhline(recommended_psnr, color="grey", linestyle=":")
    axis.set_xlabel(name)
axes[0].set_ylabel("PSNR (dB)")
figure.tight_layout()
plt.show()

spread = [float(values.max() - values.min()) for values in (by_gamma, by_level, by_temperature)]
print("from the best to the worst of those tried: γ {:.1f} dB, s {:.1f} dB, τ {:.1f} dB".format(*spread))
print(f"best with fixed γ: {by_gamma.max():.2f} dB at γ = {255 * gammas[best]:.0f}, 15 iterations")
print(f"recommended, annealed: {recommended_psnr:.2f} dB, {int(recommended.iterations)} iterations")
