"""Samplers and schedules by name, in every spelling people's other tools use.

Spellings are compared without case, spaces, dashes and underscores, and ``++`` counts as ``pp``.
A joined name such as A1111's old ``DPM++ 2M Karras`` or ``k_dpmpp_2m_ka`` names a schedule too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdlite.errors import UnknownName
from sdlite.sampling import multistep, samplers
from sdlite.sampling.brownian import BrownianNoise
from sdlite.sampling.levels import NoiseLevels
from sdlite.sampling.rng import batch_noise
from sdlite.sampling.schedules import SCHEDULES, ScheduleInfo, check_steps
from sdlite.types import Float32, Noise, Sampler

AUTOMATIC = "Automatic"


@dataclass(frozen=True)
class SamplerInfo:
    """One sampler, its names and its needs."""

    name: str
    """A1111's name."""
    aliases: tuple[str, ...]
    """Other spellings: A1111's ``k_`` names, diffusers' classes, ComfyUI, stable-diffusion.cpp."""
    run: Sampler
    """The method."""
    default_schedule: str
    """Schedule that ``Automatic`` means for it."""
    evaluations: int = 1
    """Calls of ``denoise`` an interval (the last interval may need fewer)."""
    stochastic: bool = False
    """It draws noise in every interval but the last."""
    consistency: bool = False
    """It needs a consistency model's denoiser."""
    brownian: bool = False
    """Its noise is read off a Brownian path, see ``noise_for``."""
    unit_start: bool = False
    """Its first latents have unit variance in the model's own scale, see ``initial_latents``."""


SAMPLERS: tuple[SamplerInfo, ...] = (
    SamplerInfo(
        "DPM++ 2M",
        ("k_dpmpp_2m", "DPMSolverMultistep", "DPMSolverMultistepScheduler", "dpmsolver++"),
        multistep.dpmpp_2m,
        "karras",
    ),
    SamplerInfo(
        "DPM++ 2M SDE",
        (
            "k_dpmpp_2m_sde",
            "dpmpp_2m_sde_gpu",
            "sde-dpmsolver++",
            "DPMSolverMultistepSDE",
            "DPMSolverMultistepScheduler SDE",
        ),
        multistep.dpmpp_2m_sde,
        "exponential",
        stochastic=True,
        brownian=True,
    ),
    SamplerInfo(
        "Euler a",
        (
            "k_euler_a",
            "k_euler_ancestral",
            "euler_ancestral",
            "EulerAncestralDiscrete",
            "EulerAncestralDiscreteScheduler",
        ),
        samplers.euler_ancestral,
        "uniform",
        stochastic=True,
    ),
    SamplerInfo(
        "Euler",
        ("k_euler", "EulerDiscrete", "EulerDiscreteScheduler"),
        samplers.euler,
        "uniform",
    ),
    SamplerInfo(
        "Heun",
        ("k_heun", "HeunDiscrete", "HeunDiscreteScheduler"),
        samplers.heun,
        "uniform",
        evaluations=2,
    ),
    SamplerInfo(
        "DDIM",
        ("k_ddim", "DDIMScheduler"),
        samplers.ddim,
        "ddim",
        unit_start=True,
    ),
    SamplerInfo(
        "LCM",
        ("k_lcm", "LCMScheduler"),
        samplers.lcm,
        "lcm",
        stochastic=True,
        consistency=True,
    ),
)


def _key(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", name.casefold()).replace("++", "pp")


_SAMPLER_KEYS = {_key(text): info for info in SAMPLERS for text in (info.name, *info.aliases)}
_SCHEDULE_KEYS = {
    _key(text): info for info in SCHEDULES for text in (info.name, info.label, *info.aliases)
}


def split_name(name: str) -> tuple[SamplerInfo, ScheduleInfo | None]:
    """Sampler, and schedule if the name holds one: ``DPM++ 2M Karras``; raises ``UnknownName``."""
    key = _key(name)
    if key in _SAMPLER_KEYS:
        return _SAMPLER_KEYS[key], None
    for ending, schedule in _SCHEDULE_KEYS.items():
        if key.endswith(ending) and key.removesuffix(ending) in _SAMPLER_KEYS:
            return _SAMPLER_KEYS[key.removesuffix(ending)], schedule
    raise UnknownName("sampler", name, [info.name for info in SAMPLERS])


def find_sampler(name: str) -> SamplerInfo:
    """Sampler of a name in any usual spelling, joined or not; raises ``UnknownName``."""
    return split_name(name)[0]


def find_schedule(name: str) -> ScheduleInfo:
    """Schedule of a name in any usual spelling; raises ``UnknownName``.

    ``Automatic`` depends on the sampler: see ``resolve``.
    """
    key = _key(name)
    if key not in _SCHEDULE_KEYS:
        labels = [info.label for info in SCHEDULES]
        raise UnknownName("schedule", name, [AUTOMATIC, *labels])
    return _SCHEDULE_KEYS[key]


def resolve(sampler: str, schedule: str | None = None) -> tuple[SamplerInfo, ScheduleInfo]:
    """Sampler and schedule of a request.

    Args:
        sampler: any usual spelling, joined or not.
        schedule: any usual spelling; None or ``Automatic`` takes the schedule the sampler's name
            holds, else the sampler's default. A schedule given here wins over the joined name.

    Raises:
        UnknownName: either is not known; offers the nearest name.
    """
    info, joined = split_name(sampler)
    if schedule is not None and _key(schedule) not in ("", _key(AUTOMATIC), "auto"):
        return info, find_schedule(schedule)
    return info, joined or find_schedule(info.default_schedule)


def sigmas_for(
    schedule: ScheduleInfo | str | None,
    levels: NoiseLevels,
    steps: int,
    sampler: SamplerInfo | str,
) -> Float32:
    """The array of sigmas a run visits: float32, ``steps`` + 1 long, falling, ending in 0.

    Raises ``UnknownName`` for a name and ``RequestError`` for a number of steps out of range.
    """
    check_steps(levels, steps)
    if not isinstance(schedule, ScheduleInfo):
        name = sampler.name if isinstance(sampler, SamplerInfo) else sampler
        schedule = resolve(name, schedule)[1]
    return schedule.make(levels, steps)


def initial_latents(sampler: SamplerInfo, noise: Float32, sigmas: Float32) -> Float32:
    """Latents a run from pure noise starts with; ``noise`` has unit variance.

    k-diffusion's samplers start at ``noise * sigma``. A1111's DDIM starts with the noise in the
    model's own scale, which is ``noise * sqrt(sigma**2 + 1)`` in this one.
    """
    sigma = float(sigmas[0])
    return noise * (float(np.hypot(sigma, 1.0)) if sampler.unit_start else sigma)


def noise_for(
    sampler: SamplerInfo,
    rng: str,
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    sigmas: Float32,
) -> Noise:
    """Noise of a run as A1111 draws it for this sampler.

    The first draw is the initial latents, from each image's generator. Later draws go on with that
    generator, or for samplers that ask for it (DPM++ 2M SDE) read a Brownian path over ``sigmas``.
    Arguments and errors are those of ``batch_noise``.
    """
    if sampler.brownian:
        return BrownianNoise(rng, seeds, shape, sigmas)
    return batch_noise(rng, seeds, shape)
