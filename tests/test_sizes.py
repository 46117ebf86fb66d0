"""Photographs of many sizes share few compiled programs, in a folder and by `few_sizes`."""

from pathlib import Path

import numpy as np
import pytest

import hvae_jax as hj
from hvae_jax import cli, images
from hvae_jax.cli.run import FEW_SIZES
from hvae_jax.photographs.posing import shared_multiple
from tests.helpers import CountCompiles

DATA = Path(__file__).parent / "data"

SIZES = [(130 + i % 8, 190 + i % 12) for i in range(100)]
"""Of 100 photographs, which differ by six per cent."""


def padded(prior, factor, sides):
    multiple = shared_multiple(prior, factor, sides)
    assert multiple % prior.multiple == multiple % factor == 0
    return tuple(-(-side // multiple) * multiple for side in sides)


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("scale", [0.02, 0.5, 2.1, 4, 7.9])
def test_how_many_sizes_are_left(tiny_prior, factor, scale):
    rng = np.random.default_rng(0)
    sides = [(factor * round(scale * height), factor * round(scale * width)) for height, width in SIZES]
    assert len({padded(tiny_prior, factor, pair) for pair in sides}) <= 6
    for height, width in rng.integers(1, 2048, (200, 2)):
        more = padded(tiny_prior, factor, (int(height), int(width)))
        room = min(height, width) / 8 + tiny_prior.multiple * factor
        assert all(side <= larger < side + room for side, larger in zip((height, width), more, strict=True))


def names(count):
    """Of the programs that are as large as a network."""
    return [name for name in count.programs if "_restore" in name]


@pytest.mark.parametrize("pictures", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_a_folder_of_many_sizes_compiles_few_programs(prior_folder, tmp_path, pictures):
    rng = np.random.default_rng(0)
    for i, sides in enumerate(SIZES[:pictures]):
        images.write_image(tmp_path / "in" / f"{i:03d}.png", rng.random((*sides, 3)))
    command = ["restore", str(tmp_path / "in"), "--task", "denoise", "--noise-std", "5", "--prior", str(prior_folder)]
    with CountCompiles() as count:
        assert cli.main([*command, "--out", f"{tmp_path / 'out'}/"]) == 0
    assert 0 < len(names(count)) <= 6
    assert len(count.programs) < 30, "and few small ones"
    for i, sides in enumerate(SIZES[:pictures]):
        assert images.read_image(tmp_path / "out" / f"{i:03d}.png").pixels.shape == (*sides, 3)


@pytest.mark.parametrize("sizes", [FEW_SIZES, FEW_SIZES + 1])
def test_few_sizes_are_left_as_they_are(prior_folder, tmp_path, monkeypatch, sizes):
    asked = []

    def restore(*args, few_sizes, **options):
        asked.append(few_sizes)
        raise ValueError("enough of it")

    monkeypatch.setattr(hj.photographs, "restore_photograph", restore)
    for i in range(8):
        images.write_image(tmp_path / "in" / f"{i}.png", np.full((8, 8 + i % sizes, 3), 0.5))
    command = ["restore", str(tmp_path / "in"), "--task", "denoise", "--noise-std", "5", "--prior", str(prior_folder)]
    assert cli.main([*command, "--keep-going", "--out", f"{tmp_path / 'out'}/"]) == 1
    assert asked == 8 * [sizes > FEW_SIZES]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("deblur", {"kernel": "gaussian:1.2"}),
        pytest.param("denoise", {}, marks=pytest.mark.slow),
        pytest.param("sr", {"factor": 2}, marks=pytest.mark.slow),
    ],
)
def test_the_result_is_the_same_far_from_the_borders(prior_folder, task, options):
    prior = hj.load_prior(prior_folder)
    photo = images.read_image(DATA / "chelsea256.png").pixels[60:200, 60:226]
    seen = hj.degrade_photograph(images.Image(photo, None, 8), task, noise_std=5 / 255, **options)
    given = {"noise_std": 5 / 255, "prior": prior, **options}
    own, shared = (hj.restore_photograph(seen, task, few_sizes=few, **given).image.pixels for few in (False, True))
    assert own.shape == shared.shape
    assert (own != shared).any(), "padded to another size"
    np.testing.assert_allclose(own[32:-32, 32:-32], shared[32:-32, 32:-32], atol=1e-3)
