from __future__ import annotations

import numpy as np
import pytest

from sdlite.errors import RequestError, UnknownName
from sdlite.manifest import NoiseTable
from sdlite.sampling import NoiseLevels, denoiser

LEVELS = NoiseLevels.from_table(NoiseTable("scaled_linear", 0.00085, 0.012, 1000))
SHAPE = (2, 4, 3, 5)


class Network:
    """Predicts from its inputs in a way that shows each of them; keeps what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, timestep, context):
        assert x.dtype == timestep.dtype == context.dtype == np.float32
        assert len(x) == len(timestep) == len(context)
        self.calls.append((x, timestep, context))
        return np.tanh(x) + context.mean((1, 2)).reshape(-1, 1, 1, 1) + timestep[0] / 1e4


def context(value, images=1, tokens=6):
    return np.full((images, tokens, 3), value, np.float32)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal(SHAPE, np.float32) * 3


def test_epsilon(x):
    network = Network()
    sigma = float(LEVELS.sigmas[500])
    estimate = denoiser(network, LEVELS, "epsilon", context(0.2), None, 7.0, True)(x, sigma)
    ((given, timestep, _),) = network.calls
    assert np.allclose(given, x / np.hypot(sigma, 1), rtol=1e-6)
    assert np.array_equal(timestep, [500.0, 500.0])
    eps = np.tanh(given) + 0.2 + 0.05
    assert np.allclose(estimate.x0, x - sigma * eps, rtol=1e-5, atol=1e-5)
    assert estimate.x0.dtype == np.float32
    assert estimate.x0_uncond is None


@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.0])
def test_prediction_types_recover_the_clean_latents(x, sigma):
    """With clean latents c and noise n: eps = n and v = (n - sigma c) / sqrt(1 + sigma^2)."""
    clean = np.random.default_rng(1).standard_normal(SHAPE, np.float32)
    noise = (x - clean) / np.float32(sigma)
    velocity = (noise - sigma * clean) / np.float32(np.hypot(1, sigma))
    for kind, target in (("epsilon", noise), ("v_prediction", velocity)):
        model = denoiser(lambda *_, t=target: t, LEVELS, kind, context(0), None, 1.0, True)
        assert np.allclose(model(x, sigma).x0, clean, atol=2e-5)


@pytest.mark.parametrize("images", [1, 2])
def test_guidance_as_one_call_or_two(x, images):
    cond, uncond = context(0.5, images), context(-0.5)
    one, two = Network(), Network()
    a = denoiser(one, LEVELS, "epsilon", cond, uncond, 5.0, True)(x, 2.0)
    b = denoiser(two, LEVELS, "epsilon", cond, uncond, 5.0, False)(x, 2.0)
    assert [len(call[0]) for call in one.calls] == [4]
    assert [len(call[0]) for call in two.calls] == [2, 2]
    # Prompt first, then negative prompt, in both.
    assert np.array_equal(one.calls[0][2][:, 0, 0], np.float32([0.5, 0.5, -0.5, -0.5]))
    assert (two.calls[0][2][0, 0, 0], two.calls[1][2][0, 0, 0]) == (0.5, -0.5)
    assert np.array_equal(a.x0, b.x0)
    assert np.array_equal(a.x0_uncond, b.x0_uncond)
    with_prompt = denoiser(Network(), LEVELS, "epsilon", cond, None, 5.0, True)(x, 2.0).x0
    expected = a.x0_uncond + 5.0 * (with_prompt - a.x0_uncond)
    assert np.allclose(a.x0, expected, rtol=1e-5, atol=1e-5)


def test_prompts_of_different_length_take_two_calls(x):
    network = Network()
    model = denoiser(network, LEVELS, "epsilon", context(1, 1, 12), context(0), 5.0, True)
    model(x, 1.0)
    assert [call[2].shape[1] for call in network.calls] == [12, 6]


@pytest.mark.parametrize("guidance", [1.0, 0.5, 0.0, -2.0])
def test_no_guidance_means_no_negative_call(x, guidance):
    network = Network()
    model = denoiser(network, LEVELS, "epsilon", context(1), context(0), guidance, True)
    plain = denoiser(Network(), LEVELS, "epsilon", context(1), None, 7.0, True)
    estimate = model(x, 1.0)
    assert [len(call[0]) for call in network.calls] == [2]
    assert estimate.x0_uncond is None
    assert np.array_equal(estimate.x0, plain(x, 1.0).x0)


def test_consistency_rounds_timesteps_and_scales_at_the_boundary(x):
    network = Network()
    model = denoiser(network, LEVELS, "epsilon", context(0), None, 1.0, True, consistency=True)
    sigma = float(LEVELS.sigmas[24])
    estimate = model(x, sigma)
    assert network.calls[0][1][0] == 19.0  # the nearest of 19, 39, 59 ...
    plain = x - sigma * (np.tanh(network.calls[0][0]) + 19.0 / 1e4)
    scaled = 190.0
    skip = 0.25 / (scaled**2 + 0.25)
    expected = plain * scaled / np.sqrt(scaled**2 + 0.25) + x * skip
    assert np.allclose(estimate.x0, expected, rtol=1e-6, atol=1e-6)
    assert skip > 6e-6


def test_bad_arguments(x):
    with pytest.raises(UnknownName, match="epsilon"):
        denoiser(Network(), LEVELS, "epsilom", context(0), None, 1.0, True)
    with pytest.raises(RequestError, match="3 images does not fit a batch of 2"):
        denoiser(Network(), LEVELS, "epsilon", context(0, 3), None, 1.0, True)(x, 1.0)
