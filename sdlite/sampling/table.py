"""The samplers there are, one row each: names, method, and what the method needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sdlite.sampling import dpmsolver, multistep, onestep, sde
from sdlite.sampling.levels import NoiseLevels
from sdlite.types import Sampler, Step

OPTIONS = ("eta", "s_churn", "s_tmin", "s_tmax", "s_noise")
"""What a sampler may let the user choose; A1111's names."""


@dataclass(frozen=True)
class SamplerInfo:
    """One sampler, its names and its needs."""

    name: str
    """A1111's name, or where A1111 has none its authors'."""
    aliases: tuple[str, ...]
    """Other spellings: A1111's ``k_`` names, diffusers' classes, ComfyUI, stable-diffusion.cpp."""
    run: Callable[..., Iterator[Step]]
    """The method: a ``Sampler`` that may take keywords too, which ``bind`` gives it."""
    default_schedule: str = "uniform"
    """Schedule that ``Automatic`` means for it."""
    stochastic: bool = False
    """It draws noise as long as ``eta`` is not 0."""
    brownian: bool = False
    """Its noise is read off a Brownian path, see ``noise_for``."""
    consistency: bool = False
    """It needs a consistency model's denoiser."""
    discard_penultimate: bool = False
    """The lowest level but 0 of one step more is left out of its schedule."""
    timesteps: bool = False
    """It is of A1111's samplers over timesteps: see ``initial_latents`` and ``final_latents``.

    Of its default schedule it leaves out the interval that ends in 0.
    """
    forecasts: bool = True
    """It visits the levels of the schedule in steps so small that an answer of the model may stand
    for the next ones, see ``sparing``."""
    guidance_factor: float = 1.0
    """What the guidance scale is multiplied by."""

    @property
    def options(self) -> tuple[str, ...]:
        """The ``OPTIONS`` it takes."""
        return tuple(name for name in OPTIONS if name in self._parameters)

    @property
    def eta(self) -> float | None:
        """What ``eta`` is when it is not given; None without ``eta``."""
        return self._parameters["eta"].default if "eta" in self._parameters else None

    @property
    def eta_label(self) -> str:
        """A1111's name for ``eta`` in the text it writes into pictures."""
        return "Eta DDIM" if self.timesteps and "DDIM" in self.name else "Eta"

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.run).parameters

    def bind(self, levels: NoiseLevels, options: Mapping[str, object] | None = None) -> Sampler:
        """The method with the model's levels and keywords by name; those it lacks are ignored."""
        given: dict[str, Any] = {"levels": levels, **(options or {})}
        return partial(self.run, **{k: v for k, v in given.items() if k in self._parameters})


SAMPLERS: tuple[SamplerInfo, ...] = (
    SamplerInfo(
        "DPM++ 2M",
        ("k_dpmpp_2m", "DPMSolverMultistep", "DPMSolverMultistepScheduler", "dpmsolver++"),
        multistep.dpmpp_2m,
        "karras",
    ),
    SamplerInfo(
        "DPM++ SDE",
        (
            "k_dpmpp_sde",
            "dpmpp_sde_gpu",
            "DPMSolverSDE",
            "DPMSolverSDEScheduler",
            "DPMSolverSinglestep",
            "DPMSolverSinglestepScheduler",
        ),
        sde.dpmpp_sde,
        "karras",
        stochastic=True,
        brownian=True,
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
        sde.dpmpp_2m_sde,
        "exponential",
        stochastic=True,
        brownian=True,
    ),
    SamplerInfo(
        "DPM++ 2M SDE Heun",
        ("k_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"),
        partial(sde.dpmpp_2m_sde, heun=True),
        "exponential",
        stochastic=True,
        brownian=True,
    ),
    SamplerInfo(
        "DPM++ 2S a",
        ("k_dpmpp_2s_a", "dpmpp_2s_ancestral", "k_dpmpp_2s_ancestral"),
        onestep.dpmpp_2s_ancestral,
        "karras",
        stochastic=True,
    ),
    SamplerInfo(
        "DPM++ 3M SDE",
        ("k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "dpm++3msde"),
        sde.dpmpp_3m_sde,
        "exponential",
        stochastic=True,
        brownian=True,
        discard_penultimate=True,
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
        onestep.euler_ancestral,
        stochastic=True,
    ),
    SamplerInfo(
        "Euler",
        ("k_euler", "EulerDiscrete", "EulerDiscreteScheduler"),
        onestep.euler,
    ),
    SamplerInfo(
        "LMS",
        ("k_lms", "LMSDiscrete", "LMSDiscreteScheduler"),
        multistep.lms,
    ),
    SamplerInfo(
        "Heun",
        ("k_heun", "HeunDiscrete", "HeunDiscreteScheduler"),
        onestep.heun,
    ),
    SamplerInfo(
        "DPM2",
        ("k_dpm_2", "KDPM2Discrete", "KDPM2DiscreteScheduler"),
        onestep.dpm2,
        "karras",
        discard_penultimate=True,
    ),
    SamplerInfo(
        "DPM2 a",
        (
            "k_dpm_2_a",
            "dpm_2_ancestral",
            "k_dpm_2_ancestral",
            "KDPM2AncestralDiscrete",
            "KDPM2AncestralDiscreteScheduler",
        ),
        onestep.dpm2_ancestral,
        "karras",
        stochastic=True,
        discard_penultimate=True,
    ),
    SamplerInfo(
        "DPM fast",
        ("k_dpm_fast",),
        dpmsolver.dpm_fast,
        stochastic=True,
        forecasts=False,
    ),
    SamplerInfo(
        "DPM adaptive",
        ("k_dpm_ad", "k_dpm_adaptive"),
        dpmsolver.dpm_adaptive,
        stochastic=True,
        forecasts=False,
    ),
    SamplerInfo("Restart", ("restart_sampler",), onestep.restart, "karras", stochastic=True),
    SamplerInfo(
        "DDIM",
        ("k_ddim", "DDIMScheduler"),
        onestep.ddim,
        "ddim",
        timesteps=True,
    ),
    SamplerInfo(
        "DDIM CFG++",
        ("ddim_cfgpp", "ddim_cfg_pp"),
        onestep.ddim_cfgpp,
        "ddim",
        timesteps=True,
        guidance_factor=1 / 12.5,
    ),
    SamplerInfo(
        "PLMS",
        ("k_plms", "PNDM", "PNDMScheduler"),
        multistep.plms,
        "ddim",
        timesteps=True,
    ),
    SamplerInfo(
        "UniPC",
        ("uni_pc", "k_unipc", "UniPCMultistep", "UniPCMultistepScheduler"),
        multistep.unipc,
        "time_uniform",
        timesteps=True,
    ),
    SamplerInfo(
        "UniPC bh2",
        ("uni_pc_bh2",),
        partial(multistep.unipc, second=True),
        "time_uniform",
        timesteps=True,
    ),
    SamplerInfo(
        "LCM",
        ("k_lcm", "LCMScheduler"),
        onestep.lcm,
        "lcm",
        stochastic=True,
        consistency=True,
        forecasts=False,
    ),
    SamplerInfo(
        "TCD", ("TCDScheduler",), onestep.tcd, "trailing", stochastic=True, forecasts=False
    ),
    SamplerInfo(
        "DDPM",
        ("k_ddpm", "DDPMScheduler"),
        onestep.euler_ancestral,
        "leading",
        stochastic=True,
    ),
    SamplerInfo(
        "DEIS",
        ("DEISMultistep", "DEISMultistepScheduler"),
        multistep.deis,
    ),
    # Its weights are those of even steps: Uniform's, least even at the ends, upset it.
    SamplerInfo("iPNDM", ("IPNDMScheduler",), multistep.ipndm, "karras"),
    SamplerInfo("ER-SDE", ("er_sde",), sde.er_sde, "sgm_uniform", stochastic=True),
    SamplerInfo("SA-Solver", ("SASolverScheduler",), sde.sa_solver, stochastic=True),
)
