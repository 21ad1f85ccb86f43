"""Random numbers against torch's and A1111's, stored by tests/parity/make_rng_fixtures.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdlite.choices import RNGS, find_rng
from sdlite.errors import RequestError, UnknownName
from sdlite.sampling import batch_noise
from sdlite.sampling.rng import GENERATORS, NumpyGenerator, PhiloxGenerator, TorchGenerator

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def stored():
    with np.load(FIXTURES / "rng.npz") as file:
        return dict(file)


@pytest.mark.parametrize("index", range(5))
def test_torch_words_bit_for_bit(stored, index):
    generator = TorchGenerator(int(stored["seeds"][index]))
    expected = stored[f"words_{index}"]
    assert np.array_equal(generator.words(len(expected)), expected)


@pytest.mark.parametrize("index", range(5))
def test_torch_normals(stored, index):
    generator = TorchGenerator(int(stored["seeds"][index]))
    drawn = np.concatenate([generator.normal(int(count)) for count in stored["cpu_counts"]])
    assert drawn.dtype == np.float32
    assert np.abs(drawn - stored[f"cpu_{index}"]).max() <= 1e-6


@pytest.mark.parametrize("index", range(5))
def test_nv_normals(stored, index):
    generator = PhiloxGenerator(int(stored["seeds"][index]))
    drawn = np.concatenate([generator.normal(int(count)) for count in stored["nv_counts"]])
    assert drawn.dtype == np.float32
    assert np.abs(drawn - stored[f"nv_{index}"]).max() <= 1e-6


def test_nv_published_values():
    """The example in the header of A1111's rng_philox.py."""
    expected = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    drawn = PhiloxGenerator(0).normal(12).reshape(3, 4)
    assert np.allclose(drawn, expected, rtol=0, atol=1e-6)


def test_torch_ignores_high_bits_of_the_seed_and_nv_does_not():
    assert np.array_equal(TorchGenerator(7).normal(64), TorchGenerator(2**32 + 7).normal(64))
    assert not np.array_equal(PhiloxGenerator(7).normal(64), PhiloxGenerator(2**32 + 7).normal(64))
    assert not np.array_equal(NumpyGenerator(7).normal(64), NumpyGenerator(2**32 + 7).normal(64))


def test_numpy_is_random_state():
    expected = np.random.RandomState(11).standard_normal(100).astype(np.float32)
    assert np.array_equal(NumpyGenerator(11).normal(100), expected)


@pytest.mark.parametrize("rng", RNGS)
@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 9, 7), (1, 3, 3)])
def test_image_of_a_batch_equals_that_image_alone(rng, shape):
    seeds = [5, 6, 2**64 - 1]
    together = batch_noise(rng, seeds, shape)
    alone = [batch_noise(rng, [seed], shape) for seed in seeds]
    for _ in range(3):
        drawn = together(1.0, 0.5)
        assert drawn.shape == (3, *shape)
        assert drawn.dtype == np.float32
        for image, source in zip(drawn, alone, strict=True):
            assert np.array_equal(image, source(2.0, 0.1)[0])


@pytest.mark.parametrize("rng", RNGS)
@pytest.mark.parametrize("shape", [(4, 6, 5), (1, 3, 3)])
def test_seek_returns_to_any_draw(rng, shape):
    noise = batch_noise(rng, [3, 4], shape)
    draws = [noise(1.0, 0.5) for _ in range(5)]
    assert noise.position == 5
    for position in (4, 0, 3, 1, 2):
        noise.seek(position)
        assert noise.position == position
        assert np.array_equal(noise(1.0, 0.5), draws[position])


@pytest.mark.parametrize("rng", RNGS)
def test_normals_are_normal(rng):
    values = batch_noise(rng, [1], (4, 128, 128))(1.0, 0.0)
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1.0) < 0.01
    assert abs((np.abs(values) < 1.0).mean() - 0.6827) < 0.01


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("CPU", "cpu"), ("NV", "nv"), ("GPU", "nv"), ("cuda", "nv"), ("Numpy", "numpy")],
)
def test_spellings(spelling, name):
    assert find_rng(spelling) == name


def test_every_name_has_a_generator():
    assert tuple(GENERATORS) == RNGS


def test_bad_names_and_seeds():
    with pytest.raises(UnknownName, match="Did you mean 'numpy'"):
        find_rng("nunpy")
    for seed in (-1, 2**64):
        with pytest.raises(RequestError, match=str(seed)):
            batch_noise("cpu", [seed], (4, 8, 8))
