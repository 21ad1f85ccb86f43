"""Samplers and schedules by name, in every spelling people's other tools use.

Spellings are compared without case, spaces, dashes and underscores, and ``++`` counts as ``pp``.
A joined name such as A1111's old ``DPM++ 2M Karras`` or ``k_dpmpp_2m_ka`` names a schedule too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from sdlite.errors import UnknownName
from sdlite.sampling.brownian import BrownianNoise
from sdlite.sampling.levels import NoiseLevels
from sdlite.sampling.rng import batch_noise
from sdlite.sampling.schedules import SCHEDULES, ScheduleInfo, check_steps
from sdlite.sampling.table import SAMPLERS, SamplerInfo
from sdlite.sampling.variation import Variation
from sdlite.types import Float32, Noise

AUTOMATIC = "Automatic"


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
    *,
    sdxl: bool = False,
) -> Float32:
    """The levels a run visits: float32, falling.

    ``steps`` + 1 of them, the last of which is 0. A1111's samplers over timesteps on their own
    schedule end at its lowest level instead, whose noise stays in the result, and that schedule has
    more levels where ``steps`` does not divide the timesteps.

    Args:
        schedule: schedule, its name, or None for the sampler's.
        levels: of the model.
        steps: 1 to as many as there are timesteps.
        sampler: sampler or its name.
        sdxl: whether the model is of that family.

    Raises ``UnknownName`` for a name and ``RequestError`` for a number of steps out of range.
    """
    check_steps(levels, steps)
    info = sampler if isinstance(sampler, SamplerInfo) else find_sampler(sampler)
    if not isinstance(schedule, ScheduleInfo):
        schedule = resolve(info.name if isinstance(sampler, SamplerInfo) else sampler, schedule)[1]
    make = schedule.sdxl if sdxl and schedule.sdxl is not None else schedule.make
    if info.discard_penultimate and steps < levels.train_steps:
        return np.delete(make(levels, steps + 1), -2)
    sigmas = make(levels, steps)
    if info.timesteps and schedule.name == info.default_schedule and len(sigmas) > 2:
        return sigmas[:-1]
    return sigmas


def skipped_levels(sigmas: Float32, first: int, steps: int) -> int:
    """How many of a run's levels to leave out so that it begins at interval ``first`` of ``steps``.

    Counted from the low end, as A1111 counts timesteps, because its DDIM may have more levels than
    ``steps``; an interval is always left. A run from the first interval has them all.
    """
    above_0 = int(np.count_nonzero(sigmas))
    if first == 0:
        return 0
    return min(first + max(above_0 - steps, 0), len(sigmas) - 2)


def initial_latents(sampler: SamplerInfo, noise: Float32, sigmas: Float32) -> Float32:
    """Latents a run from pure noise starts with; ``noise`` has unit variance.

    k-diffusion's samplers start at ``noise * sigma``. A1111's samplers over timesteps start with
    the noise in the model's own scale, which is ``noise * sqrt(sigma**2 + 1)`` in this one.
    """
    sigma = float(sigmas[0])
    return noise * (float(np.hypot(sigma, 1.0)) if sampler.timesteps else sigma)


def final_latents(sampler: SamplerInfo, x: Float32, sigmas: Float32) -> Float32:
    """Latents a finished run hands over for decoding.

    A1111's samplers over timesteps hand them over in the model's own scale, which differs where
    they end above 0.
    """
    return x / float(np.hypot(sigmas[-1], 1.0)) if sampler.timesteps and sigmas[-1] > 0 else x


def noise_for(
    sampler: SamplerInfo,
    rng: str,
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    levels: NoiseLevels,
    variation: Variation | None = None,
    before: int = 0,
) -> Noise:
    """Noise of a run as A1111 draws it for this sampler.

    The first draw is the initial latents, from each image's generator. Later draws go on with that
    generator, or for samplers that ask for it read a Brownian path over the model's levels. A1111
    spans that path over the levels of the run: the same, to their last digit, where a schedule
    starts and ends at the model's, as Karras' and the exponential one do. Where the ends move with
    the number of steps its noise does too; here it never does. Arguments and errors are those of
    ``batch_noise``.
    """
    if sampler.brownian:
        ends = (levels.sigma_min, levels.sigma_max)
        return BrownianNoise(rng, seeds, shape, *ends, variation, before)
    return batch_noise(rng, seeds, shape, variation, before)
