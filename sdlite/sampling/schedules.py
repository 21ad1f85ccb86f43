"""Schedules: which noise levels a sampler visits. Each is an array of n+1 sigmas that ends in 0.

Names and labels are A1111's. Its ``Uniform`` walks the table of levels from last to first and its
``Normal`` converts sigma_max and sigma_min to timesteps and walks between those: the same array up
to rounding, so both are ``uniform`` here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdlite.errors import RequestError
from sdlite.sampling.levels import NoiseLevels
from sdlite.types import Array, Float32

KARRAS_RHO = 7.0
LCM_LEVELS = 50
"""Timesteps a latent consistency model was distilled at (Luo et al. 2023)."""


@dataclass(frozen=True)
class ScheduleInfo:
    """One schedule and its names."""

    name: str
    """A1111's name in its interface for programs, e.g. ``sgm_uniform``."""
    label: str
    """What A1111 shows and writes into pictures, e.g. ``SGM Uniform``."""
    aliases: tuple[str, ...]
    """Other spellings: A1111's suffixes, diffusers, ComfyUI, stable-diffusion.cpp."""
    make: Callable[[NoiseLevels, int], Float32]
    """``(levels, n) -> sigmas`` of shape (n+1,), float32, falling, ending in 0."""


def _finish(sigmas: Array) -> Float32:
    return np.append(sigmas, 0.0).astype(np.float32)


def _at_timesteps(levels: NoiseLevels, timesteps: Array) -> Float32:
    return _finish(np.array([levels.timestep_to_sigma(float(t)) for t in timesteps]))


def uniform(levels: NoiseLevels, n: int) -> Float32:
    """Evenly spaced timesteps from the last to the first (k-diffusion's ``get_sigmas``)."""
    return _at_timesteps(levels, np.linspace(levels.train_steps - 1, 0, n))


def karras(levels: NoiseLevels, n: int) -> Float32:
    """Even in sigma**(1/7) over the model's whole range: Karras et al. 2022, equation 5."""
    ends = np.array([levels.sigma_max, levels.sigma_min]) ** (1 / KARRAS_RHO)
    return _finish(np.linspace(ends[0], ends[1], n) ** KARRAS_RHO)


def exponential(levels: NoiseLevels, n: int) -> Float32:
    """Even in log sigma over the model's whole range."""
    return _finish(np.exp(np.linspace(np.log(levels.sigma_max), np.log(levels.sigma_min), n)))


def sgm_uniform(levels: NoiseLevels, n: int) -> Float32:
    """n+1 evenly spaced timesteps without the first, so that the last interval is no shorter."""
    return _at_timesteps(levels, np.linspace(levels.train_steps - 1, 0, n + 1)[:-1])


def simple(levels: NoiseLevels, n: int) -> Float32:
    """Every (T/n)th level, counted down from the last."""
    back = (np.arange(n) * (levels.train_steps / n)).astype(np.int64)
    return _finish(levels.sigmas[levels.train_steps - 1 - back])


def ddim(levels: NoiseLevels, n: int) -> Float32:
    """Timesteps 1, 1+s, 1+2s ... with s = T // n, as A1111's DDIM takes them.

    When n does not divide T that list is longer than n. One too many (30 steps): the n highest,
    which are those A1111 evaluates. More: n timesteps spread evenly from 1, which is A1111's rule
    without its rounding of s.
    """
    total = levels.train_steps
    stride = total // n
    timesteps = np.arange(0, total, stride) + 1
    if stride == 1 or len(timesteps) > n + 1:
        timesteps = np.arange(n) * total // n + (1 if n < total else 0)
    return _finish(levels.sigmas[np.minimum(timesteps, total - 1)][::-1][:n])


def lcm_timesteps(levels: NoiseLevels) -> Array:
    """The timesteps a latent consistency model was distilled at, rising, int64.

    Every (T/50)th, so that the last is T-1. A model trained with fewer timesteps has them all.
    """
    skip = max(levels.train_steps // LCM_LEVELS, 1)
    return np.arange(levels.train_steps - 1, -1, -skip)[:LCM_LEVELS][::-1]


def lcm(levels: NoiseLevels, n: int) -> Float32:
    """Even over the distillation timesteps, from the last to the first.

    A1111's ``Automatic`` for its LCM sampler: between two of those timesteps log sigma is linear.
    """
    known = lcm_timesteps(levels)
    logs = np.log(levels.sigmas[known].astype(np.float64))
    places = np.linspace(len(known) - 1, 0, n)
    return _finish(np.exp(np.interp(places, np.arange(len(known)), logs)))


SCHEDULES: tuple[ScheduleInfo, ...] = (
    ScheduleInfo("uniform", "Uniform", ("default",), uniform),
    ScheduleInfo("normal", "Normal", ("discrete", "linspace"), uniform),
    ScheduleInfo("karras", "Karras", ("ka", "use_karras_sigmas"), karras),
    ScheduleInfo("exponential", "Exponential", ("exp", "use_exponential_sigmas"), exponential),
    ScheduleInfo("sgm_uniform", "SGM Uniform", ("SGMUniform", "trailing"), sgm_uniform),
    ScheduleInfo("simple", "Simple", (), simple),
    ScheduleInfo("ddim", "DDIM", ("ddim_uniform", "leading"), ddim),
    ScheduleInfo("lcm", "LCM", (), lcm),
)


def check_steps(levels: NoiseLevels, steps: int) -> None:
    """Refuse step counts no schedule can serve; raises ``RequestError``."""
    if not 1 <= steps <= levels.train_steps:
        raise RequestError(
            f"steps {steps} is out of range: this model takes 1 to {levels.train_steps}"
        )
