from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlite.errors import RequestError, UnknownName
from sdlite.manifest import NoiseTable
from sdlite.sampling import SCHEDULES, NoiseLevels, sigmas_for
from sdlite.sampling.schedules import lcm_timesteps

LEVELS = NoiseLevels.from_table(NoiseTable("scaled_linear", 0.00085, 0.012, 1000))
LINEAR = NoiseLevels.from_table(NoiseTable("linear", 0.0001, 0.02, 1000))
NAMES = [info.name for info in SCHEDULES]


@given(
    st.integers(1, 200) | st.integers(201, 1000),
    st.sampled_from(NAMES),
    st.sampled_from([LEVELS, LINEAR]),
)
def test_schedules_fall_to_zero(n, name, levels):
    sigmas = sigmas_for(name, levels, n, "Euler")
    assert sigmas.dtype == np.float32
    assert sigmas.shape == (n + 1,)
    assert sigmas[-1] == 0.0
    assert np.all(np.diff(sigmas) < 0)
    assert sigmas[0] <= np.float32(levels.sigma_max * (1 + 1e-6))
    assert sigmas[-2] >= np.float32(levels.sigma_min * (1 - 1e-6))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ddim"])
def test_schedules_start_at_the_top(name):
    for n in (1, 2, 20):
        assert sigmas_for(name, LEVELS, n, "Euler")[0] == pytest.approx(LEVELS.sigma_max, rel=1e-6)


@given(st.integers(0, 999))
def test_levels_are_their_timesteps_exactly(timestep):
    sigma = float(LEVELS.sigmas[timestep])
    assert LEVELS.sigma_to_timestep(sigma) == timestep
    assert LEVELS.timestep_to_sigma(timestep) == sigma


@given(st.floats(0, 999))
def test_timestep_and_sigma_are_inverse(timestep):
    sigma = LEVELS.timestep_to_sigma(timestep)
    assert LEVELS.sigma_to_timestep(sigma) == pytest.approx(timestep, abs=1e-6)


def test_outside_the_table_the_nearest_end_counts():
    assert LEVELS.sigma_to_timestep(0.0) == 0.0
    assert LEVELS.sigma_to_timestep(100.0) == 999.0
    assert LEVELS.timestep_to_sigma(-3.0) == LEVELS.sigma_min
    assert LEVELS.timestep_to_sigma(5000.0) == LEVELS.sigma_max


def test_a_table_of_one_level():
    one = NoiseLevels.from_table(NoiseTable("linear", 0.5, 0.5, 1))
    assert one.sigmas == pytest.approx([1.0])
    assert one.timestep_to_sigma(0.0) == pytest.approx(1.0)
    for name in NAMES:
        assert sigmas_for(name, one, 1, "Euler") == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    ("n", "first", "last"),
    # A1111's list for 30 is 991 ... 1, of which it evaluates 991 ... 34.
    [(20, 951, 1), (30, 991, 34), (27, 999, 38), (1, 1, 1), (60, 984, 1), (1000, 999, 0)],
)
def test_ddim_timesteps(n, first, last):
    sigmas = sigmas_for("DDIM", LEVELS, n, "DDIM")
    assert (sigmas[0], sigmas[-2]) == (LEVELS.sigmas[first], LEVELS.sigmas[last])


def test_lcm_visits_distillation_timesteps():
    assert list(lcm_timesteps(LEVELS)[[0, 1, -1]]) == [19, 39, 999]
    sigmas = sigmas_for("LCM", LEVELS, 50, "LCM")
    assert np.allclose(sigmas[:-1][::-1], LEVELS.sigmas[19::20], rtol=1e-6)
    short = NoiseLevels.from_table(NoiseTable("scaled_linear", 0.00085, 0.012, 30))
    assert list(lcm_timesteps(short)) == list(range(30))


def test_automatic_follows_the_sampler():
    def same(sampler, schedule):
        automatic = sigmas_for("Automatic", LEVELS, 9, sampler)
        return np.array_equal(automatic, sigmas_for(schedule, LEVELS, 9, sampler))

    assert same("DPM++ 2M", "Karras")
    assert same("DPM++ 2M SDE", "Exponential")
    assert same("Euler", "Uniform")
    assert same("Euler a", "Uniform")
    assert same("Heun", "Uniform")
    assert same("DDIM", "DDIM")
    assert same("LCM", "LCM")
    assert np.array_equal(sigmas_for(None, LEVELS, 9, "DPM++ 2M Simple"),
                          sigmas_for("Simple", LEVELS, 9, "Euler"))  # fmt: skip


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_out_of_range(steps):
    with pytest.raises(RequestError, match=f"steps {steps} .* 1 to 1000"):
        sigmas_for("Karras", LEVELS, steps, "Euler")


def test_unknown_schedule():
    with pytest.raises(UnknownName, match="Did you mean 'Karras'"):
        sigmas_for("karas", LEVELS, 5, "Euler")
