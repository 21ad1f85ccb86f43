"""Noise levels, schedules, samplers, guidance and random numbers: the maths between the graphs."""

from __future__ import annotations

from sdlite.sampling.brownian import BrownianNoise
from sdlite.sampling.denoiser import Predict, denoiser
from sdlite.sampling.levels import NoiseLevels
from sdlite.sampling.names import (
    SAMPLERS,
    SamplerInfo,
    find_sampler,
    find_schedule,
    initial_latents,
    noise_for,
    resolve,
    sigmas_for,
)
from sdlite.sampling.rng import BatchNoise, batch_noise
from sdlite.sampling.schedules import SCHEDULES, ScheduleInfo

__all__ = [
    "SAMPLERS",
    "SCHEDULES",
    "BatchNoise",
    "BrownianNoise",
    "NoiseLevels",
    "Predict",
    "SamplerInfo",
    "ScheduleInfo",
    "batch_noise",
    "denoiser",
    "find_sampler",
    "find_schedule",
    "initial_latents",
    "noise_for",
    "resolve",
    "sigmas_for",
]
