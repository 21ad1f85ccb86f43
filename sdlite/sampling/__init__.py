"""Noise levels, schedules, samplers, guidance and random numbers: the maths between the graphs."""

from __future__ import annotations

from sdlite.sampling.brownian import BrownianNoise
from sdlite.sampling.denoiser import Predict, denoiser
from sdlite.sampling.levels import NoiseLevels
from sdlite.sampling.names import (
    final_latents,
    find_sampler,
    find_schedule,
    initial_latents,
    noise_for,
    resolve,
    sigmas_for,
    skipped_levels,
)
from sdlite.sampling.rng import BatchNoise, batch_noise
from sdlite.sampling.schedules import SCHEDULES, ScheduleInfo, custom
from sdlite.sampling.sparing import Sparing
from sdlite.sampling.table import OPTIONS, SAMPLERS, SamplerInfo
from sdlite.sampling.variation import Variation

__all__ = [
    "OPTIONS",
    "SAMPLERS",
    "SCHEDULES",
    "BatchNoise",
    "BrownianNoise",
    "NoiseLevels",
    "Predict",
    "SamplerInfo",
    "ScheduleInfo",
    "Sparing",
    "Variation",
    "batch_noise",
    "custom",
    "denoiser",
    "final_latents",
    "find_sampler",
    "find_schedule",
    "initial_latents",
    "noise_for",
    "resolve",
    "sigmas_for",
    "skipped_levels",
]
