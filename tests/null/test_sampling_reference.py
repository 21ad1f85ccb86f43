"""Samplers and schedules against k-diffusion and diffusers.

Stored by tests/parity/make_sampler_fixtures.py.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sdlite.manifest import NoiseTable
from sdlite.sampling import (
    BrownianNoise,
    NoiseLevels,
    denoiser,
    find_sampler,
    find_schedule,
    initial_latents,
)
from sdlite.types import Cond, Estimate, StepConds

LEVELS = NoiseLevels.from_table(NoiseTable("scaled_linear", 0.00085, 0.012, 1000))


@pytest.fixture(scope="module")
def stored():
    with np.load(Path(__file__).parent / "fixtures" / "samplers.npz") as file:
        return dict(file)


class Replay:
    """The stored noise, in order."""

    def __init__(self, draws):
        self.draws, self.position = draws, 0

    def seek(self, position):
        self.position = position

    def __call__(self, sigma, sigma_next):
        self.position += 1
        return self.draws[self.position - 1]


def clean(x, sigma):
    """The fixture's model."""
    inner = x * np.float32(0.81 / (0.81 + sigma * sigma))
    return np.float32(0.9) * np.tanh(inner) + np.float32(0.1) * np.sin(x / np.float32(1 + sigma))


def denoise(x, sigma):
    return Estimate(clean(x, sigma))


def run(name, x, sigmas, draws, model=denoise):
    noise = Replay(draws)
    steps = list(find_sampler(name).run(model, x, sigmas, noise))
    return np.stack([step.x for step in steps]), noise.position


@pytest.mark.parametrize("schedule", ["karras", "uniform"])
@pytest.mark.parametrize("name", ["Euler", "Euler a", "Heun", "DPM++ 2M", "DPM++ 2M SDE"])
def test_trajectories_of_k_diffusion(stored, name, schedule):
    sigmas = stored[f"sigmas_{schedule}"]
    x = initial_latents(find_sampler(name), stored["start"], sigmas)
    path, draws = run(name, x, sigmas, stored["noise"])
    expected = stored[f"x_{name}_{schedule}"]
    assert path.dtype == np.float32
    # Points lie up to sigma 14; float32 rounding of those magnitudes is 1e-6 of them.
    assert np.abs(path - expected).max() <= 2e-5
    assert np.abs(path[-1] - expected[-1]).max() <= 5e-6
    assert draws == stored.get(f"draws_{name}_{schedule}", 0)


def test_trajectory_of_diffusers_ddim(stored):
    sigmas = stored["sigmas_DDIM"]
    x = initial_latents(find_sampler("DDIM"), stored["start"], sigmas)
    path, draws = run("DDIM", x, sigmas, stored["noise"])
    assert np.abs(path - stored["x_DDIM"]).max() <= 3e-5
    assert draws == 0


def test_trajectory_of_diffusers_lcm(stored):
    sigmas = stored["sigmas_LCM"]
    seen = []

    def predict(x, timestep, cond):
        sigma = float(LEVELS.sigmas[round(float(timestep[0]))])
        seen.append(float(timestep[0]))
        wide = x * np.float32(np.hypot(sigma, 1.0))
        return (wide - clean(wide, sigma)) / np.float32(sigma)

    told = StepConds(((Cond(np.zeros((1, 2, 3), np.float32)), 1.0),))
    model = denoiser(predict, LEVELS, "epsilon", lambda _: told, 1.0, consistency=True)
    x = stored["start"] * np.float32(np.hypot(sigmas[0], 1.0))
    path, draws = run("LCM", x, sigmas, stored["noise"], model)
    assert seen == list(stored["timesteps_LCM"])
    assert np.abs(path - stored["x_LCM"]).max() <= 3e-5
    assert draws == len(sigmas) - 2


def test_brownian_noise_of_k_diffusion(stored):
    sigmas = stored["sigmas_karras"]
    seeds = [int(seed) for seed in stored["brownian_seeds"]]
    noise = BrownianNoise("cpu", seeds, (4, 4, 4), sigmas)
    noise.seek(1)
    drawn = np.stack([noise(float(a), float(b)) for a, b in pairwise(sigmas[:-1])])
    assert drawn.dtype == np.float32
    # torchsde sums float32 increments of a path of size 4 and divides by as little as 0.2.
    assert np.abs(drawn - stored["brownian"]).max() <= 2e-5


def test_levels(stored):
    assert LEVELS.sigmas.dtype == np.float32
    assert np.allclose(LEVELS.sigmas, stored["levels"], rtol=2e-5, atol=0)
    assert (round(LEVELS.sigma_min, 4), round(LEVELS.sigma_max, 4)) == (0.0292, 14.6146)
    times = [LEVELS.sigma_to_timestep(float(sigma)) for sigma in stored["probe_sigmas"]]
    assert np.abs(times - stored["probe_timesteps"]).max() <= 2e-3


@pytest.mark.parametrize("n", [1, 2, 7, 20, 50])
@pytest.mark.parametrize(
    "name", ["uniform", "normal", "karras", "exponential", "sgm_uniform", "simple"]
)
def test_schedules_of_k_diffusion(stored, name, n):
    made = find_schedule(name).make(LEVELS, n)
    assert made.dtype == np.float32
    assert made.shape == (n + 1,)
    assert np.allclose(made, stored[f"{name}_{n}"], rtol=2e-5, atol=0)


@pytest.mark.parametrize("n", [5, 20, 50])
def test_ddim_schedule_of_diffusers(stored, n):
    """A1111's timesteps are diffusers' "leading" ones with offset 1."""
    made = find_schedule("DDIM").make(LEVELS, n)
    assert np.allclose(made, stored[f"ddim_{n}"], rtol=1e-5, atol=0)
