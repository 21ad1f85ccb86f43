"""A1111's API on the fake engine: fields, answers, errors."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

pytest.importorskip("starlette", reason="the extra [server] is not installed")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")

import sdlite
from sdlite.metadata import parse
from sdlite.types import Edit, Hires, Request
from tests.server.helpers import SLOW, opened, picture, until

API = "/sdapi/v1/"
CLIENT_DEFAULTS: dict[str, Any] = {
    "enable_hr": False,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "hr_second_pass_steps": 0,
    "hr_resize_x": 0,
    "hr_resize_y": 0,
    "hr_checkpoint_name": None,
    "hr_sampler_name": None,
    "hr_scheduler": None,
    "hr_prompt": "",
    "hr_negative_prompt": "",
    "denoising_strength": 0.7,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "styles": [],
    "subseed": -1,
    "subseed_strength": 0.0,
    "seed_resize_from_h": 0,
    "seed_resize_from_w": 0,
    "eta": 1.0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 1,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "sampler_name": "Euler a",
    "scheduler": "automatic",
    "sampler_index": "Euler a",
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {},
    "a key nobody knows": 1,
}
"""What the client ``webuiapi`` sends when nothing else is said."""


def drawn(client: Any, path: str = "txt2img", **body: Any) -> dict[str, Any]:
    answer = client.post(API + path, json={"prompt": "a", "steps": 3, "seed": 5, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(client: Any, status: int, path: str = "txt2img", **body: Any) -> str:
    answer = client.post(API + path, json={"prompt": "a", "steps": 1, **body})
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert found.keys() == {"error", "detail", "body", "errors"}
    return str(found["detail"])


def same(image: Image.Image, request: Request) -> None:
    with sdlite.load("tiny", runtime="null") as pipe:
        (expected,) = pipe.generate(request).images
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


def test_draws_what_the_library_draws(client: Any) -> None:
    found = drawn(client, **CLIENT_DEFAULTS, negative_prompt="b", cfg_scale=3, width=64, height=32)
    image = opened(found["images"][0])
    same(image, Request("a", "b", 64, 32, 3, 3.0, "Euler a", "automatic", seed=5))
    text = parse(image.text["parameters"])  # type: ignore[attr-defined]
    assert text.prompt == "a" and text.negative_prompt == "b"
    assert text.fields["Sampler"] == "Euler a" and text.fields["Seed"] == "5"
    assert found["parameters"]["steps"] == 3


def test_what_is_left_out_is_the_models_own(client: Any) -> None:
    answer = client.post(API + "txt2img", json={"prompt": "a", "seed": 1, "steps": 2})
    assert opened(answer.json()["images"][0]).size == (64, 64)


def test_info_says_everything(client: Any) -> None:
    found = drawn(client, batch_size=2, n_iter=2)
    info = json.loads(found["info"])
    expected = {
        "prompt", "all_prompts", "negative_prompt", "all_negative_prompts", "seed", "all_seeds",
        "subseed", "all_subseeds", "subseed_strength", "width", "height", "sampler_name",
        "cfg_scale", "steps", "batch_size", "restore_faces", "face_restoration_model",
        "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash", "seed_resize_from_w",
        "seed_resize_from_h", "denoising_strength", "extra_generation_params",
        "index_of_first_image", "infotexts", "styles", "job_timestamp", "clip_skip",
        "is_using_inpainting_conditioning", "version",
    }  # fmt: skip
    assert expected <= info.keys()
    assert info["all_seeds"] == [5, 6, 7, 8] and info["seed"] == 5
    assert len(found["images"]) == len(info["infotexts"]) == 4
    assert [parse(text).fields["Seed"] for text in info["infotexts"]] == ["5", "6", "7", "8"]
    for image, text in zip(found["images"], info["infotexts"], strict=True):
        assert opened(image).text["parameters"] == text  # type: ignore[attr-defined]
    same(opened(found["images"][3]), Request("a", steps=3, seed=8))


def test_a_drawn_seed_can_be_typed_back_in(client: Any) -> None:
    first = drawn(client, seed=-1)
    again = drawn(client, seed=json.loads(first["info"])["seed"])
    assert first["images"] == again["images"]


def test_variations(client: Any) -> None:
    fields = {"subseed": 9, "subseed_strength": 0.3, "seed_resize_from_w": 32}
    settings = {"eta_noise_seed_delta": 31337}
    found = drawn(
        client,
        n_iter=2,
        sampler_name="Euler a",
        seed_resize_from_h=40,
        override_settings=settings,
        **fields,
    )
    info = json.loads(found["info"])
    assert info["all_seeds"] == [5, 5] and info["all_subseeds"] == [9, 10]
    assert info["subseed_strength"] == 0.3 and info["seed_resize_from_h"] == 40
    request = Request(
        "a",
        steps=3,
        seed=5,
        sampler="Euler a",
        variation_seed=10,
        variation_strength=0.3,
        seed_resize=(32, 40),
        seed_delta=31337,
    )
    same(opened(found["images"][1]), request)


def test_options_of_samplers_that_take_none_are_no_matter(client: Any) -> None:
    for name, eta in (("DDIM", 0.5), ("DPM++ 2M", None)):
        found = drawn(client, sampler_name=name, eta=0.5, s_churn=2)
        assert json.loads(found["info"])["notes"] == []
        same(opened(found["images"][0]), Request("a", steps=3, seed=5, sampler=name, eta=eta))


def test_second_pass(client: Any) -> None:
    found = drawn(
        client, enable_hr=True, hr_scale=1.5, denoising_strength=0.6, hr_upscaler="Lanczos"
    )
    hires = Hires(scale=1.5, upscaler="Lanczos", strength=0.6)
    same(opened(found["images"][0]), Request("a", steps=3, seed=5, hires=hires))
    to_size = drawn(client, enable_hr=True, hr_resize_x=96, hr_resize_y=80)
    assert opened(to_size["images"][0]).size == (96, 80)
    old = drawn(
        client, enable_hr=True, firstphase_width=32, firstphase_height=32, width=64, height=64
    )
    assert opened(old["images"][0]).size == (64, 64)


def test_from_a_picture(client: Any) -> None:
    source = picture((64, 64), "blue")
    found = drawn(client, "img2img", init_images=["data:image/png;base64," + source])
    edit = Edit(Image.new("RGB", (64, 64), "blue"), strength=0.75)
    same(opened(found["images"][0]), Request("a", steps=3, seed=5, edit=edit))
    assert found["parameters"]["init_images"] is None
    kept = drawn(client, "img2img", init_images=[source], include_init_images=True)
    assert kept["parameters"]["init_images"] == [source]
    several = drawn(client, "img2img", init_images=[source, source], n_iter=2)
    assert json.loads(several["info"])["all_seeds"] == [5, 6, 7, 8]


def test_inpainting(client: Any) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    stream = io.BytesIO()
    mask.save(stream, "PNG")

    fields = {
        "init_images": [picture((64, 64), "blue")],
        "mask": base64.b64encode(stream.getvalue()).decode(),
        "mask_blur": 2,
        "inpainting_fill": 2,
        "inpaint_full_res": False,
        "inpainting_mask_invert": 1,
        "denoising_strength": 1.0,
        "width": 64,
        "height": 64,
    }
    found = drawn(client, "img2img", **fields)
    edit = Edit(
        Image.new("RGB", (64, 64), "blue"),
        strength=1.0,
        mask=mask,
        invert_mask=True,
        mask_blur=2,
        mask_content="noise",
        resize="stretch",
    )
    image = opened(found["images"][0])
    same(image, Request("a", width=64, height=64, steps=3, seed=5, edit=edit))
    assert image.getpixel((2, 32)) == (0, 0, 255)
    part = drawn(client, "img2img", **fields | {"inpaint_full_res": True, "width": 32})
    assert opened(part["images"][0]).size == (64, 64)


def test_settings_for_a_request_and_for_all(client: Any) -> None:
    once = drawn(client, override_settings={"sd_model_checkpoint": "other", "randn_source": "NV"})
    assert json.loads(once["info"])["sd_model_name"] == "other"
    assert json.loads(drawn(client)["info"])["sd_model_name"] == "tiny"
    title = client.get(API + "sd-models").json()
    title = next(model["title"] for model in title if model["model_name"] == "other")
    answer = client.post(
        API + "options", json={"sd_model_checkpoint": title, "CLIP_stop_at_last_layers": 2}
    )
    assert answer.status_code == 200 and answer.json() is None
    options = client.get(API + "options").json()
    assert options["sd_model_checkpoint"] == title and options["CLIP_stop_at_last_layers"] == 2
    info = json.loads(drawn(client)["info"])
    assert info["sd_model_name"] == "other" and info["clip_skip"] == 2
    drawn(
        client,
        override_settings={"sd_model_checkpoint": "tiny"},
        override_settings_restore_afterwards=False,
    )
    assert client.get(API + "options").json()["sd_model_checkpoint"].startswith("tiny")


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_picture_formats_all_carry_parameters(client: Any, format: str) -> None:
    found = drawn(client, override_settings={"samples_format": format})
    info = client.post(API + "png-info", json={"image": found["images"][0]}).json()
    assert info["info"] == json.loads(found["info"])["infotexts"][0]
    assert info["parameters"]["Prompt"] == "a" and info["parameters"]["Steps"] == "3"


def test_settings_from_an_infotext(client: Any) -> None:
    asked = {"negative_prompt": "b", "steps": 4, "sampler_name": "Heun", "cfg_scale": 3, "seed": 9}
    asked |= {"width": 64, "height": 32, "subseed": 3, "subseed_strength": 0.5}
    first = drawn(client, **asked, override_settings={"CLIP_stop_at_last_layers": 2})
    (text,) = json.loads(first["info"])["infotexts"]
    again = client.post(API + "txt2img", json={"infotext": text}).json()
    assert again["images"] == first["images"]
    # What the body says itself holds.
    other = client.post(API + "txt2img", json={"infotext": text, "steps": 2}).json()
    assert json.loads(other["info"])["steps"] == 2 and json.loads(other["info"])["seed"] == 9
    text = text.replace("Seed: 9", "Seed: 9, Hires upscale: 1.5, Hires steps: 2")
    twice = client.post(API + "txt2img", json={"infotext": text}).json()
    assert opened(twice["images"][0]).size == (96, 48)
    # A1111's own pictures have noise of the GPU where they do not say otherwise.
    text = text.replace("RNG: CPU, ", "")
    twice = client.post(API + "txt2img", json={"infotext": text}).json()
    assert "RNG: NV" in json.loads(twice["info"])["infotexts"][0]
    wrong = client.post(API + "txt2img", json={"infotext": "a\nSteps: x, Seed: 1, Size: 64x64"})
    assert wrong.status_code == 422 and "steps" in wrong.json()["errors"]


def test_quality_of_jpeg(client: Any) -> None:
    sizes = []
    for quality in (5, 100):
        settings = {"samples_format": "jpg", "jpeg_quality": quality}
        sizes.append(len(drawn(client, override_settings=settings)["images"][0]))
    assert sizes[0] < sizes[1]
    assert client.get(API + "options").json()["jpeg_quality"] == 95


def test_png_info_without_parameters(client: Any) -> None:
    stream = io.BytesIO()
    text = PngInfo()
    text.add_text("Author", "me")
    Image.new("RGB", (8, 8)).save(stream, "PNG", pnginfo=text)

    body = {"image": base64.b64encode(stream.getvalue()).decode()}
    found = client.post(API + "png-info", json=body).json()
    assert found == {"info": "", "items": {"Author": "me"}, "parameters": {}}


def test_styles(client: Any, place: Path) -> None:
    (place / "styles.csv").write_text("name,prompt,negative_prompt\nOil,oil painting,blurry\n")
    info = json.loads(drawn(client, styles=["Oil"])["info"])
    assert info["prompt"] == "a, oil painting" and info["negative_prompt"] == "blurry"
    assert info["styles"] == ["Oil"]
    assert client.get(API + "prompt-styles").json()[0]["name"] == "Oil"
    assert "Did you mean 'Oil'" in refused(client, 404, styles=["oils"])


def test_saving(serve: Any, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    client = serve(output=folder)
    assert drawn(client, save_images=True, send_images=False)["images"] == []
    (path,) = folder.iterdir()
    assert "Steps: 3" in Image.open(path).text["parameters"]  # type: ignore[attr-defined]
    drawn(client)
    assert len(list(folder.iterdir())) == 1


def test_metadata_can_be_left_out(serve: Any) -> None:
    client = serve(metadata=False)
    found = drawn(client)
    assert not opened(found["images"][0]).text  # type: ignore[attr-defined]


def test_enlarging(client: Any) -> None:
    image = picture((20, 10))
    body = {"image": image, "upscaler_1": "Lanczos", "upscaling_resize": 2}
    found = client.post(API + "extra-single-image", json=body).json()
    assert opened(found["image"]).size == (40, 20) and "Lanczos" in found["html_info"]
    to = {"image": image, "upscaler_1": "Nearest", "resize_mode": 1}
    to |= {"upscaling_resize_w": 30, "upscaling_resize_h": 30}
    cropped = client.post(API + "extra-single-image", json=to).json()
    assert opened(cropped["image"]).size == (30, 30)
    whole = client.post(API + "extra-single-image", json={**to, "upscaling_crop": False}).json()
    assert opened(whole["image"]).size == (30, 15)
    untouched = client.post(API + "extra-single-image", json={"image": image}).json()
    assert opened(untouched["image"]).size == (20, 10)
    mixed = {**body, "upscaler_2": "Nearest", "extras_upscaler_2_visibility": 0.5}
    batch = {**mixed, "imageList": [{"data": image, "name": "a"}, {"data": image, "name": "b"}]}
    both = client.post(API + "extra-batch-images", json=batch).json()
    assert [opened(item).size for item in both["images"]] == [(40, 20)] * 2


def test_lists(client: Any) -> None:
    def get(path: str) -> Any:
        answer = client.get(API + path)
        assert answer.status_code == 200, path
        return answer.json()

    assert {"DPM++ 2M", "Euler a"} <= {item["name"] for item in get("samplers")}
    schedules = {item["name"]: item for item in get("schedulers")}
    assert schedules["automatic"]["label"] == "Automatic" and "karras" in schedules
    assert {"None", "Lanczos", "Nearest"} <= {item["name"] for item in get("upscalers")}
    assert len(get("latent-upscale-modes")) == 6
    models = get("sd-models")
    assert {"tiny", "other"} <= {item["model_name"] for item in models}
    assert models[0].keys() == {"title", "model_name", "hash", "sha256", "filename", "config"}
    for path in ("sd-vae", "hypernetworks", "face-restorers", "realesrgan-models", "loras"):
        assert get(path) == []
    assert get("embeddings") == {"loaded": {}, "skipped": {}}
    names = ["x/y/z plot", "controlnet m2m", "controlnet"]
    assert get("scripts") == {"txt2img": names, "img2img": names}
    assert {item["name"] for item in get("script-info")} == {"x/y/z plot", "controlnet"}
    assert get("memory")["ram"].keys() == {"free", "used", "total"}
    assert get("cmd-flags")["api"] is True
    for path in ("extensions", "prompt-styles"):
        assert get(path) == []


def test_idle_progress(client: Any) -> None:
    found = client.get(API + "progress").json()
    assert found["progress"] == 0 and found["state"]["job_count"] == 0
    assert found["current_image"] is None and found["eta_relative"] == 0


def test_progress_and_interrupt(serve: Any) -> None:
    client = serve(SLOW)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(drawn, client, steps=100, n_iter=2, cfg_scale=1)
        until(lambda: client.get(API + "progress").json()["state"]["sampling_step"] >= 2)
        found = client.get(API + "progress").json()
        assert 0.01 < found["progress"] < 0.5 and found["eta_relative"] > 0
        assert found["state"]["job_count"] == 2 and found["state"]["sampling_steps"] == 100
        assert opened(found["current_image"]).size == (64, 64)
        short = client.get(API + "progress?skip_current_image=true").json()
        assert short["current_image"] is None
        answer = client.post(API + "interrupt")
        assert answer.status_code == 200 and answer.json() == {}
        result = job.result(30)
    assert len(result["images"]) == 1
    assert "stopped after step" in json.loads(result["info"])["notes"][0]
    until(lambda: client.get(API + "progress").json()["state"]["job_count"] == 0)


def test_skip_goes_on_to_the_next(serve: Any) -> None:
    client = serve(SLOW)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(drawn, client, steps=60, n_iter=2, cfg_scale=1)
        until(lambda: client.get(API + "progress").json()["state"]["sampling_step"] >= 1)
        assert client.post(API + "skip").json() is None
        until(lambda: client.get(API + "progress").json()["state"]["job_no"] == 1)
        client.post(API + "interrupt")
        result = job.result(30)
    assert len(result["images"]) == 2


def test_interrupting_leaves_those_who_wait(serve: Any) -> None:
    client = serve(SLOW)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(drawn, client, steps=60, cfg_scale=1)
        until(lambda: client.server.room.running())
        second = pool.submit(drawn, client, steps=1)
        until(lambda: client.server.room.waiting())
        client.post(API + "interrupt")
        assert len(first.result(30)["images"]) == len(second.result(30)["images"]) == 1


@pytest.mark.parametrize(
    "status, body, words",
    [
        (404, {"sampler_name": "Eulr a"}, "Sampler not found"),
        (404, {"scheduler": "nonsense"}, "Scheduler not found"),
        (422, {"script_name": "sd upscale"}, "not found"),
        (422, {"alwayson_scripts": {"ADetailer": {"args": [{"ad_model": "x"}]}}}, "not found"),
        (501, {"restore_faces": True}, "restore_faces is not supported"),
        (501, {"refiner_checkpoint": "other"}, "refiner_checkpoint"),
        (501, {"override_settings": {"sd_vae": "some.safetensors"}}, "sd_vae"),
        (501, {"override_settings": {"token_merging_ratio": 0.5}}, "token_merging_ratio"),
        (501, {"enable_hr": True, "hr_checkpoint_name": "other"}, "hr_checkpoint_name"),
        (404, {"enable_hr": True, "hr_upscaler": "ESRGAN"}, "unknown upscaler"),
        (404, {"override_settings": {"sd_model_checkpoint": "../../etc"}}, "unknown model"),
        (400, {"override_settings": {"CLIP_stop_at_last_layers": 99}}, "whole number"),
        (422, {"steps": "many"}, "steps"),
        (422, {"cfg_scale": "NaN"}, "cfg_scale"),
        (400, {"width": 65}, "multiple of 8"),
    ],
)
def test_refusals(client: Any, status: int, body: dict[str, Any], words: str) -> None:
    assert words in refused(client, status, **body)


def test_scripts_that_do_nothing_are_no_reason_to_refuse(client: Any) -> None:
    idle = {"ControlNet": {"args": [{"enabled": False, "image": None}]}, "ADetailer": {"args": []}}
    drawn(client, alwayson_scripts=idle)


@pytest.mark.parametrize(
    "status, body, words",
    [
        (404, {}, "Init image not found"),
        (422, {"init_images": ["%%%"]}, "not valid base64"),
        (422, {"init_images": ["aGVsbG8="]}, "no picture of a known format"),
        (501, {"init_images": [picture()], "resize_mode": 3}, "latent upscale"),
        (501, {"init_images": [picture()], "initial_noise_multiplier": 1.1}, "noise_multiplier"),
    ],
)
def test_img2img_refusals(client: Any, status: int, body: dict[str, Any], words: str) -> None:
    assert words in refused(client, status, "img2img", **body)


def test_what_there_is_not(client: Any) -> None:
    for path in ("interrogate", "create/embedding", "train/hypernetwork"):
        assert "not supported" in refused(client, 501, path)
    assert client.get(API + "nothing").json()["detail"] == "Not Found"
    assert client.get(API + "txt2img").status_code == 405
    assert client.post(API + "extra-single-image", json={}).status_code == 422
    body = {"image": picture(), "upscaler_1": "R-ESRGAN 4x+"}
    assert client.post(API + "extra-single-image", json=body).status_code == 404
    body = {"image": picture(), "codeformer_visibility": 1}
    assert client.post(API + "extra-single-image", json=body).status_code == 501


def test_models_are_closed_and_looked_for_again(client: Any, place: Path) -> None:
    from sdlite_runtimes.nullpackage import write_null_package

    drawn(client)
    (keeper,) = client.server.room.keepers
    assert keeper.names == ("tiny",)
    client.post(API + "unload-checkpoint")
    until(lambda: not keeper.names)
    write_null_package(place / "models" / "late")
    client.post(API + "refresh-checkpoints")
    assert "late" in {item["model_name"] for item in client.get(API + "sd-models").json()}
    drawn(client, override_settings={"sd_model_checkpoint": "late"})
