"""Samplers and schedules against k-diffusion and diffusers.

Stored by tests/parity/make_sampler_fixtures.py and make_er_sde_fixture.py.
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
from sdlite.sampling.beta import beta_quantile, incomplete_beta
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


def run(name, x, sigmas, draws, model=denoise, **options):
    noise = Replay(draws)
    steps = list(find_sampler(name).bind(LEVELS, options)(model, x, sigmas, noise))
    return np.stack([step.x for step in steps]), noise.position


@pytest.mark.parametrize("schedule", ["karras", "uniform"])
@pytest.mark.parametrize(
    "name",
    [
        "Euler",
        "Euler a",
        "Heun",
        "LMS",
        "DPM2",
        "DPM2 a",
        "DPM++ 2S a",
        "DPM++ 2M",
        "DPM++ SDE",
        "DPM++ 2M SDE",
        "DPM++ 2M SDE Heun",
        "DPM++ 3M SDE",
    ],
)
def test_trajectories_of_k_diffusion(stored, name, schedule):
    sigmas = stored[f"sigmas_{schedule}"]
    x = initial_latents(find_sampler(name), stored["start"], sigmas)
    path, draws = run(name, x, sigmas, stored["noise"])
    expected = stored[f"x_{name}_{schedule}"]
    assert path.dtype == np.float32
    # Points lie up to sigma 14; float32 rounding of those magnitudes is 1e-6 of them.
    assert np.abs(path - expected).max() <= 2e-5
    assert np.abs(path[-1] - expected[-1]).max() <= 1e-5
    assert draws == stored.get(f"draws_{name}_{schedule}", 0)


CHURN = {"s_churn": 6.0, "s_tmin": 0.1, "s_tmax": 8.0, "s_noise": 1.1}
FRESH = {"eta": 0.4, "s_noise": 1.1}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Euler", CHURN),
        ("Heun", CHURN),
        ("DPM2", CHURN),
        ("Euler a", FRESH),
        ("DPM2 a", FRESH),
        ("DPM++ 2S a", FRESH),
        ("DPM++ SDE", FRESH),
        ("DPM++ 2M SDE", FRESH),
        ("DPM++ 3M SDE", FRESH),
    ],
)
def test_options_mean_what_they_mean_in_k_diffusion(stored, name, options):
    sigmas = stored["sigmas_karras"]
    path, draws = run(name, stored["start"] * sigmas[0], sigmas, stored["noise"], **options)
    assert np.abs(path[-1] - stored[f"x_{name}_options"]).max() <= 5e-6
    assert draws >= 7


@pytest.mark.parametrize("eta", [0, 1])
@pytest.mark.parametrize("n", [2, 3, 4, 8, 9])
def test_dpm_fast_of_k_diffusion(stored, n, eta):
    ends = stored["sigmas_karras"][[0, -2]]
    sigmas = np.append(np.linspace(*ends, n), 0.0).astype(np.float32)
    path, _ = run("DPM fast", stored["start"] * ends[0], sigmas, stored["noise"], eta=eta)
    assert path.dtype == np.float32
    assert len(path) == n // 3 + 1
    assert np.abs(path[-1] - stored[f"x_DPM fast_{n}_{eta}"]).max() <= 2e-5


@pytest.mark.parametrize("eta", [0, 1])
def test_dpm_adaptive_of_k_diffusion(stored, eta):
    calls = 0

    def counted(x, sigma):
        nonlocal calls
        calls += 1
        return denoise(x, sigma)

    sigmas = stored["sigmas_karras"][3:]
    draws = np.concatenate([stored["noise"]] * 8)
    x = stored["start"] * sigmas[0]
    path, _ = run("DPM adaptive", x, sigmas, draws, counted, eta=eta)
    accepted, evaluations = stored[f"counts_DPM adaptive_{eta}"]
    assert len(path) == accepted
    # k-diffusion makes the first of three evaluations again after it rejected a step.
    rejected = evaluations // 3 - accepted
    assert calls == evaluations - rejected
    assert np.abs(path[-1] - stored[f"x_DPM adaptive_{eta}"]).max() <= 2e-5


@pytest.mark.parametrize("n", [24, 40])
def test_restart_of_k_diffusions_parts(stored, n):
    sigmas = find_schedule("Karras").make(LEVELS, n)
    path, draws = run("Restart", stored["start"] * sigmas[0], sigmas, stored["noise"])
    assert len(path) == n
    assert draws == (1 if n == 24 else 2)
    assert np.abs(path[-1] - stored[f"x_Restart_{n}"]).max() <= 1e-5


@pytest.mark.parametrize(
    ("name", "key", "options"),
    [
        ("DDIM", "DDIM", {}),
        ("DDIM", "DDIM eta", {"eta": 0.6}),
        ("DDPM", "DDPM", {}),
        ("PLMS", "PLMS", {}),
        ("TCD", "TCD", {}),
    ],
)
def test_trajectories_of_diffusers(stored, name, key, options):
    sigmas = stored[f"sigmas_{key}"]
    x = stored["start"] * np.float32(np.hypot(sigmas[0], 1.0))
    path, draws = run(name, x, sigmas, stored["noise"], **options)
    expected = stored[f"x_{key}"]
    assert path.shape == expected.shape
    assert np.abs(path - expected).max() <= 5e-5
    quiet = name == "PLMS" or key == "DDIM"
    # TCD's last level is that of timestep 0 to a few digits only: it adds noise of 1e-4 there.
    assert draws == (0 if quiet else len(sigmas) - (1 if name == "TCD" else 2))


@pytest.mark.parametrize(
    ("name", "key", "options"),
    [
        ("UniPC", "UniPC_low", {}),
        ("UniPC bh2", "UniPC bh2_low", {"order": 2}),
        ("UniPC bh2", "UniPC bh2_zero", {"order": 2}),
        ("DEIS", "DEIS_low", {}),
        ("iPNDM", "iPNDM", {}),
    ],
)
def test_multistep_trajectories_of_diffusers(stored, name, key, options):
    sigmas = stored["sigmas_karras"]
    if key.endswith("low"):
        sigmas = sigmas[:-1]
    path, _ = run(name, stored["start"] * sigmas[0], sigmas, [], **options)
    expected = stored[f"x_{key}"]
    assert path.shape == expected.shape
    assert np.abs(path - expected).max() <= 1e-4
    assert np.abs(path[-1] - expected[-1]).max() <= 1e-5


def test_trajectory_of_diffusers_sa_solver(stored):
    """Diffusers draws in every interval and uses the noise in some; ours draws only those."""
    sigmas = stored["sigmas_karras"][:-1]
    inside = [200 <= LEVELS.sigma_to_timestep(float(sigma)) <= 800 for sigma in sigmas[:-1]]
    draws = stored["noise"][: len(inside)][inside]
    path, used = run("SA-Solver", stored["start"] * sigmas[0], sigmas, draws)
    assert used == sum(inside) > 1
    assert np.abs(path - stored["x_SA-Solver_low"]).max() <= 1e-4


@pytest.mark.parametrize(("schedule", "rule"), [("karras", 1e-3), ("uniform", 3e-3)])
def test_trajectories_of_er_sde(stored, schedule, rule):
    """Its equation solved by quadrature, and its authors' program, whose sums are coarser."""
    with np.load(Path(__file__).parent / "fixtures" / "er_sde.npz") as file:
        exact, authors = file[f"exact_{schedule}"], file[f"authors_{schedule}"]
    sigmas = stored[f"sigmas_{schedule}"]
    path, draws = run("ER-SDE", stored["start"] * sigmas[0], sigmas, stored["noise"])
    assert draws == len(sigmas) - 2
    assert np.abs(path - exact).max() <= 2e-5
    assert np.abs(path[-1] - authors).max() <= rule


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
    ends = float(sigmas[-2]), float(sigmas[0])
    noise = BrownianNoise("cpu", seeds, (4, 4, 4), *ends)
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


@pytest.mark.parametrize("n", [1, 2, 7, 20, 50])
@pytest.mark.parametrize("name", ["leading", "trailing"])
def test_spacings_of_diffusers(stored, name, n):
    made = find_schedule(name).make(LEVELS, n)
    assert made.shape == (n + 1,)
    assert np.allclose(made, stored[f"{name}_{n}"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("n", [1, 2, 7, 20, 50])
def test_beta_schedule_of_scipy(stored, n):
    assert np.allclose(find_schedule("beta").make(LEVELS, n), stored[f"beta_{n}"], rtol=1e-6)


def test_beta_quantiles_of_scipy(stored):
    for shape, expected in zip(stored["beta_shapes"], stored["beta_x"], strict=True):
        found = [beta_quantile(float(p), *shape.tolist()) for p in stored["beta_p"]]
        assert np.allclose(found, expected, rtol=1e-9, atol=0)
        back = [incomplete_beta(x, *shape.tolist()) for x in found]
        assert np.allclose(back, stored["beta_p"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("n", [5, 20, 50])
def test_ddim_schedule_of_diffusers(stored, n):
    """A1111's timesteps are diffusers' "leading" ones with offset 1."""
    made = find_schedule("DDIM").make(LEVELS, n)
    assert np.allclose(made, stored[f"ddim_{n}"], rtol=1e-5, atol=0)
