"""Variation seeds, resized seeds and ENSD against A1111's.

Stored by tests/parity/make_variation_fixtures.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdlite.errors import RequestError
from sdlite.sampling import BrownianNoise, Variation, batch_noise
from sdlite.sampling.rng import BatchNoise
from sdlite.sampling.variation import slerp

SHAPE = (4, 6, 5)
SEEDS = (5, 2**32 - 3)
SUBSEEDS = (9, 10)
CASES = {
    "plain": Variation(),
    "variation": Variation(SUBSEEDS, 0.3),
    "whole": Variation(SUBSEEDS, 1.0),
    "same": Variation(SEEDS, 0.3),
    "smaller": Variation(resize_from=(4, 2)),
    "larger": Variation(resize_from=(9, 8)),
    "mixed": Variation(SUBSEEDS, 0.6, (9, 3)),
    "delta": Variation(seed_delta=31337),
    "all": Variation(SUBSEEDS, 0.2, (3, 7), 31337),
}


@pytest.fixture(scope="module")
def stored():
    with np.load(Path(__file__).parent / "fixtures" / "variation.npz") as file:
        return dict(file)


@pytest.mark.parametrize("rng", ["cpu", "nv"])
@pytest.mark.parametrize("name", CASES)
def test_the_noise_of_a1111(stored, rng, name):
    noise = batch_noise(rng, SEEDS, SHAPE, CASES[name])
    drawn = np.stack([noise(1.0, 0.5) for _ in range(3)])
    assert drawn.dtype == np.float32
    # torch's normals agree within 1e-6; nearly parallel columns, of which there are when they are
    # three cells high, lose digits in its float32.
    assert np.abs(drawn - stored[f"{rng}_{name}"]).max() <= (1e-3 if name == "all" else 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_seek_and_images_alone(name):
    variation = CASES[name]
    noise = batch_noise("numpy", SEEDS, SHAPE, variation)
    draws = [noise(1.0, 0.5) for _ in range(3)]
    for position in (2, 0, 1):
        noise.seek(position)
        assert np.array_equal(noise(1.0, 0.5), draws[position])
    alone = Variation(
        variation.seeds[1:], variation.strength, variation.resize_from, variation.seed_delta
    )
    second = batch_noise("numpy", SEEDS[1:], SHAPE, alone)
    assert all(np.array_equal(second(1.0, 0.5)[0], draw[1]) for draw in draws)


@pytest.mark.parametrize("rng", ["cpu", "nv", "numpy"])
def test_numbers_that_come_before_come_before_every_noise(rng):
    """As of an upscaler, whose small picture takes the first numbers of a seed."""
    other = BatchNoise(rng, SUBSEEDS, SHAPE, before=7)(1.0, 0.5)
    whole = BatchNoise(rng, SEEDS, SHAPE, Variation(SUBSEEDS, 1.0), before=7)(1.0, 0.5)
    assert np.allclose(whole, other, atol=1e-5)
    plain = BatchNoise(rng, SEEDS, SHAPE, before=7)(1.0, 0.5)
    resized = BatchNoise(rng, SEEDS, SHAPE, Variation(resize_from=(4, 2)), before=7)(1.0, 0.5)
    small = BatchNoise(rng, SEEDS, (4, 4, 2), before=7)(1.0, 0.5)
    assert np.array_equal(resized[:, :, 1:5, 1:3], small)
    assert np.array_equal(resized[:, :, 0], plain[:, :, 0])


def test_a_seed_resized_from_its_own_size_is_the_seed():
    plain = batch_noise("cpu", SEEDS, SHAPE)(1.0, 0.5)
    same = batch_noise("cpu", SEEDS, SHAPE, Variation(resize_from=SHAPE[1:]))(1.0, 0.5)
    assert np.array_equal(plain, same)


def test_slerp_keeps_the_length_of_columns():
    low, high = batch_noise("numpy", [1, 2], (4, 64, 3))(1.0, 0.5)
    assert np.allclose(slerp(0.0, low, high), low, atol=1e-6)
    assert np.allclose(slerp(1.0, low, high), high, atol=1e-6)
    half = slerp(0.5, low, high)
    assert np.abs(np.linalg.norm(half, axis=1) / np.linalg.norm(low, axis=1) - 1).max() < 0.3
    assert abs(half.std() - 1.0) < 0.1


def test_slerp_of_parallel_columns():
    """Columns of one cell are parallel or opposite."""
    low, high = batch_noise("numpy", [1, 2], (4, 1, 16))(1.0, 0.5)
    assert np.allclose(slerp(0.25, low, high), 0.75 * low + 0.25 * high, atol=1e-5)


def test_a_brownian_path_stays_that_of_the_seed():
    """A1111 gives it the seeds, not the variation seeds, and no ENSD."""
    plain = BrownianNoise("cpu", SEEDS, SHAPE, 0.03, 14.6)
    varied = BrownianNoise("cpu", SEEDS, SHAPE, 0.03, 14.6, CASES["all"])
    assert not np.array_equal(plain(0.0, 0.0), varied(0.0, 0.0))
    assert np.array_equal(plain(9.0, 3.0), varied(9.0, 3.0))


def test_variation_seeds_out_of_range():
    with pytest.raises(RequestError, match=str(2**64)):
        batch_noise("cpu", [1], SHAPE, Variation((2**64,), 0.5))
