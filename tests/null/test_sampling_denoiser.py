from __future__ import annotations

import numpy as np
import pytest

from sdlite.errors import RequestError, UnknownName
from sdlite.manifest import NoiseTable
from sdlite.sampling import NoiseLevels, denoiser
from sdlite.types import Cond, StepConds

LEVELS = NoiseLevels.from_table(NoiseTable("scaled_linear", 0.00085, 0.012, 1000))
SHAPE = (2, 4, 3, 5)


class Network:
    """Predicts from its inputs in a way that shows each of them; keeps what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, timestep, cond):
        context = cond.context
        assert x.dtype == timestep.dtype == context.dtype == np.float32
        assert len(x) == len(timestep) == len(context)
        self.calls.append((x, timestep, context))
        return np.tanh(x) + context.mean((1, 2)).reshape(-1, 1, 1, 1) + timestep[0] / 1e4


def context(value, images=1, tokens=6):
    return np.full((images, tokens, 3), value, np.float32)


def always(prompt, negative=None):
    """The same prompt at every noise level."""
    conds = StepConds(((Cond(prompt), 1.0),), None if negative is None else Cond(negative))
    return lambda sigma: conds


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal(SHAPE, np.float32) * 3


def test_epsilon(x):
    network = Network()
    sigma = float(LEVELS.sigmas[500])
    estimate = denoiser(network, LEVELS, "epsilon", always(context(0.2)), 7.0)(x, sigma)
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
        model = denoiser(lambda *_, t=target: t, LEVELS, kind, always(context(0)), 1.0)
        assert np.allclose(model(x, sigma).x0, clean, atol=2e-5)


@pytest.mark.parametrize("images", [1, 2])
def test_guidance(x, images):
    network = Network()
    told = always(context(0.5, images), context(-0.5))
    guided = denoiser(network, LEVELS, "epsilon", told, 5.0)(x, 2.0)
    assert [len(call[0]) for call in network.calls] == [4]
    # Prompt first, then negative prompt.
    assert np.array_equal(network.calls[0][2][:, 0, 0], np.float32([0.5, 0.5, -0.5, -0.5]))
    alone = denoiser(Network(), LEVELS, "epsilon", always(context(0.5)), 5.0)(x, 2.0).x0
    against = denoiser(Network(), LEVELS, "epsilon", always(context(-0.5)), 5.0)(x, 2.0).x0
    assert np.array_equal(guided.x0_uncond, against)
    assert np.array_equal(guided.x0, against + (alone - against) * 5.0)


def test_prompts_of_different_length_take_two_calls(x):
    network = Network()
    model = denoiser(network, LEVELS, "epsilon", always(context(1, 1, 12), context(0)), 5.0)
    estimate = model(x, 1.0)
    assert [call[2].shape[1] for call in network.calls] == [12, 6]
    alike = denoiser(Network(), LEVELS, "epsilon", always(context(1), context(0)), 5.0)(x, 1.0)
    assert np.array_equal(estimate.x0, alike.x0)


def composed(*parts, negative=0.0):
    """Conditions of an AND composition: (value, weight, tokens) each."""
    conds = tuple((Cond(context(value, 1, tokens)), weight) for value, weight, tokens in parts)
    return lambda sigma: StepConds(conds, None if negative is None else Cond(context(negative)))


def alone(x, value):
    return denoiser(Network(), LEVELS, "epsilon", always(context(value)), 1.0)(x, 2.0).x0


def test_composition_adds_weighted_directions(x):
    network = Network()
    parts = ((0.5, 1.0, 6), (-0.3, 0.7, 12), (0.2, -0.4, 6))
    estimate = denoiser(network, LEVELS, "epsilon", composed(*parts), 5.0)(x, 2.0)
    # What has the same length goes together: two prompts and the negative, then the long prompt.
    assert [call[2].shape[:2] for call in network.calls] == [(6, 6), (2, 12)]
    expected = base = alone(x, 0.0)
    for value, weight, _ in parts:
        expected = expected + 5.0 * weight * (alone(x, value) - base)
    assert np.allclose(estimate.x0, expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(estimate.x0_uncond, base)


@pytest.mark.parametrize(("weights", "items"), [((0.25, 0.75), 4), ((1.0, 1.0), 6), ((1.2,), 4)])
def test_without_guidance_the_negative_counts_where_weights_do_not_sum_to_one(x, weights, items):
    network = Network()
    parts = [(0.5 * (index + 1), weight, 6) for index, weight in enumerate(weights)]
    estimate = denoiser(network, LEVELS, "epsilon", composed(*parts), 1.0)(x, 2.0)
    assert [len(call[0]) for call in network.calls] == [items]
    base = alone(x, 0.0)
    expected = base + sum(weight * (alone(x, value) - base) for value, weight, _ in parts)
    assert np.allclose(estimate.x0, expected, rtol=1e-5, atol=1e-5)


def test_weights_that_need_a_negative_prompt(x):
    model = denoiser(Network(), LEVELS, "epsilon", composed((1.0, 1.2, 6), negative=None), 1.0)
    with pytest.raises(RequestError, match="need a negative prompt"):
        model(x, 1.0)


def test_further_inputs_travel_with_their_context(x):
    given = []

    def network(x, timestep, cond):
        given.append(cond.added["time_ids"])
        return np.zeros_like(x)

    def cond(value, size=6):
        return Cond(context(0), {"time_ids": np.full((1, size), value, np.float32)})

    told = StepConds(((cond(1), 1.0),), cond(2))
    denoiser(network, LEVELS, "epsilon", lambda _: told, 5.0)(x, 1.0)
    assert np.array_equal(given.pop()[:, 0], [1, 1, 2, 2])
    for negative in (cond(2, size=5), Cond(context(0))):
        assert not told.parts[0][0].stacks_with(negative)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_rescaled_guidance_has_the_deviation_of_the_prompt_alone(x, prediction):
    """Lin et al. 2023, equations 15 and 16, on what the network predicts."""

    def network(x, timestep, cond):
        return np.tanh(x * (1 + cond.context[:, :1, :1, None])) * 2

    told = always(context(0.5), context(-0.5))
    outs = [network(x / np.hypot(2, 1), 0, Cond(context(value, 2))) for value in (0.5, -0.5)]
    guided = outs[1] + 5 * (outs[0] - outs[1])
    deviations = [part.std((1, 2, 3), keepdims=True) for part in (outs[0], guided)]
    for rescale in (0.7, 1.0):
        wanted = rescale * guided * deviations[0] / deviations[1] + (1 - rescale) * guided
        plain = denoiser(lambda *_, out=wanted: out, LEVELS, prediction, always(context(0)), 1.0)
        model = denoiser(network, LEVELS, prediction, told, 5.0, rescale=rescale)
        assert np.allclose(model(x, 2.0).x0, plain(x, 2.0).x0, rtol=1e-4, atol=1e-4)
    against = denoiser(network, LEVELS, prediction, always(context(-0.5)), 1.0)(x, 2.0).x0
    assert np.allclose(model(x, 2.0).x0_uncond, against, atol=1e-6)


def test_guidance_interval(x):
    network = Network()
    told = always(context(0.5), context(-0.5))
    model = denoiser(network, LEVELS, "epsilon", told, 5.0, interval=(1.0, 3.0))
    whole = denoiser(Network(), LEVELS, "epsilon", told, 5.0)
    off = denoiser(Network(), LEVELS, "epsilon", told, 1.0)
    for sigma, guided in ((0.9, False), (1.0, True), (2.0, True), (3.0, True), (3.1, False)):
        estimate = model(x, sigma)
        assert len(network.calls.pop()[0]) == (4 if guided else 2)
        assert (estimate.x0_uncond is not None) == guided
        assert np.array_equal(estimate.x0, (whole if guided else off)(x, sigma).x0)


@pytest.mark.parametrize("guidance", [1.0, 0.5, 0.0, -2.0])
def test_no_guidance_means_no_negative_call(x, guidance):
    network = Network()
    told = always(context(1), context(0))
    model = denoiser(network, LEVELS, "epsilon", told, guidance)
    plain = denoiser(Network(), LEVELS, "epsilon", always(context(1)), 7.0)
    estimate = model(x, 1.0)
    assert [len(call[0]) for call in network.calls] == [2]
    assert estimate.x0_uncond is None
    assert np.array_equal(estimate.x0, plain(x, 1.0).x0)


def test_consistency_rounds_timesteps_and_scales_at_the_boundary(x):
    network = Network()
    model = denoiser(network, LEVELS, "epsilon", always(context(0)), 1.0, consistency=True)
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
        denoiser(Network(), LEVELS, "epsilom", always(context(0)), 1.0)
    with pytest.raises(RequestError, match="3 images does not fit a batch of 2"):
        denoiser(Network(), LEVELS, "epsilon", always(context(0, 3)), 1.0)(x, 1.0)
