from __future__ import annotations

import pytest

from sdlite.errors import UnknownName
from sdlite.sampling import SAMPLERS, SCHEDULES, find_sampler, find_schedule, resolve
from sdlite.sampling import names as module


@pytest.mark.parametrize(
    ("spelling", "sampler", "schedule"),
    [
        # A1111, its aliases and its old joined names
        ("DPM++ 2M", "DPM++ 2M", "karras"),
        ("k_dpmpp_2m", "DPM++ 2M", "karras"),
        ("k_dpmpp_2m_ka", "DPM++ 2M", "karras"),
        ("DPM++ 2M Karras", "DPM++ 2M", "karras"),
        ("DPM++ 2M SDE", "DPM++ 2M SDE", "exponential"),
        ("DPM++ 2M SDE Karras", "DPM++ 2M SDE", "karras"),
        ("DPM++ 2M SDE Exponential", "DPM++ 2M SDE", "exponential"),
        ("k_dpmpp_2m_sde", "DPM++ 2M SDE", "exponential"),
        ("k_dpmpp_2m_sde_ka", "DPM++ 2M SDE", "karras"),
        ("Euler a", "Euler a", "uniform"),
        ("k_euler_a", "Euler a", "uniform"),
        ("k_euler_ancestral", "Euler a", "uniform"),
        ("Euler", "Euler", "uniform"),
        ("k_euler", "Euler", "uniform"),
        ("Heun", "Heun", "uniform"),
        ("k_heun", "Heun", "uniform"),
        ("DDIM", "DDIM", "ddim"),
        ("LCM", "LCM", "lcm"),
        ("k_lcm", "LCM", "lcm"),
        # diffusers
        ("DPMSolverMultistep", "DPM++ 2M", "karras"),
        ("DPMSolverMultistepScheduler", "DPM++ 2M", "karras"),
        ("sde-dpmsolver++", "DPM++ 2M SDE", "exponential"),
        ("EulerDiscreteScheduler", "Euler", "uniform"),
        ("EulerAncestralDiscreteScheduler", "Euler a", "uniform"),
        ("HeunDiscreteScheduler", "Heun", "uniform"),
        ("DDIMScheduler", "DDIM", "ddim"),
        ("LCMScheduler", "LCM", "lcm"),
        # ComfyUI
        ("euler_ancestral", "Euler a", "uniform"),
        ("dpmpp_2m", "DPM++ 2M", "karras"),
        ("dpmpp_2m_sde", "DPM++ 2M SDE", "exponential"),
        ("dpmpp_2m_sde_gpu", "DPM++ 2M SDE", "exponential"),
        # stable-diffusion.cpp, OnnxStream
        ("euler_a", "Euler a", "uniform"),
        ("dpm++2m", "DPM++ 2M", "karras"),
        ("dpm++2m karras", "DPM++ 2M", "karras"),
        ("ddim_trailing", "DDIM", "trailing"),
        # the samplers beyond the first seven
        ("k_lms", "LMS", "uniform"),
        ("k_lms_ka", "LMS", "karras"),
        ("LMS Karras", "LMS", "karras"),
        ("LMSDiscreteScheduler", "LMS", "uniform"),
        ("k_dpm_2", "DPM2", "karras"),
        ("dpm_2", "DPM2", "karras"),
        ("dpm2", "DPM2", "karras"),
        ("DPM2 Karras", "DPM2", "karras"),
        ("KDPM2DiscreteScheduler", "DPM2", "karras"),
        ("k_dpm_2_a", "DPM2 a", "karras"),
        ("k_dpm_2_a_ka", "DPM2 a", "karras"),
        ("dpm_2_ancestral", "DPM2 a", "karras"),
        ("KDPM2AncestralDiscreteScheduler", "DPM2 a", "karras"),
        ("DPM2 a Karras", "DPM2 a", "karras"),
        ("k_dpmpp_2s_a", "DPM++ 2S a", "karras"),
        ("DPM++ 2S a Karras", "DPM++ 2S a", "karras"),
        ("dpmpp_2s_ancestral", "DPM++ 2S a", "karras"),
        ("dpm++2s_a", "DPM++ 2S a", "karras"),
        ("k_dpmpp_sde", "DPM++ SDE", "karras"),
        ("DPM++ SDE Karras", "DPM++ SDE", "karras"),
        ("dpmpp_sde_gpu", "DPM++ SDE", "karras"),
        ("DPMSolverSinglestepScheduler", "DPM++ SDE", "karras"),
        ("DPMSolverSDEScheduler", "DPM++ SDE", "karras"),
        ("DPM++ 2M SDE Heun", "DPM++ 2M SDE Heun", "exponential"),
        ("k_dpmpp_2m_sde_heun", "DPM++ 2M SDE Heun", "exponential"),
        ("DPM++ 2M SDE Heun Karras", "DPM++ 2M SDE Heun", "karras"),
        ("k_dpmpp_2m_sde_heun_exp", "DPM++ 2M SDE Heun", "exponential"),
        ("DPM++ 3M SDE", "DPM++ 3M SDE", "exponential"),
        ("k_dpmpp_3m_sde_ka", "DPM++ 3M SDE", "karras"),
        ("DPM++ 3M SDE Exponential", "DPM++ 3M SDE", "exponential"),
        ("dpmpp_3m_sde_gpu", "DPM++ 3M SDE", "exponential"),
        ("dpm++3msde", "DPM++ 3M SDE", "exponential"),
        ("k_dpm_fast", "DPM fast", "uniform"),
        ("dpm_fast", "DPM fast", "uniform"),
        ("k_dpm_ad", "DPM adaptive", "uniform"),
        ("dpm_adaptive", "DPM adaptive", "uniform"),
        ("restart", "Restart", "karras"),
        ("DDIM CFG++", "DDIM CFG++", "ddim"),
        ("ddim_cfgpp", "DDIM CFG++", "ddim"),
        ("plms", "PLMS", "ddim"),
        ("PNDMScheduler", "PLMS", "ddim"),
        ("unipc", "UniPC", "time_uniform"),
        ("uni_pc", "UniPC", "time_uniform"),
        ("uni_pc_bh2", "UniPC bh2", "time_uniform"),
        ("UniPCMultistepScheduler", "UniPC", "time_uniform"),
        ("DDPMScheduler", "DDPM", "leading"),
        ("DEISMultistepScheduler", "DEIS", "uniform"),
        ("ipndm", "iPNDM", "karras"),
        ("IPNDMScheduler", "iPNDM", "karras"),
        ("er_sde", "ER-SDE", "sgm_uniform"),
        ("sa_solver", "SA-Solver", "uniform"),
        ("SASolverScheduler", "SA-Solver", "uniform"),
        ("tcd", "TCD", "trailing"),
        ("TCDScheduler", "TCD", "trailing"),
        ("Euler Align Your Steps", "Euler", "align_your_steps"),
        ("dpmpp_2m kl_optimal", "DPM++ 2M", "kl_optimal"),
        # other joined names, case and spaces
        ("Euler SGM Uniform", "Euler", "sgm_uniform"),
        ("euler_sgm_uniform", "Euler", "sgm_uniform"),
        ("Euler a Normal", "Euler a", "normal"),
        ("  dpm++ 2m   KARRAS ", "DPM++ 2M", "karras"),
    ],
)
def test_every_spelling(spelling, sampler, schedule):
    info, plan = resolve(spelling, None)
    assert (info.name, plan.name) == (sampler, schedule)
    assert find_sampler(spelling) is info
    assert resolve(spelling, "automatic") == (info, plan)
    assert resolve(spelling, "Automatic") == (info, plan)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Karras", "karras"),
        ("use_karras_sigmas", "karras"),
        ("Exponential", "exponential"),
        ("SGM Uniform", "sgm_uniform"),
        ("SGMUniform", "sgm_uniform"),
        ("trailing", "trailing"),
        ("Simple", "simple"),
        ("normal", "normal"),
        ("discrete", "normal"),
        ("Uniform", "uniform"),
        ("ddim_uniform", "ddim"),
        ("leading", "leading"),
        ("linspace", "normal"),
        ("polyexponential", "polyexponential"),
        ("KL Optimal", "kl_optimal"),
        ("kl_optimal", "kl_optimal"),
        ("Align Your Steps", "align_your_steps"),
        ("ays", "align_your_steps"),
        ("Beta", "beta"),
        ("use_beta_sigmas", "beta"),
        ("lcm", "lcm"),
    ],
)
def test_schedule_spellings(spelling, name):
    assert find_schedule(spelling).name == name


def test_a_schedule_that_is_given_wins_over_the_joined_name():
    assert resolve("DPM++ 2M Karras", "Simple")[1].name == "simple"


@pytest.mark.parametrize(
    ("name", "near"), [("eulr a", "Euler a"), ("DPM++ 2N", "DPM++ 2M"), ("dpmpp_2m_sd", "DPM++ 2M")]
)
def test_unknown_sampler_offers_the_nearest(name, near):
    with pytest.raises(UnknownName, match="Did you mean") as caught:
        resolve(name, None)
    assert near in str(caught.value).split("Known:")[0]
    assert name in str(caught.value)


def test_unknown_names_do_not_slip_through_as_joined_ones():
    for name in ("", "Karras", "DPM++ 2M Karas", "dpm++2mv2", "Euler b"):
        with pytest.raises(UnknownName):
            find_sampler(name)


def test_no_spelling_means_two_things():
    for infos, texts in (
        (SAMPLERS, lambda info: (info.name, *info.aliases)),
        (SCHEDULES, lambda info: (info.name, info.label, *info.aliases)),
    ):
        owners = {}
        for info in infos:
            for text in texts(info):
                assert owners.setdefault(module._key(text), info) is info
    assert {info.default_schedule for info in SAMPLERS} <= {info.name for info in SCHEDULES}
