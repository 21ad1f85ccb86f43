"""Metadata in the words of diffusers' pipelines, as several programs write them: JSON, or one PNG
chunk for each."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sdlite.carried.base import Carried, fields_of, model_name
from sdlite.errors import UnknownName
from sdlite.metadata import Parameters
from sdlite.sampling import resolve

ARGUMENTS = {
    "Steps": ("num_inference_steps", "steps", "inference_steps"),
    "CFG scale": ("guidance_scale", "cfg_scale", "cfg"),
    "Seed": ("seed",),
    "Size-1": ("width",),
    "Size-2": ("height",),
    "Denoising strength": ("strength", "prompt_strength"),
    "Clip skip": ("clip_skip",),
    "Model hash": ("model_hash",),
}
"""A1111's fields, and what the arguments are called, the usual name first."""
MODELS = ("model", "model_id", "use_stable_diffusion_model", "checkpoint", "base_model")
NEGATIVE = ("negative_prompt", "negativePrompt", "negative")
SCHEDULERS = ("scheduler", "sampler_name", "sampler", "scheduler_class")
NEEDED = ("num_inference_steps", "guidance_scale", "steps", "cfg_scale")
FOLLOWED = {
    *(name for names in ARGUMENTS.values() for name in names),
    *MODELS,
    *NEGATIVE,
    *SCHEDULERS,
    *("prompt", "num_images_per_prompt", "use_karras_sigmas", "generator", "version", "app"),
}
"""Arguments that are followed, or change nothing."""


def looks_like(values: Mapping[str, object]) -> bool:
    """Whether values are arguments of a pipeline: a prompt, a seed and how it was sampled."""
    return "prompt" in values and "seed" in values and any(name in values for name in NEEDED)


def read_arguments(values: Mapping[str, object]) -> Carried:
    """What the arguments say."""
    given = {name: _first(values, names) for name, names in ARGUMENTS.items()}
    sampler, schedule, problems = _scheduler(values)
    if sampler is not None:
        problems.append("diffusers' schedulers may space their steps in another way")
    skip = str(given["Clip skip"])
    # There 1 means what A1111 calls 2.
    given["Clip skip"] = int(skip) + 1 if re.fullmatch(r"[1-9]\d?", skip) else None
    others = sorted(name for name in values if name not in FOLLOWED and _said(values[name]))
    if others:
        problems.append(f"arguments that are not followed: {', '.join(others[:12])}")
    who = str(values.get("app") or "a program that uses diffusers")
    fields = fields_of(
        {
            **given,
            "Sampler": sampler,
            "Schedule type": schedule,
            "Model": model_name(_first(values, MODELS)),
            "RNG": "CPU",
            "Emphasis": "None",
            "Version": who,
        }
    )
    prompt, negative = str(values["prompt"] or ""), str(_first(values, NEGATIVE) or "")
    return Carried(who, Parameters(prompt, negative, fields), tuple(problems))


def _first(values: Mapping[str, object], names: tuple[str, ...]) -> object:
    return next((values[name] for name in names if name in values), None)


def _said(value: object) -> bool:
    return value not in (None, False, "", 0, [], {})


def _scheduler(values: Mapping[str, object]) -> tuple[str | None, str | None, list[str]]:
    """Sampler and schedule, and what cannot be followed."""
    value = _first(values, SCHEDULERS)
    if isinstance(value, dict):
        karras = value.get("use_karras_sigmas")
        value = value.get("_class_name") or value.get("class")
    else:
        karras = values.get("use_karras_sigmas")
    if not isinstance(value, str):
        return None, None, []
    name = value.rpartition(".")[2]
    try:
        info, _ = resolve(name, "Karras" if karras else None)
    except UnknownName:
        return name, "Karras" if karras else None, []
    single = name.endswith("Scheduler") and not karras
    return info.name, "Karras" if karras else "Uniform" if single else None, []
