from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlite.errors import RequestError, UnknownName
from sdlite.manifest import NoiseTable
from sdlite.sampling import SCHEDULES, NoiseLevels, custom, sigmas_for, skipped_levels
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
    # A1111's rounding makes DDIM longer where n does not divide the timesteps.
    assert len(sigmas) == n + 1 or (name in ("ddim", "time_uniform") and len(sigmas) > n)
    assert sigmas[-1] == 0.0
    assert np.all(np.diff(sigmas) < 0)
    # The published levels of Align Your Steps are rounded.
    slack = 1e-2 if name == "align_your_steps" else 1e-6
    assert sigmas[0] <= np.float32(levels.sigma_max * (1 + slack))
    assert sigmas[-2] >= np.float32(levels.sigma_min * (1 - slack))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ddim", "leading")])
def test_schedules_start_at_the_top(name):
    for n in (1, 2, 20):
        assert sigmas_for(name, LEVELS, n, "Euler")[0] == pytest.approx(LEVELS.sigma_max, rel=1e-4)


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
    for name in set(NAMES) - {"align_your_steps"}:  # which has levels of its own
        assert sigmas_for(name, one, 1, "Euler") == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    ("n", "first", "last", "count"),
    [(20, 951, 1, 20), (30, 991, 1, 31), (27, 999, 1, 28), (1, 1, 1, 1), (60, 993, 1, 63)],
)
def test_ddim_timesteps_are_those_of_a1111(n, first, last, count):
    """range(0, 1000, 1000 // n) + 1, of which its loop evaluates all but the lowest."""
    times = np.minimum(np.arange(0, 1000, 1000 // n) + 1, 999)
    assert (times[-1], times[0], len(times)) == (first, last, count)
    levels = LEVELS.sigmas[times][::-1]
    assert np.array_equal(sigmas_for("DDIM", LEVELS, n, "Euler"), np.append(levels, 0.0))
    if n > 1:
        for sampler in ("DDIM", "DDIM CFG++", "PLMS"):
            assert np.array_equal(sigmas_for(None, LEVELS, n, sampler), levels)


def test_timestep_samplers_go_to_0_on_other_schedules():
    for sampler in ("DDIM", "PLMS", "UniPC"):
        assert sigmas_for("Trailing", LEVELS, 5, sampler)[-1] == 0.0
        assert len(sigmas_for("Trailing", LEVELS, 5, sampler)) == 6


def test_unipc_takes_even_timesteps_down_to_the_lowest():
    sigmas = sigmas_for(None, LEVELS, 20, "UniPC")
    assert [LEVELS.sigma_to_timestep(float(s)) for s in sigmas[[0, 10, 20]]] == pytest.approx(
        [999, 499.5, 0], abs=1e-3
    )
    assert len(sigmas) == 21
    assert len(sigmas_for(None, LEVELS, 30, "UniPC")) == 32  # A1111 counts DDIM's timesteps


def test_levels_left_out_are_counted_from_the_low_end():
    """A1111 adds the noise of timesteps[t_enc], or of the sigma t_enc + 2 places from the end."""
    for sampler, steps, first in (("Euler", 20, 4), ("DDIM", 20, 4), ("DDIM", 30, 7)):
        t_enc = steps - first - 1
        sigmas = sigmas_for(None, LEVELS, steps, sampler)
        begun = sigmas[skipped_levels(sigmas, first, steps) :]
        expected = sigmas[-t_enc - 2] if sampler == "Euler" else sigmas[-t_enc - 1]
        assert begun[0] == expected
        assert skipped_levels(sigmas, 0, steps) == 0
    sigmas = sigmas_for(None, LEVELS, 20, "DDIM")
    assert len(sigmas[skipped_levels(sigmas, 19, 20) :]) == 2


@pytest.mark.parametrize("name", ["DPM2", "DPM2 a", "DPM++ 3M SDE"])
def test_penultimate_level_is_left_out_as_in_a1111(name):
    sigmas = sigmas_for("Karras", LEVELS, 8, name)
    whole = sigmas_for("Karras", LEVELS, 9, "Euler")
    assert np.array_equal(sigmas, np.append(whole[:-2], 0.0))
    assert len(sigmas_for("Karras", LEVELS, 1000, name)) == 1001


def test_align_your_steps_are_the_published_levels():
    sd = sigmas_for("AYS", LEVELS, 11, "Euler")
    xl = sigmas_for("AYS", LEVELS, 11, "Euler", sdxl=True)
    assert sd[[0, 1, 5, 10, 11]] == pytest.approx([14.615, 6.475, 1.396, 0.029, 0.0], rel=1e-6)
    assert xl[[0, 1, 5, 10, 11]] == pytest.approx([14.615, 6.315, 0.862, 0.029, 0.0], rel=1e-6)
    between = sigmas_for("AYS", LEVELS, 21, "Euler")
    assert between[1] == pytest.approx((14.615 * 6.475) ** 0.5, rel=1e-6)
    karras = sigmas_for("Karras", LEVELS, 11, "Euler", sdxl=True)
    assert np.array_equal(karras, sigmas_for("Karras", LEVELS, 11, "Euler"))


def test_kl_optimal_is_even_in_the_arc_tangent():
    sigmas = sigmas_for("KL Optimal", LEVELS, 10, "Euler").astype(np.float64)
    steps = np.diff(np.arctan(np.append(sigmas[:-1], LEVELS.sigma_min)))
    assert len(sigmas) == 11
    assert np.allclose(steps, steps[0], rtol=1e-5)


def test_polyexponential_is_exponential():
    assert np.array_equal(
        sigmas_for("Polyexponential", LEVELS, 9, "Euler"),
        sigmas_for("Exponential", LEVELS, 9, "Euler"),
    )


def test_custom_levels():
    expected = np.array([10.0, 3.0, 0.5, 0.0], np.float32)
    assert np.array_equal(custom((10.0, 3.0, 0.5)), expected)
    assert np.array_equal(custom((10.0, 3.0, 0.5, 0.0)), expected)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ((), "empty"),
        ((0.0,), "empty"),
        ((3.0, 5.0), "sigma 5 does not fall: the one before is 3"),
        ((3.0, 3.0), "does not fall"),
        ((1.0, 1.0 - 1e-9), "does not fall"),
        ((3.0, -1.0), "sigma -1 is not a level"),
        ((3.0, 0.0, 1.0), "sigma 0 is not a level"),
        ((float("nan"), 1.0), "sigma nan is not a level"),
        ((float("inf"), 1.0), "sigma inf is not a level"),
        ((1e300, 1.0), "is not a level"),
    ],
)
def test_custom_levels_that_do_not_work(sigmas, message):
    with pytest.raises(RequestError, match=message):
        custom(sigmas)


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
    assert same("DPM2", "Karras")
    assert same("DPM++ 3M SDE", "Exponential")
    assert same("UniPC", "Time Uniform")
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
