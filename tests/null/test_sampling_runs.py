"""Whole runs of every sampler: resuming, ends, dtypes, evaluations, draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sdlite.errors import RequestError
from sdlite.manifest import NoiseTable
from sdlite.sampling import (
    SAMPLERS,
    NoiseLevels,
    batch_noise,
    final_latents,
    find_sampler,
    initial_latents,
    noise_for,
    sigmas_for,
)
from sdlite.types import Estimate, SamplerState

LEVELS = NoiseLevels.from_table(NoiseTable("scaled_linear", 0.00085, 0.012, 1000))
NAMES = [info.name for info in SAMPLERS]


def quiet(shape=(4, 4, 4)):
    return batch_noise("numpy", [3], shape)


def bent(x, sigma):
    """A denoiser that is not linear, so that nothing cancels by luck."""
    return Estimate(np.tanh(x / np.float32(1.0 + sigma)), np.tanh(x / np.float32(1.2 + sigma)))


def copied(state):
    """A state as it would come back from a file."""
    history = {name: array.copy() for name, array in state.history.items()}
    return SamplerState(state.index, state.x.copy(), history, state.noise_position)


def started(info, steps, rng="numpy", seeds=(7, 8), shape=(4, 5, 3)):
    """Latents, levels and noise at the start of a run."""
    sigmas = sigmas_for(None, LEVELS, steps, info)
    noise = noise_for(info, rng, seeds, shape, LEVELS)
    return initial_latents(info, noise(0.0, 0.0), sigmas), sigmas, noise


OPTIONS = {
    "plain": {},
    "still": {"eta": 0.0},
    "churned": {"s_churn": 5.0, "s_tmin": 0.3, "s_tmax": 9.0, "s_noise": 1.1},
}


@pytest.mark.parametrize(
    ("name", "steps", "rng", "options"),
    [(name, 7, rng, "plain") for name in NAMES for rng in ("cpu", "nv", "numpy")]
    + [("Restart", steps, "numpy", "plain") for steps in (22, 40)]
    + [("DDIM", 7, "numpy", "plain"), ("SA-Solver", 14, "numpy", "still")]
    + [(info.name, 7, "numpy", "still") for info in SAMPLERS if "eta" in info.options]
    + [(info.name, 7, "numpy", "churned") for info in SAMPLERS if "s_churn" in info.options],
)
def test_resumed_run_equals_uninterrupted_run_to_the_bit(name, steps, rng, options):
    info = find_sampler(name)
    run = info.bind(LEVELS, OPTIONS[options])
    whole = list(run(bent, *started(info, steps, rng)))
    count = len(whole)
    assert [step.index for step in whole] == list(range(count))
    assert whole[-1].total == count
    assert all(step.total == count or name == "DPM adaptive" for step in whole)
    for stop in whole:
        rest = list(run(bent, *started(info, steps, rng), copied(stop.state)))
        assert [step.index for step in rest] == list(range(stop.index + 1, count))
        for step in rest:
            expected = whole[step.index]
            assert np.array_equal(step.x, expected.x)
            assert np.array_equal(step.x0, expected.x0)
            assert (step.sigma, step.total) == (expected.sigma, expected.total)
            assert step.state.noise_position == expected.state.noise_position
            assert step.state.history.keys() == expected.state.history.keys()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "DPM adaptive"])
def test_an_image_of_a_batch_is_the_image_alone(name):
    """DPM adaptive chooses its steps for the whole batch."""
    info = find_sampler(name)
    run = info.bind(LEVELS)
    *_, both = run(bent, *started(info, 5, seeds=(7, 8)))
    *_, alone = run(bent, *started(info, 5, seeds=(8,)))
    assert np.array_equal(both.x[1:], alone.x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps(name, steps):
    """A single interval goes straight to the model's estimate."""
    info = find_sampler(name)
    x, sigmas, noise = started(info, steps)
    *_, last = info.bind(LEVELS)(bent, x, sigmas, noise)
    assert np.isfinite(last.x).all()
    if steps == 1 and not name.startswith("UniPC"):  # which leaves the noise of the lowest level
        # Euler's sum of x and its own slope rounds at the size of x, which is 50.
        expected = bent(x, float(sigmas[0])).x0
        if info.discard_penultimate:
            assert len(sigmas) == 2
        assert np.allclose(last.x, expected, rtol=0, atol=1e-5)
        assert noise.position == 1


@pytest.mark.parametrize("name", NAMES)
def test_samplers_leave_their_input_alone_and_stay_in_float32(name):
    info = find_sampler(name)
    x, sigmas, noise = started(info, 5)
    before = x.copy()
    kept = []
    own_levels = name in ("DPM fast", "DPM adaptive", "Restart")
    for step in info.bind(LEVELS)(bent, x, sigmas, noise):
        assert step.x.dtype == step.x0.dtype == np.float32
        assert own_levels or step.sigma == float(sigmas[step.index])
        kept.append((step.x, step.x.copy()))
        kept.extend((array, array.copy()) for array in step.state.history.values())
    assert np.array_equal(x, before)
    assert all(np.array_equal(array, copy) for array, copy in kept)


TWO_EVALUATIONS = ("Heun", "DPM2", "DPM2 a", "DPM++ 2S a", "DPM++ SDE", "Restart")


@pytest.mark.parametrize("info", SAMPLERS, ids=lambda info: info.name)
def test_evaluations_and_draws(info):
    calls = 0

    def counted(x, sigma):
        nonlocal calls
        calls += 1
        return bent(x, sigma)

    x, sigmas, noise = started(info, 20)
    steps = list(info.bind(LEVELS)(counted, x, sigmas, noise))
    if info.name == "DPM adaptive":
        assert (calls - len(steps)) % 2 == 0
        assert noise.position == len(steps)
        return
    intervals = {"DDIM": 19, "DDIM CFG++": 19, "PLMS": 19, "DPM fast": 7}.get(info.name, 20)
    assert len(steps) == intervals
    expected = 39 if info.name in TWO_EVALUATIONS else 20
    assert calls == (19 if info.name.startswith("DDIM") else expected)
    inside = sum(200 <= LEVELS.sigma_to_timestep(float(s)) <= 800 for s in sigmas)
    draws = {"Restart": 1, "DPM fast": 6, "DPM++ SDE": 38, "SA-Solver": inside}.get(info.name, 19)
    assert noise.position == 1 + (draws if info.stochastic else 0)


@pytest.mark.parametrize("info", SAMPLERS, ids=lambda info: info.name)
def test_without_eta_nothing_is_drawn(info):
    if "eta" not in info.options:
        assert info.eta is None
        return
    x, sigmas, noise = started(info, 6)
    list(info.bind(LEVELS, {"eta": 0.0})(bent, x, sigmas, noise))
    assert noise.position == 1


def test_options_a_sampler_lacks_are_ignored():
    info = find_sampler("DPM++ 2M")
    assert info.options == ()
    given = {"eta": 0.3, "s_churn": 9.0, "s_noise": 2.0}
    *_, plain = info.bind(LEVELS)(bent, *started(info, 4))
    *_, other = info.bind(LEVELS, given)(bent, *started(info, 4))
    assert np.array_equal(plain.x, other.x)


def test_a_run_may_end_above_0():
    """Then its noise stays: what a refiner would go on from."""
    for name in ("Euler", "Heun", "LMS", "DPM++ 2M", "UniPC", "DEIS", "SA-Solver"):
        info = find_sampler(name)
        sigmas = sigmas_for("Karras", LEVELS, 12, info)[:-4]
        noise = quiet()
        x = noise(0.0, 0.0) * sigmas[0]
        run = info.bind(LEVELS, {"eta": 0.0})
        *_, last = run(lambda x, _: Estimate(np.zeros_like(x)), x, sigmas, noise)
        # Nothing but noise, scaled down to where the run ends.
        assert np.allclose(last.x, x * (sigmas[-1] / sigmas[0]), rtol=0.02, atol=1e-4)


def test_dpm_adaptive_survives_what_is_not_finite():
    info = find_sampler("DPM adaptive")
    x, sigmas, noise = started(info, 6)
    broken = info.bind(LEVELS)(lambda x, _: Estimate(x * np.nan), x, sigmas, noise)
    assert np.isnan(next(broken).x).all()


def test_states_of_another_run_are_refused():
    info = find_sampler("DPM++ 2M")
    sigmas = sigmas_for(None, LEVELS, 3, info)
    x = np.zeros((1, 4, 4, 4), np.float32)
    with pytest.raises(RequestError, match="3 intervals"):
        list(info.run(bent, x, sigmas, quiet(), SamplerState(4, x)))
    with pytest.raises(RequestError, match="shape"):
        list(info.run(bent, x, sigmas, quiet(), SamplerState(1, x[:, :2])))
    with pytest.raises(RequestError, match="no x0_1 of an interval before"):
        list(info.run(bent, x, sigmas, quiet(), SamplerState(1, x)))
    info = find_sampler("DPM adaptive")
    with pytest.raises(RequestError, match="no control_1"):
        list(info.run(bent, x, sigmas, quiet(), SamplerState(1, x)))
    with pytest.raises(RequestError, match="shape"):
        list(info.run(bent, x, sigmas, quiet(), SamplerState(1, x[:, :2])))


ALPHA = 1.0 / (1.0 + LEVELS.sigmas.astype(np.float64) ** 2)


def network(z, t):
    """The noise a network would predict in A1111's latents, with and without the prompt."""
    sigma = ((1 - ALPHA[t]) / ALPHA[t]) ** 0.5
    wide = z / ALPHA[t] ** 0.5
    return [(wide - np.tanh(wide / (a + sigma))) / sigma for a in (1.0, 1.2)]


@pytest.mark.parametrize("steps", [20, 30, 27])
@pytest.mark.parametrize("name", ["DDIM", "DDIM CFG++", "PLMS"])
def test_samplers_over_timesteps_end_as_in_a1111(name, steps):
    """A1111's loops over alphas, as they are documented: they stop at timestep 1, noise and all."""
    times = np.minimum(np.arange(0, 1000, 1000 // steps) + 1, 999)
    info = find_sampler(name)
    x, sigmas, noise = started(info, steps)
    start = noise_for(info, "numpy", (7, 8), (4, 5, 3), LEVELS)(0.0, 0.0)
    z, old = start.astype(np.float64), []

    def moved(z, eps, towards, t, t_next):
        clean = (z - (1 - ALPHA[t]) ** 0.5 * eps) / ALPHA[t] ** 0.5
        return ALPHA[t_next] ** 0.5 * clean + (1 - ALPHA[t_next]) ** 0.5 * towards

    for t, t_next in zip(times[:0:-1].tolist(), times[-2::-1].tolist(), strict=True):
        eps, without = network(z, t)
        mean = eps
        if name == "PLMS" and not old:
            mean = (eps + network(moved(z, eps, eps, t, t_next), t_next)[0]) / 2
        elif name == "PLMS":
            weights = {1: (3, -1), 2: (23, -16, 5), 3: (55, -59, 37, -9)}[len(old)]
            mean = sum(w * e for w, e in zip(weights, [eps, *old], strict=True)) / sum(weights)
        old = [eps, *old][:3]
        z = moved(z, mean, without if name == "DDIM CFG++" else mean, t, t_next)
    steps = list(info.bind(LEVELS)(bent, x, sigmas, noise))
    assert len(steps) == len(times) - 1
    assert np.abs(final_latents(info, steps[-1].x, sigmas) - z).max() < 2e-5


def test_latents_are_handed_over_as_they_are_unless_noise_is_left():
    x = np.ones((1, 4, 2, 2), np.float32)
    to_0, above = np.array([1.0, 0.0], np.float32), np.array([1.0, 0.75], np.float32)
    assert final_latents(find_sampler("DDIM"), x, to_0) is x
    assert final_latents(find_sampler("Euler"), x, above) is x
    assert final_latents(find_sampler("DDIM"), x, above) == pytest.approx(0.8)
    assert math.hypot(0.75, 1.0) == 1.25
