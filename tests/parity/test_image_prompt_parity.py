"""Pictures as prompts: IP-Adapters against diffusers and transformers, tiny and random.

As in ``test_family_end_to_end`` whole pictures share weights, sigmas and the first noise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from sdlite_export.adapters import add_adapter
from sdlite_export.export import export_package
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

import sdlite
from sdlite import registry
from sdlite.chain import open_chain
from sdlite.engine import LoadOptions
from sdlite.image.clip import clip_pixels
from sdlite.package import Package
from sdlite.sampling import NoiseLevels, sigmas_for
from tests.families import FAMILIES
from tests.looking import ENCODER, FULL, PLAIN, PLUS, ip_adapter_tensors, make_encoder
from tests.looking import make_ip_adapter as make_file
from tests.parity.injected import inject_schedule
from tests.tiny import Tiny, make_tiny_checkpoint, make_tiny_controlnet

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

LEAST_DB = 50.0
STEPS, SEED, SIDE = 8, 7, 64
PROMPT, NEGATIVE = "a red circle on blue", "square"
XL_CROSSES = (16,) * (2 + 2 * 3 + 3 * 3 + 3 + 3)
"""Cross-attentions of the tiny SDXL: two levels down, two up, the middle."""
XL = {"cross_dim": 40, "crosses": XL_CROSSES}

CASES = {
    # Family, adapter, settings of each picture, scale for diffusers.
    "sd1 plain": ("sd1", PLAIN, [{}], 1.0),
    "sd1 plus": ("sd1", PLUS, [{"weight": 0.7}], 0.7),
    "sd1 full": ("sd1", FULL, [{"weight": 0.7}], 0.7),
    "strong": ("sd1", PLAIN, [{"weight": 2.0}], 2.0),
    "start and end": ("sd1", PLUS, [{"start": 0.25, "end": 0.75}], 1.0),
    "two pictures": ("sd1", PLAIN, [{"weight": 0.8}, {"weight": 0.8}], 0.8),
    "three pictures plus": ("sd1", PLUS, [{}, {}, {}], 1.0),
    "layers": (
        "sd1",
        PLAIN,
        [{"layers": (1.0, 0.5, 0.2, 0.8)}],
        {"down": {"block_0": [1.0]}, "mid": 0.5, "up": {"block_1": [0.2, 0.8]}},
    ),
    "with a ControlNet": ("sd1", PLAIN, [{"weight": 2.0}], 2.0),
    "without guidance": ("sd1", PLUS, [{"weight": 0.9}], 0.9),
    "instruct-pix2pix": ("edit", PLAIN, [{"weight": 0.6}], 0.6),
    "sd2 v": ("sd2 v", PLUS, [{}], 1.0),
    "sdxl plain": ("sdxl", replace(PLAIN, **XL), [{"weight": 0.6}], 0.6),
    "sdxl plus": ("sdxl", replace(PLUS, **XL), [{"weight": 0.6}], 0.6),
}


def tiny(family):
    return Tiny() if family == "sd1" else FAMILIES[family]


def picture(seed, size=(90, 61)):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def nested(config):
    """Weights as diffusers takes them without a file."""
    parts = {"image_proj": {}, "ip_adapter": {}}
    for name, value in ip_adapter_tensors(config).items():
        part, _, rest = name.partition(".")
        parts[part][rest] = torch.from_numpy(value)
    return parts


@pytest.mark.parametrize("size", [(90, 61), (61, 90), (224, 224), (300, 20), (31, 31), (1000, 777)])
@pytest.mark.parametrize("side", [20, 224])
def test_pictures_are_what_clip_takes(size, side):
    image = picture(4, size)
    processor = CLIPImageProcessor(size=side, crop_size=side)
    wanted = processor(image, return_tensors="np").pixel_values
    np.testing.assert_allclose(clip_pixels(image, side), wanted, atol=1e-6)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A package with an adapter of each kind, and diffusers' model of its encoder."""
    folder = tmp_path_factory.mktemp("looking")
    export_package(make_tiny_checkpoint(folder / "source"), folder / "package", precision="fp32")
    encoder = make_encoder(folder / "encoder")
    for name, config in (("plain", PLAIN), ("plus", PLUS), ("full", FULL)):
        file = make_file(folder / f"{name}.safetensors", config)
        add_adapter(file, folder / "package", image_encoder=encoder, precision="fp32")
    return folder


def answers(package, component, inputs, engine, variant="plain"):
    device = registry.probe(engine)[0]
    options = LoadOptions(precision="fp32" if engine == "openvino" else None)
    artifacts = package.find(component, variant)
    session = open_chain(registry.get(engine), artifacts, package.root, device, options)
    try:
        return session.run(inputs)
    finally:
        session.close()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_encoder_and_adapters_say_what_theirs_say(made, engine):
    package = Package.open(made / "package")
    model = CLIPVisionModelWithProjection.from_pretrained(made / "encoder").eval()
    pixels = np.concatenate([clip_pixels(picture(n), ENCODER.image_size) for n in (1, 2)])
    with torch.no_grad():
        theirs = model(torch.from_numpy(pixels), output_hidden_states=True)
    component = package.manifest.adapters[0].encoder
    for variant in ("plain", "segment") if engine == "onnxruntime" else ("plain",):
        ours = answers(package, component, {"pixel_values": pixels}, engine, variant)
        np.testing.assert_allclose(ours["image_embeds"], theirs.image_embeds, atol=2e-5)
        np.testing.assert_allclose(ours["hidden_states"], theirs.hidden_states[-2], atol=2e-5)
    for name, config in (("plain", PLAIN), ("plus", PLUS), ("full", FULL)):
        pipe = StableDiffusionPipeline.from_pretrained(made / "source", image_encoder=model)
        pipe.load_ip_adapter(
            nested(config), subfolder="", weight_name="", image_encoder_folder=None
        )
        said = theirs.image_embeds if config.pooled else theirs.hidden_states[-2]
        with torch.no_grad():
            (tokens,) = pipe.unet.encoder_hid_proj([said[:, None]])
            tokens = tokens.flatten(1, 2)  # the pictures of an item, here one, side by side
            processors = {k: v for k, v in pipe.unet.attn_processors.items() if "attn2" in k}
            # Ours are in the order they run: the middle before the way up.
            order = sorted(processors, key=lambda k: ("d", "m", "u").index(k[0]))
            wanted = [
                torch.cat([layers(processors[key])[0](tokens) for key in order], -1)
                for layers in (lambda p: p.to_k_ip, lambda p: p.to_v_ip)
            ]
        takes = "image_embeds" if config.pooled else "hidden_states"
        ours = answers(package, f"ip-adapter/{name}", {takes: said.numpy()}, engine)
        for key, value in zip(("image_keys", "image_values"), wanted, strict=True):
            np.testing.assert_allclose(ours[key], value, atol=5e-5, err_msg=f"{name} {key}")


def theirs(case, source, encoder, adapter, scale, pictures, sigmas, times, net):
    xl = (source / "text_encoder_2").is_dir()
    kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    more = {"guidance_scale": 1.0 if case == "without guidance" else 5.0}
    parts = {"image_encoder": CLIPVisionModelWithProjection.from_pretrained(encoder)}
    if net is not None:
        kind = StableDiffusionControlNetPipeline
        parts["controlnet"] = ControlNetModel.from_pretrained(net)
        more["image"] = picture(9, (SIDE, SIDE))
    if case == "instruct-pix2pix":
        kind = StableDiffusionInstructPix2PixPipeline
        more |= {"image": picture(9, (SIDE, SIDE)), "image_guidance_scale": 1.5}
    else:
        more |= {"height": SIDE, "width": SIDE}
    pipe = kind.from_pretrained(source, torch_dtype=torch.float32, **parts)
    pipe.load_ip_adapter(nested(adapter), subfolder="", weight_name="", image_encoder_folder=None)
    pipe.set_ip_adapter_scale(scale)
    pipe.set_progress_bar_config(disable=True)
    if case == "start and end":
        pipe.set_ip_adapter_scale(0.0)

        def turn(pipe, step, _, told):
            # A callback comes after its step: it sets what counts in the next.
            pipe.set_ip_adapter_scale(scale if 2 <= step + 1 < 6 else 0.0)
            return told

        more["callback_on_step_end"] = turn
    inject_schedule(pipe.scheduler, sigmas, times)
    return pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        ip_adapter_image=[pictures] if len(pictures) > 1 else pictures[0],
        num_inference_steps=len(times),
        generator=torch.Generator("cpu").manual_seed(SEED),
        output_type="np",
        **more,
    ).images[0]


@pytest.mark.parametrize("case", CASES)
def test_the_picture_is_diffusers_picture(tmp_path, case):
    family, adapter, settings, scale = CASES[case]
    source = make_tiny_checkpoint(tmp_path / "source", tiny(family))
    package, encoder = tmp_path / "package", make_encoder(tmp_path / "encoder")
    export_package(source, package, precision="fp32")
    file = make_file(tmp_path / ("face.bin" if "plus" in case else "face.safetensors"), adapter)
    add_adapter(file, package, image_encoder=encoder, precision="fp32")
    pictures = [picture(number) for number in range(len(settings))]
    controls = [
        replace(sdlite.Control("face", image), **setting)
        for image, setting in zip(pictures, settings, strict=True)
    ]
    drawn = {"width": SIDE, "height": SIDE, "seed": SEED, "steps": STEPS}
    drawn |= {"guidance": 1.0 if case == "without guidance" else 5.0, "negative_prompt": NEGATIVE}
    drawn |= {"sampler": "Euler", "schedule": "SGM Uniform"}
    net, others = None, []
    if case == "with a ControlNet":
        net = make_tiny_controlnet(tmp_path / "edges")
        add_adapter(net, package, precision="fp32")
        others = [sdlite.Control("edges", picture(9, (SIDE, SIDE)))]
    if case == "instruct-pix2pix":
        image = picture(9, (SIDE, SIDE))
        drawn["edit"] = sdlite.Edit(image, strength=1.0, rules="diffusers", image_guidance=1.5)
        del drawn["width"], drawn["height"]
    with sdlite.load(package) as ours:
        levels = NoiseLevels.from_table(ours.package.manifest.noise)
        result = ours.generate(PROMPT, controls=[*controls, *others], **drawn)
        without = ours.generate(PROMPT, controls=others, **drawn)
    sigmas = sigmas_for("SGM Uniform", levels, STEPS, "Euler")
    times = np.array([levels.sigma_to_timestep(float(s)) for s in sigmas[:-1]], np.float32)
    reference = theirs(case, source, encoder, adapter, scale, pictures, sigmas, times, net) * 255
    reference = reference.round()
    assert reference.std() > 5, "nothing was drawn, so nothing was compared"
    changed = psnr(np.asarray(without.images[0], np.float64), reference)
    decibels = psnr(np.asarray(result.images[0], np.float64), reference)
    print(f"{case}: {decibels:.1f} dB, without the image prompt {changed:.1f} dB")
    assert changed < LEAST_DB - 10, "the pictures changed nothing, so nothing was compared"
    assert decibels >= LEAST_DB


def psnr(ours, reference):
    return 10 * np.log10(255.0**2 / max(float(np.mean((reference - ours) ** 2)), 1e-20))
