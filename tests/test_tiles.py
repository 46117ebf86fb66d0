"""Restoration in tiles: the plan, the same result as the whole at once, interruption, memory, what is refused."""

import jax
import numpy as np
import pytest

import hvae_jax as hj
from hvae_jax import operators
from hvae_jax.photographs import room
from hvae_jax.prior import Prior
from hvae_jax.restoration import Plateau, Residual, RestoreConfig, geometric, restore, tiles
from hvae_jax.restoration.tiles import plan_tiles, restore_tiled, sight
from tests.helpers import CountCompiles, random_prior, tiny_config, tiny_vdvae_config

CONFIG = RestoreConfig(
    decoder_std=geometric(0.4, 0.1, 3),
    noise_level=geometric(0.2, 0.05, 3),
    temperature=0.9,
    max_iterations=3,
    initial="image",
    orientations="cycle",
    stop=Residual(0.0),
)


@pytest.fixture(scope="module")
def prior():
    """One that sees far, but not everywhere."""
    made = random_prior(tiny_config(noise_conditional=True, clip_input=False, space_to_depth=2))
    return Prior(jax.tree.map(lambda leaf: 0.5 * leaf, made.params), made.model)


@pytest.mark.parametrize("sides", [(64, 64), (80, 256), (512, 496), (1024, 96)])
@pytest.mark.parametrize("margin", [0, 16, 48])
def test_plan(sides, margin):
    plan = plan_tiles(*sides, largest=120, margin=margin, multiple=16)
    covered = np.zeros(sides, int)
    for tile in plan:
        covered[tile.kept] += 1
        for seen, kept, side in zip(tile.seen, tile.kept, sides, strict=True):
            assert 0 <= seen.start <= kept.start < kept.stop <= seen.stop <= side
            assert kept.start - seen.start >= margin or seen.start == 0
            assert seen.stop - kept.stop >= margin or seen.stop == side
            assert seen.start % 16 == seen.stop % 16 == 0
            assert seen.stop - seen.start <= 112
    assert (covered == 1).all()
    assert len({tuple(one.stop - one.start for one in tile.seen) for tile in plan}) == 1, "one program"


def observation(operator, shape, sigma=0.05, seed=0):
    rng = np.random.default_rng(seed)
    clean = np.asarray(operator(rng.random(shape, np.float32)))
    return np.asarray(operator.observed(clean + sigma * rng.standard_normal(clean.shape, np.float32)))


OPERATORS = {
    "Blur": operators.Blur(np.random.default_rng(0).random((5, 3))),
    "SuperResolution": operators.SuperResolution(np.ones((3, 3)), 2),
    "Inpainting": operators.Inpainting(np.random.default_rng(1).random((96, 160)) > 0.4),
    "Denoising": operators.Denoising(),
    "Weighted": operators.Weighted(operators.Denoising(), np.array([1.0, 2.0, 0.5])),
}


@pytest.mark.parametrize(
    "name", [name if name == "Blur" else pytest.param(name, marks=pytest.mark.slow) for name in OPERATORS]
)
def test_tiles_give_what_the_whole_gives(prior, name):
    operator, far = OPERATORS[name], sight(prior)
    y = observation(operator, (96, 160, 3))
    for config in (CONFIG, CONFIG.replace(initial="encode", orientations=2, stop=Residual(0.02), returns="mean")):
        whole = restore(prior, y, operator, 0.05, config)
        parts = restore_tiled(prior, y, operator, 0.05, config, tile=2 * far + 24)
        for field in ("image", "x", "mean"):
            np.testing.assert_allclose(getattr(parts, field), getattr(whole, field), atol=1e-4)
        assert (int(parts.iterations), int(parts.status)) == (int(whole.iterations), int(whole.status))
        np.testing.assert_allclose(parts.residual, whole.residual, rtol=1e-3)


@pytest.mark.slow
def test_square_pictures_are_turned_too(prior):
    y = observation(operators.Denoising(), (96, 96, 3))
    whole = restore(prior, y, operators.Denoising(), 0.05, CONFIG)
    parts = restore_tiled(prior, y, operators.Denoising(), 0.05, CONFIG, tile=2 * sight(prior) + 24)
    np.testing.assert_allclose(parts.image, whole.image, atol=1e-4)


def test_pictures_whose_tiles_are_of_one_size_share_their_program(prior):
    tile, operator = 2 * sight(prior) + 24, operators.Denoising()
    restore_tiled(prior, observation(operator, (96, 160, 3)), operator, 0.05, CONFIG, tile=tile)
    with CountCompiles() as count:
        restore_tiled(prior, observation(operator, (96, 160, 3), seed=1), operator, 0.05, CONFIG, tile=tile)
    assert count.programs == []


def test_an_interrupted_run_goes_on_from_its_last_iteration(prior, tmp_path):
    operator, tile = OPERATORS["Blur"], 2 * sight(prior) + 24
    y = observation(operator, (96, 160, 3))
    told = []

    def stop_at(last):
        def progress(done, count):
            told.append((done, count))
            if done == last:
                raise KeyboardInterrupt

        return progress

    arguments = {"tile": tile, "resume": tmp_path}
    straight = restore_tiled(prior, y, operator, 0.05, CONFIG, tile=tile, progress=stop_at(None))
    count = told[-1][1]
    assert told == [(i, count) for i in range(count + 1)]
    each = count // 3
    told.clear()
    with pytest.raises(KeyboardInterrupt):
        restore_tiled(prior, y, operator, 0.05, CONFIG, **arguments, progress=stop_at(2 * each + 1))
    (kept,) = tmp_path.iterdir()
    # Another picture, and other settings, do not take it.
    restore_tiled(prior, y + 0.01, operator, 0.05, CONFIG, **arguments)
    restore_tiled(prior, y, operator, 0.06, CONFIG, **arguments)
    assert [*tmp_path.iterdir()] == [kept]
    told.clear()
    resumed = restore_tiled(prior, y, operator, 0.05, CONFIG, **arguments, progress=stop_at(None))
    assert told[0] == (2 * each, count)
    np.testing.assert_array_equal(resumed.image, straight.image)
    np.testing.assert_array_equal(resumed.residual, straight.residual)
    assert [*tmp_path.iterdir()] == []


def test_divergence_is_a_status(prior):
    broken = Prior(jax.tree.map(lambda leaf: np.nan * leaf, prior.params), prior.model)
    y, far = observation(operators.Denoising(), (96, 96, 3)), sight(prior)
    tiles._sight[broken.model, broken.digest] = far
    out = restore_tiled(broken, y, operators.Denoising(), 0.05, CONFIG, tile=2 * far + 24)
    assert int(out.status) == hj.Status.NOT_FINITE
    assert np.isfinite(out.x).all()


def test_a_prior_of_one_size_has_no_tiles():
    with pytest.raises(ValueError, match=r"expected a prior of any size for tiles, got one of \d+ pixels"):
        sight(random_prior(tiny_vdvae_config()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": CONFIG.replace(history=True)}, r"without J1"),
        ({"config": CONFIG.replace(stop=Plateau(track="objective"))}, r"without J1"),
        ({"config": CONFIG.replace(initial="official")}, r'"official", which draws'),
        ({"tile": 16}, r"tiles of more than \d+ pixels, as this prior sees \d+ far, got 16"),
        ({"y": np.zeros((2, 96, 96, 3), np.float32)}, "one picture for tiles, got a batch of 2"),
    ],
)
def test_what_is_refused(prior, change, message):
    arguments = {"prior": prior, "y": np.zeros((96, 96, 3), np.float32), "config": CONFIG, "tile": 128} | change
    if "official" in message:
        arguments["config"] = arguments["config"].replace(initial="official")
    with pytest.raises(ValueError, match=message):
        restore_tiled(operator=operators.Denoising(), noise_std=0.05, **arguments)


def test_a_photograph_in_little_memory(prior, monkeypatch):
    """The tiles' size follows from the memory; the result is that of the whole picture."""
    monkeypatch.setattr(room, "BASE", 0.0)
    photo = np.random.default_rng(0).random((150, 170, 3), np.float32)
    settings = {"noise_std": 0.05, "prior": Prior(prior.params, prior.model), "temperature": 0.9}
    settings |= {"decoder_std": 0.1, "noise_level": 0.05, "max_iterations": 3}
    given = {"task": "deblur", "kernel": "box:3", **settings}
    whole = hj.restore_photograph(photo, **given)
    told = []
    area = 150 * 170
    memory = room.COPIES * 12 * area + tiles.bytes_per_pixel(prior) * (2 * sight(prior) + 60) ** 2
    small = hj.restore_photograph(photo, **given, memory=memory, progress=lambda done, count: told.append(count))
    assert told[-1] > 3
    np.testing.assert_allclose(small.image.pixels, whole.image.pixels, atol=1e-4)
    with pytest.raises(ValueError, match=r"expected [\d.]+ GiB of memory at least for a picture of 150x170 pixels"):
        hj.restore_photograph(photo, **given, memory=1000)
    assert room.free_memory() > 2**20
    # A prior that sees farther than tiles reach takes large pictures whole, unless there is no memory for that.
    monkeypatch.setitem(tiles._sight, (prior.model, prior.digest), tiles.FARTHEST)
    monkeypatch.setattr(room, "LARGEST_WHOLE", area // 2)
    assert room.Room.of(prior, 150, 170, None).tile is None
    with pytest.raises(ValueError, match="sees at most 448 pixels far"):
        room.Room.of(prior, 150, 170, memory)
