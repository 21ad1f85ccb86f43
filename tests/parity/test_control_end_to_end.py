"""Whole pictures that follow pictures: our package against diffusers' pipelines, tiny and random.

As in ``test_family_end_to_end`` the two share weights, sigmas and the first noise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    MultiAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
)
from PIL import Image
from sdlite_export.adapters import add_adapter
from sdlite_export.configs import ControlNetConfig, T2IAdapterConfig
from sdlite_export.export import export_package

import sdlite
from sdlite.sampling import NoiseLevels, sigmas_for
from tests.families import FAMILIES
from tests.parity.injected import inject_schedule
from tests.tiny import UNET, Tiny, make_tiny_checkpoint, make_tiny_controlnet, make_tiny_t2i

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

LEAST_DB = 50.0
STEPS, SEED, SIDE = 8, 7, 64
PROMPT, NEGATIVE = "a red circle on blue", "square"
CASES = {
    # Family, settings of each control, further arguments of diffusers' call.
    "sd1": ("sd1", [{}], {}),
    "weight": ("sd1", [{"weight": 0.6}], {"controlnet_conditioning_scale": 0.6}),
    "start and end": (
        "sd1",
        [{"start": 0.2, "end": 0.7}],
        {"control_guidance_start": 0.2, "control_guidance_end": 0.7},
    ),
    "guess": ("sd1", [{"mode": "guess"}], {"guess_mode": True}),
    "two": (
        "sd1",
        [{"weight": 0.7}, {"weight": 0.5}],
        {"controlnet_conditioning_scale": [0.7, 0.5]},
    ),
    "pooled": ("sd1", [{}], {}),
    "sd2": ("sd2 v", [{}], {}),
    "sdxl": ("sdxl", [{"weight": 0.8}], {"controlnet_conditioning_scale": 0.8}),
}

ADAPTERS = {
    "full": ("sd1", T2IAdapterConfig("full", (8, 16), 2), [{}], {}),
    "light": ("sd1, three levels", T2IAdapterConfig("light", (8, 16, 16), 2), [{}], {}),
    "grey": ("sd1", T2IAdapterConfig("full", (8, 16), 1, in_channels=1), [{}], {}),
    "weight": (
        "sd1",
        T2IAdapterConfig("full", (8, 16), 2),
        [{"weight": 0.6}],
        {"adapter_conditioning_scale": 0.6},
    ),
    "two": (
        "sd1",
        T2IAdapterConfig("full", (8, 16), 2),
        [{"weight": 0.6}, {"weight": 0.8}],
        {"adapter_conditioning_scale": [0.6, 0.8]},
    ),
    "xl": (
        "sdxl",
        T2IAdapterConfig("xl", (8, 16, 16, 16), 2, 16),
        [{"end": 0.5}],
        {"adapter_conditioning_factor": 0.5},
    ),
}


def tiny(family):
    if family == "sd1, three levels":
        sides = {"down_attention": (True, True, False), "up_attention": (False, True, True)}
        numbers = {"heads": (2, 2, 2), "transformer_depth": (1, 1, 1)}
        return Tiny(unet=replace(UNET, block_channels=(8, 16, 16), **sides, **numbers))
    return Tiny() if family == "sd1" else FAMILIES[family]


def picture(seed):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def theirs(source, networks, more, pictures, sigmas, times, adapters=False):
    xl = (source / "text_encoder_2").is_dir()
    base = (StableDiffusionXLPipeline if xl else StableDiffusionPipeline).from_pretrained(
        source, torch_dtype=torch.float32
    )
    several = len(networks) > 1
    parts = dict(base.components) | ({} if xl else {"requires_safety_checker": False})
    if adapters:
        kind = StableDiffusionXLAdapterPipeline if xl else StableDiffusionAdapterPipeline
        if not xl:
            parts.pop("image_encoder", None)
        made = [T2IAdapter.from_pretrained(folder) for folder in networks]
        pipe = kind(**parts, adapter=MultiAdapter(made) if several else made[0])
        grey = made[0].config.in_channels == 1
        pictures = [picture.convert("L") if grey else picture for picture in pictures]
    else:
        kind = StableDiffusionXLControlNetPipeline if xl else StableDiffusionControlNetPipeline
        nets = [ControlNetModel.from_pretrained(folder) for folder in networks]
        pipe = kind(**parts, controlnet=nets if several else nets[0])
    pipe.set_progress_bar_config(disable=True)
    inject_schedule(pipe.scheduler, sigmas, times)
    return pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        image=pictures if several else pictures[0],
        num_inference_steps=len(times),
        guidance_scale=5.0,
        height=SIDE,
        width=SIDE,
        generator=torch.Generator("cpu").manual_seed(SEED),
        output_type="np",
        **more,
    ).images[0]


@pytest.mark.parametrize("case", CASES)
def test_the_picture_is_diffusers_picture(tmp_path, case):
    family, settings, more = CASES[case]
    config = ControlNetConfig(tiny(family).unet, (4, 4, 8, 8), pooled=case == "pooled")
    networks = [
        make_tiny_controlnet(tmp_path / f"net{number}", config, seed=30 + number)
        for number in range(len(settings))
    ]
    compare(tmp_path, case, family, networks, settings, more)


@pytest.mark.parametrize("case", ADAPTERS)
def test_with_a_t2i_adapter_it_is_too(tmp_path, case):
    family, config, settings, more = ADAPTERS[case]
    networks = [
        make_tiny_t2i(tmp_path / f"net{number}", config, seed=40 + number)
        for number in range(len(settings))
    ]
    compare(tmp_path, f"adapter, {case}", family, networks, settings, more, adapters=True)


def compare(tmp_path, case, family, networks, settings, more, adapters=False):
    source = make_tiny_checkpoint(tmp_path / "source", tiny(family))
    package = tmp_path / "package"
    export_package(source, package, precision="fp32")
    for folder in networks:
        add_adapter(folder, package, precision="fp32")
    pictures = [picture(number) for number in range(len(settings))]
    drawn = {"width": SIDE, "height": SIDE, "seed": SEED, "steps": STEPS, "guidance": 5.0}
    drawn |= {"negative_prompt": NEGATIVE, "sampler": "Euler", "schedule": "SGM Uniform"}
    with sdlite.load(package) as ours:
        levels = NoiseLevels.from_table(ours.package.manifest.noise)
        controls = [
            replace(sdlite.Control(f"net{number}", pictures[number]), **setting)
            for number, setting in enumerate(settings)
        ]
        result = ours.generate(PROMPT, controls=controls, **drawn)
        without = ours.generate(PROMPT, **drawn)
    sigmas = sigmas_for("SGM Uniform", levels, STEPS, "Euler")
    times = np.array([levels.sigma_to_timestep(float(s)) for s in sigmas[:-1]], np.float32)
    reference = theirs(source, networks, more, pictures, sigmas, times, adapters) * 255
    reference = reference.round()
    assert reference.std() > 5, "nothing was drawn, so nothing was compared"
    changed = psnr(np.asarray(without.images[0], np.float64), reference)
    decibels = psnr(np.asarray(result.images[0], np.float64), reference)
    print(f"{case}: {decibels:.1f} dB, without the control {changed:.1f} dB")
    assert changed < LEAST_DB - 10, "the control changed nothing, so nothing was compared"
    assert decibels >= LEAST_DB


def psnr(ours, reference):
    return 10 * np.log10(255.0**2 / max(float(np.mean((reference - ours) ** 2)), 1e-20))
