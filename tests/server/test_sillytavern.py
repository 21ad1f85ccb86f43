"""The requests SillyTavern's image extension sends to A1111, in its order and with its fields.

Taken from what ``src/endpoints/stable-diffusion.js`` and the extension ask for; the program itself
is not run.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra [server] is not installed")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")

from sdlite.server.guard import Access
from sdlite.types import Request
from tests.server.helpers import opened
from tests.server.test_a1111 import same

API = "/sdapi/v1/"


def headers(auth: str) -> dict[str, str]:
    """It sends basic auth always, of nothing where nothing is set."""
    return {"Authorization": "Basic " + base64.b64encode(auth.encode()).decode()}


def body(**more: Any) -> dict[str, Any]:
    """What it sends for a picture; fields of Forge and SD.Next among them."""
    return {
        "url": "http://localhost:7860",
        "auth": "",
        "prompt": "a",
        "negative_prompt": "b",
        "sampler_name": "DPM++ 2M",
        "scheduler": "karras",
        "steps": 3,
        "cfg_scale": 4,
        "width": 64,
        "height": 64,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "Latent",
        "hr_scale": 1.0,
        "hr_additional_modules": [],
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "seed": 7,
        "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
        "override_settings_restore_afterwards": True,
        "clip_skip": 1,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
        **more,
    }


@pytest.mark.parametrize("auth", ["", "me:secret"])
def test_from_connecting_to_a_picture(serve: Any, auth: str) -> None:
    users = (("me", "secret"),) if auth else ()
    client = serve(access=Access(users=users))
    sign = headers(auth)

    def read(path: str) -> Any:
        answer = client.get(API + path, headers=sign)
        assert answer.status_code == 200, answer.text
        return answer.json()

    read("options")
    names = {path: [item["name"] for item in read(path)] for path in ("samplers", "schedulers")}
    assert "DPM++ 2M" in names["samplers"] and "karras" in names["schedulers"]
    # The first is "None", behind which it puts the ways to enlarge latents.
    assert read("upscalers")[0]["name"] == "None"
    assert "Latent" in [item["name"] for item in read("latent-upscale-modes")]
    assert isinstance(read("sd-vae"), list)
    assert client.get(API + "sd-modules", headers=sign).status_code == 404
    titles = [item["title"] for item in read("sd-models")]
    other = next(title for title in titles if title.startswith("other"))
    choice = {"sd_model_checkpoint": other}
    assert client.post(API + "options", json=choice, headers=sign).status_code == 200
    assert read("options")["sd_model_checkpoint"] == other
    idle = read("progress")
    assert idle["progress"] == 0 and idle["state"]["job_count"] == 0
    tiny = {"sd_model_checkpoint": next(title for title in titles if title.startswith("tiny"))}
    client.post(API + "options", json=tiny, headers=sign)
    answer = client.post(API + "txt2img", json=body(), headers=sign)
    assert answer.status_code == 200, answer.text
    (image,) = answer.json()["images"]
    same(opened(image), Request("a", "b", 64, 64, 3, 4.0, "DPM++ 2M", "Karras", seed=7))
    assert json.loads(answer.json()["info"])["seed"] == 7
    assert client.post(API + "interrupt", headers=sign).json() == {}


def test_what_it_may_be_set_to(client: Any) -> None:
    twice = client.post(API + "txt2img", json=body(enable_hr=True, hr_scale=1.5)).json()
    assert opened(twice["images"][0]).size == (96, 96)
    once = client.post(API + "txt2img", json=body(enable_hr=True)).json()
    assert opened(once["images"][0]).size == (64, 64)
    detailer = {"ADetailer": {"args": [True, True, {"ad_model": "face_yolov8n.pt"}]}}
    refused = client.post(API + "txt2img", json=body(alwayson_scripts=detailer))
    assert refused.status_code == 422 and "'ADetailer' not found" in refused.json()["errors"]
    refused = client.post(API + "txt2img", json=body(restore_faces=True))
    assert refused.status_code == 501
