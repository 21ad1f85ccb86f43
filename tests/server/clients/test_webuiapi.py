"""The client people use for AUTOMATIC1111's API, against a running server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import sdlite
from benchmarks.quality.checker import judge
from sdlite.types import Edit, Hires, Request
from sdlite.upscalers.enlarge import upscale
from tests.server.helpers import until

webuiapi: Any = pytest.importorskip("webuiapi", reason="pip install webuiapi to run these")

PROMPT = "a large red circle on a blue background"


@pytest.fixture(scope="module")
def api(port: int) -> Any:
    return webuiapi.WebUIApi(port=port, steps=6)


def psnr(one: Image.Image, other: Image.Image) -> float:
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    mean = float((difference**2).mean())
    return 99.0 if mean == 0 else 10 * np.log10(255**2 / mean)


def same(image: Image.Image, pipe: sdlite.Pipeline, request: Request) -> None:
    assert psnr(image.convert("RGB"), pipe.generate(request).images[0]) >= 50


def test_text_to_image(api: Any, pipe: sdlite.Pipeline) -> None:
    result = api.txt2img(prompt=PROMPT, seed=7, cfg_scale=4, width=64, height=64, batch_size=2)
    assert len(result.images) == 2 and result.info["all_seeds"] == [7, 8]
    assert result.info["sampler_name"] == "Euler a" and result.parameters["steps"] == 6
    request = Request(PROMPT, "", 64, 64, 6, 4.0, "Euler a", None, seed=7, images=2)
    expected = pipe.generate(request).images
    for image, other in zip(result.images, expected, strict=True):
        assert psnr(image, other) >= 50


def test_second_pass(api: Any, pipe: sdlite.Pipeline) -> None:
    result = api.txt2img(
        prompt=PROMPT,
        seed=7,
        cfg_scale=4,
        width=64,
        height=64,
        sampler_name="DPM++ 2M Karras",
        enable_hr=True,
        hr_scale=1.5,
        hr_upscaler=webuiapi.HiResUpscaler.Latent,
        denoising_strength=0.6,
    )
    hires = Hires(scale=1.5, strength=0.6)
    request = Request(PROMPT, "", 64, 64, 6, 4.0, "DPM++ 2M Karras", seed=7, hires=hires)
    assert result.image.size == (96, 96)
    same(result.image, pipe, request)


def test_image_to_image(api: Any, pipe: sdlite.Pipeline) -> None:
    source = Image.new("RGB", (64, 64), "navy")
    result = api.img2img(
        [source], prompt=PROMPT, seed=7, cfg_scale=4, width=64, height=64, denoising_strength=0.8
    )
    edit = Edit(source, strength=0.8, resize="stretch")
    same(result.image, pipe, Request(PROMPT, "", 64, 64, 6, 4.0, "Euler a", seed=7, edit=edit))


def test_inpainting(api: Any, pipe: sdlite.Pipeline) -> None:
    source = Image.new("RGB", (64, 64), "navy")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    result = api.img2img(
        [source],
        mask_image=mask,
        mask_blur=2,
        inpaint_full_res=False,
        inpainting_fill=1,
        prompt=PROMPT,
        seed=7,
        cfg_scale=4,
        width=64,
        height=64,
        denoising_strength=1.0,
    )
    edit = Edit(source, strength=1.0, mask=mask, mask_blur=2, resize="stretch")
    same(result.image, pipe, Request(PROMPT, "", 64, 64, 6, 4.0, "Euler a", seed=7, edit=edit))
    assert result.image.getpixel((5, 5)) == (0, 0, 128)


def test_enlarging(api: Any) -> None:
    image = Image.new("RGB", (20, 10), "red")
    lanczos = webuiapi.Upscaler.Lanczos
    result = api.extra_single_image(image, upscaler_1=lanczos, upscaling_resize=3)
    assert result.image.size == (60, 30) and "Lanczos" in result.info
    batch = api.extra_batch_images([image, image], upscaler_1=lanczos)
    assert [item.size for item in batch.images] == [(40, 20)] * 2


def test_reading_parameters(api: Any) -> None:
    result = api.txt2img(prompt=PROMPT, seed=7, width=64, height=64)
    read = api.png_info(result.image)
    assert read.info == result.info["infotexts"][0]


def read(image: Image.Image, prompt: str = PROMPT) -> None:
    """The checker finds in a picture what the prompt says."""
    assert judge(prompt, image.convert("RGB")).wrong == ()


def test_pictures_are_right(api: Any, pipe: sdlite.Pipeline) -> None:
    """Each way to draw at the model's own size and steps, compared and read."""
    size = {"width": 128, "height": 128, "steps": 20, "cfg_scale": 4, "seed": 7}
    base = {"width": 128, "height": 128, "steps": 20, "guidance": 4.0, "seed": 7}
    first = api.txt2img(prompt=PROMPT, **size).image
    same(first, pipe, Request(PROMPT, sampler="Euler a", **base))
    read(first)

    other = "a large green square on a blue background"
    navy = Image.new("RGB", (128, 128), "navy")
    made = api.img2img([navy], prompt=other, denoising_strength=0.95, **size).image
    edit = Edit(navy, strength=0.95, resize="stretch")
    same(made, pipe, Request(other, sampler="Euler a", edit=edit, **base))
    read(made, other)

    mask = Image.new("L", (128, 128))
    mask.paste(255, (8, 8, 120, 120))
    made = api.img2img(
        [first],
        mask_image=mask,
        mask_blur=2,
        inpaint_full_res=False,
        inpainting_fill=1,
        prompt=other,
        denoising_strength=1.0,
        **size,
    ).image
    edit = Edit(first, strength=1.0, mask=mask, mask_blur=2, resize="stretch")
    same(made, pipe, Request(other, sampler="Euler a", edit=edit, **base))
    read(made, other)


def test_controlnet(api: Any, models: Path) -> None:
    picture = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(picture).ellipse((30, 30, 98, 98), fill="black")
    api.set_options({"sd_model_checkpoint": "edges"})
    try:
        (none, net) = api.controlnet_model_list()
        assert none == "None" and net.startswith("edges [")
        assert "canny" in api.controlnet_module_list() and api.controlnet_version() == 2
        unit = webuiapi.ControlNetUnit(
            image=picture, module="canny", model=net, resize_mode="Just Resize"
        )
        result = api.txt2img(
            prompt=PROMPT,
            width=128,
            height=128,
            steps=20,
            cfg_scale=4,
            seed=7,
            sampler_name="DPM++ 2M",
            controlnet_units=[unit],
        )
        shown = api.controlnet_detect([picture], "canny", 128, 64, 64).image
    finally:
        api.set_options({"sd_model_checkpoint": "shapes"})
    control = sdlite.Control(
        "edges",
        picture,
        preprocessor="canny",
        resize="stretch",
        options=(("low", 64.0), ("high", 64.0)),
    )
    request = Request(PROMPT, "", 128, 128, 20, 4.0, "DPM++ 2M", seed=7, controls=(control,))
    with sdlite.load(models / "edges", runtime="onnxruntime", threads=1) as pipe:
        same(result.image, pipe, request)
    read(result.image)
    assert "ControlNet 0" in result.info["infotexts"][0]
    # The circle is where the picture had it, and its edge is what the network was shown.
    box = np.argwhere(np.asarray(shown.convert("L")) > 127)
    assert np.abs(box.min(axis=0) - 30).max() <= 2 and np.abs(box.max(axis=0) - 98).max() <= 2
    red = np.asarray(result.image.convert("RGB")).astype(int)
    box = np.argwhere(red[..., 0] - red[..., 2] > 60)
    assert np.abs(box.min(axis=0) - 30).max() <= 8 and np.abs(box.max(axis=0) - 98).max() <= 8


def test_enlarging_with_a_network(api: Any, upscalers: Path) -> None:
    assert "twice" in {item["name"] for item in api.get_upscalers()}
    image = Image.effect_noise((24, 16), 60).convert("RGB")
    result = api.extra_single_image(image, upscaler_1="twice", upscaling_resize=2)
    expected = upscale(image, upscalers, scale=2, runtime="onnxruntime", threads=1).image
    assert result.image.size == (48, 32) and psnr(result.image, expected) >= 50
    assert "twice" in result.info
    batch = api.extra_batch_images([image], upscaler_1="Twice", upscaling_resize=3)
    assert batch.image.size == (72, 48)


def test_a_plot(api: Any, pipe: sdlite.Pipeline) -> None:
    result = api.txt2img(
        prompt=PROMPT,
        seed=7,
        cfg_scale=4,
        width=64,
        height=64,
        script_name="x/y/z plot",
        script_args=[4, "3,6", [], 0, "", [], 0, "", [], True, True, False, False],
    )
    sheet, first, second = result.images
    assert sheet.width > 128 and result.info["index_of_first_image"] == 1
    for image, steps in ((first, 3), (second, 6)):
        same(image, pipe, Request(PROMPT, "", 64, 64, steps, 4.0, "Euler a", seed=7))


def test_progress_and_interrupt(api: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(api.txt2img, prompt=PROMPT, seed=7, steps=150, n_iter=3)
        until(lambda: api.get_progress()["state"]["sampling_step"] > 2)
        found = api.get_progress()
        assert 0 < found["progress"] < 1 and found["eta_relative"] > 0 and found["current_image"]
        assert api.interrupt() == {}
        assert len(job.result(60).images) == 1
    done = threading.Thread(target=api.util_wait_for_ready, args=(0.1,))
    done.start()
    done.join(30)
    assert not done.is_alive()


def test_models_and_options(api: Any) -> None:
    assert api.util_get_current_model().startswith("shapes")
    api.util_set_model("Another")
    try:
        assert api.util_get_current_model().startswith("another")
    finally:
        api.util_set_model("shapes")
    assert api.util_get_current_model().startswith("shapes")
    api.set_options({"CLIP_stop_at_last_layers": 1})
    assert api.get_options()["CLIP_stop_at_last_layers"] == 1


def test_everything_it_can_list(api: Any) -> None:
    assert {"Euler a", "DPM++ 2M"} <= set(api.util_get_sampler_names())
    assert {"automatic", "karras"} <= set(api.util_get_scheduler_names())
    for read in (
        api.get_cmd_flags,
        api.get_sd_vae,
        api.get_upscalers,
        api.get_latent_upscale_modes,
        api.get_loras,
        api.get_hypernetworks,
        api.get_face_restorers,
        api.get_realesrgan_models,
        api.get_prompt_styles,
        api.get_scripts,
        api.get_embeddings,
        api.get_memory,
        api.refresh_checkpoints,
        api.skip,
    ):
        read()


def test_an_error_reaches_the_user(api: Any) -> None:
    with pytest.raises(RuntimeError, match="Sampler not found"):
        api.txt2img(prompt=PROMPT, sampler_name="nothing")
