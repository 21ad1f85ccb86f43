"""Samplers against mathematics.

For Gaussian data of deviation ``s`` the best denoiser is ``x s^2 / (s^2 + sigma^2)`` and the
probability-flow ODE has the solution ``x ~ sqrt(s^2 + sigma^2)``.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sdlite.errors import RequestError
from sdlite.manifest import NoiseTable
from sdlite.sampling import (
    SAMPLERS,
    BrownianNoise,
    NoiseLevels,
    batch_noise,
    find_sampler,
    initial_latents,
    noise_for,
    sigmas_for,
)
from sdlite.types import Estimate, SamplerState

S = 0.7
LEVELS = NoiseLevels.from_table(NoiseTable("scaled_linear", 0.00085, 0.012, 1000))
NAMES = [info.name for info in SAMPLERS]


def gaussian(x, sigma):
    return Estimate(x * np.float32(S * S / (S * S + sigma * sigma)))


def consistency(x, sigma):
    """The exact map along the ODE from any point to its end."""
    return Estimate(x * np.float32(S / np.hypot(S, sigma)))


def exact(x, sigma, sigma_next):
    return x * (np.hypot(S, sigma_next) / np.hypot(S, sigma))


def quiet(shape=(4, 4, 4)):
    return batch_noise("numpy", [3], shape)


def karras(n, low, high):
    ramp = np.linspace(high ** (1 / 7), low ** (1 / 7), n + 1) ** 7
    return np.append(ramp, 0.0).astype(np.float32)


# The range is short so that float32 rounding stays below the error of 128 intervals.
@pytest.mark.parametrize(
    ("name", "order"), [("Euler", 1), ("DDIM", 1), ("Heun", 2), ("DPM++ 2M", 2)]
)
def test_order_of_convergence(name, order):
    """Doubling the intervals divides the error at the lowest level by 2**order."""
    errors = []
    for n in (16, 32, 64):
        sigmas = karras(n, 0.2, 5.0)
        x = np.full((1, 1, 1, 1), 5.0, np.float32)
        steps = list(find_sampler(name).run(gaussian, x, sigmas, quiet()))
        assert len(steps) == n + 1
        at_low = float(steps[-2].x[0, 0, 0, 0])
        errors.append(abs(at_low - exact(5.0, 5.0, 0.2)))
    observed = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.all(np.abs(observed - order) < 0.25), (errors, observed)


@pytest.mark.parametrize(
    ("name", "n", "within"), [("Euler a", 400, 0.03), ("DPM++ 2M SDE", 100, 0.02)]
)
def test_stochastic_samplers_have_the_right_variance(name, n, within):
    """At every level the variance of x is s^2 + sigma^2.

    65,536 samples know it to 0.6 %; Euler a, of first order, is 7 % low with 100 intervals.
    """
    shape = (4, 128, 128)
    noise = batch_noise("numpy", [1], shape)
    sigmas = karras(n, 0.03, 14.0)
    x = noise(0.0, 0.0) * np.float32(np.hypot(sigmas[0], S))
    for step in find_sampler(name).run(gaussian, x, sigmas, noise):
        expected = S * S + float(sigmas[step.index + 1]) ** 2
        assert float(step.x.var()) == pytest.approx(expected, rel=within)
        assert abs(float(step.x.mean())) < 0.02 * expected**0.5
    assert noise.position == n + 1


def test_brownian_noise_is_white_and_belongs_to_its_seed():
    sigmas = karras(9, 0.03, 14.0)
    noise = BrownianNoise("cpu", [4, 5], (4, 32, 32), sigmas)
    first = noise(0.0, 0.0)
    assert np.array_equal(first, batch_noise("cpu", [4, 5], (4, 32, 32))(0.0, 0.0))
    draws = [noise(float(a), float(b)) for a, b in pairwise(sigmas[:-1])]
    rows = np.array([first.ravel(), *(draw.ravel() for draw in draws)])
    # 8,192 values a draw: deviations known to 0.8 %, correlations to 1.1 %.
    assert np.abs(rows.std(1) - 1).max() < 0.03
    assert np.abs(np.corrcoef(rows) - np.eye(len(rows))).max() < 0.05
    alone = BrownianNoise("cpu", [5], (4, 32, 32), sigmas)
    alone.seek(3)
    assert np.array_equal(alone(float(sigmas[2]), float(sigmas[3]))[0], draws[2][1])


def test_brownian_noise_does_not_depend_on_the_steps():
    """Two intervals make the noise of the interval they fill."""
    sigmas = karras(2, 0.03, 14.0)
    high, middle, low = (float(sigma) for sigma in sigmas[:3])
    noise = BrownianNoise("nv", [4], (1, 8, 8), sigmas)
    noise.seek(1)
    halves = (
        noise(high, middle) * (high - middle) ** 0.5 + noise(middle, low) * (middle - low) ** 0.5
    )
    whole = noise(high, low) * (high - low) ** 0.5
    assert np.allclose(halves, whole, rtol=0, atol=1e-5)


def test_stochastic_noise_is_fresh_in_every_interval():
    """Along a run the end must not remember the start: both samplers forget it."""
    shape = (4, 64, 64)
    for name in ("Euler a", "DPM++ 2M SDE", "LCM"):
        noise = batch_noise("numpy", [2], shape)
        start = noise(0.0, 0.0)
        sigmas = karras(50, 0.03, 14.0)
        model = consistency if name == "LCM" else gaussian
        *_, last = find_sampler(name).run(model, start * sigmas[0], sigmas, noise)
        correlation = np.corrcoef(start.ravel(), last.x.ravel())[0, 1]
        assert abs(correlation) < 0.1


def test_lcm_is_exact_with_the_exact_consistency_function():
    """Each interval: x0 along the ODE, then fresh noise, in closed form."""
    noise = quiet()
    sigmas = np.array([14.0, 5.0, 1.0, 0.0], np.float32)
    x = noise(0.0, 0.0) * sigmas[0]
    steps = list(find_sampler("LCM").run(consistency, x, sigmas, noise))
    again = quiet()
    again.seek(1)
    for index, step in enumerate(steps):
        x0 = x * (S / np.hypot(S, sigmas[index]))
        fresh = 0.0 if index == 2 else again(0.0, 0.0) * sigmas[index + 1]
        assert np.allclose(step.x0, x0, rtol=1e-6, atol=1e-6)
        assert np.allclose(step.x, x0 + fresh, rtol=1e-6, atol=1e-6)
        x = step.x


def test_lcm_keeps_the_variance_of_the_data():
    shape = (4, 128, 128)
    noise = batch_noise("numpy", [1], shape)
    sigmas = sigmas_for("LCM", LEVELS, 4, "LCM")
    x = noise(0.0, 0.0) * np.float32(np.hypot(sigmas[0], S))
    *_, last = find_sampler("LCM").run(consistency, x, sigmas, noise)
    assert float(last.x.std()) == pytest.approx(S, rel=0.01)


def bent(x, sigma):
    """A denoiser that is not linear, so that nothing cancels by luck."""
    return Estimate(np.tanh(x / np.float32(1.0 + sigma)))


def copied(state):
    """A state as it would come back from a file."""
    history = {name: array.copy() for name, array in state.history.items()}
    return SamplerState(state.index, state.x.copy(), history, state.noise_position)


@pytest.mark.parametrize("rng", ["cpu", "nv", "numpy"])
@pytest.mark.parametrize("name", NAMES)
def test_resumed_run_equals_uninterrupted_run_to_the_bit(name, rng):
    def fresh():
        noise = noise_for(info, rng, [7, 8], (4, 5, 3), sigmas)
        return noise, initial_latents(info, noise(0.0, 0.0), sigmas)

    info = find_sampler(name)
    sigmas = sigmas_for(None, LEVELS, 7, info)
    noise, x = fresh()
    whole = list(info.run(bent, x, sigmas, noise))
    assert [step.index for step in whole] == list(range(7))
    assert all(step.total == 7 for step in whole)
    for stop in whole:
        noise, x = fresh()
        rest = list(info.run(bent, x, sigmas, noise, copied(stop.state)))
        assert [step.index for step in rest] == list(range(stop.index + 1, 7))
        for step in rest:
            expected = whole[step.index]
            assert np.array_equal(step.x, expected.x)
            assert np.array_equal(step.x0, expected.x0)
            assert step.sigma == expected.sigma
            assert step.state.noise_position == expected.state.noise_position
            assert step.state.history.keys() == expected.state.history.keys()


@pytest.mark.parametrize("name", NAMES)
def test_one_step(name):
    """A single interval goes straight to the model's estimate."""
    info = find_sampler(name)
    sigmas = sigmas_for(None, LEVELS, 1, info)
    noise = quiet()
    x = initial_latents(info, noise(0.0, 0.0), sigmas)
    (step,) = info.run(bent, x, sigmas, noise)
    # Euler's sum of x and its own slope rounds at the size of x, which is 50.
    assert np.allclose(step.x, bent(x, float(sigmas[0])).x0, rtol=0, atol=1e-5)
    assert noise.position == 1


@pytest.mark.parametrize("name", NAMES)
def test_samplers_leave_their_input_alone_and_stay_in_float32(name):
    info = find_sampler(name)
    sigmas = sigmas_for(None, LEVELS, 4, info)
    noise = quiet()
    x = initial_latents(info, noise(0.0, 0.0), sigmas)
    before = x.copy()
    kept = []
    for step in info.run(bent, x, sigmas, noise):
        assert step.x.dtype == step.x0.dtype == np.float32
        assert step.sigma == float(sigmas[step.index])
        kept.append((step.x, step.x.copy()))
    assert np.array_equal(x, before)
    assert all(np.array_equal(array, copy) for array, copy in kept)


@pytest.mark.parametrize("info", SAMPLERS, ids=lambda info: info.name)
def test_evaluations_and_draws_are_as_declared(info):
    calls = 0

    def counted(x, sigma):
        nonlocal calls
        calls += 1
        return bent(x, sigma)

    sigmas = sigmas_for(None, LEVELS, 6, info)
    noise = quiet()
    list(info.run(counted, noise(0.0, 0.0), sigmas, noise))
    assert calls == 6 * info.evaluations - (info.evaluations - 1)
    assert noise.position == 1 + (5 if info.stochastic else 0)


def test_states_of_another_run_are_refused():
    info = find_sampler("DPM++ 2M")
    sigmas = sigmas_for(None, LEVELS, 3, info)
    x = np.zeros((1, 4, 4, 4), np.float32)
    with pytest.raises(RequestError, match="3 intervals"):
        list(info.run(bent, x, sigmas, quiet(), SamplerState(4, x)))
    with pytest.raises(RequestError, match="shape"):
        list(info.run(bent, x, sigmas, quiet(), SamplerState(1, x[:, :2])))
    with pytest.raises(RequestError, match="interval before"):
        list(info.run(bent, x, sigmas, quiet(), SamplerState(1, x)))


def test_ddim_passes_through_the_result_of_a1111():
    """A1111's loop over alphas (20 steps: 19 evaluations) ends where our last but one step does."""
    alpha = 1.0 / (1.0 + LEVELS.sigmas.astype(np.float64) ** 2)
    times = np.arange(0, 1000, 50) + 1
    start = quiet()(0.0, 0.0)
    z = start.astype(np.float64)
    for index in range(len(times) - 1, 0, -1):
        a, a_next = alpha[times[index]], alpha[times[index - 1]]
        sigma = ((1 - a) / a) ** 0.5
        eps = (z / a**0.5 - np.tanh(z / a**0.5 / (1 + sigma))) / sigma
        z = a_next**0.5 * (z - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - a_next) ** 0.5 * eps
    info = find_sampler("DDIM")
    sigmas = sigmas_for(None, LEVELS, 20, info)
    steps = list(info.run(bent, initial_latents(info, start, sigmas), sigmas, quiet()))
    ours = steps[-2].x / np.hypot(float(sigmas[-2]), 1.0)
    assert np.abs(ours - z).max() < 1e-5
