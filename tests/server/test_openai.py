"""OpenAI's images API on the fake engine."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra [server] is not installed")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")

import sdlite
from sdlite.server.limits import Limits
from sdlite.types import Edit, Request
from tests.server.helpers import SLOW, opened

IMAGES = "/v1/images/"


def same(image: Image.Image, request: Request) -> None:
    with sdlite.load("tiny", runtime="null") as pipe:
        (expected,) = pipe.generate(request).images
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


def file(image: Image.Image) -> tuple[str, bytes, str]:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "image.png", stream.getvalue(), "image/png"


def refused(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def test_generations(client: Any) -> None:
    body = {"prompt": "a", "n": 2, "size": "64x32", "seed": 5, "steps": 3, "model": "dall-e-3"}
    found = client.post(IMAGES + "generations", json=body).json()
    assert [item["seed"] for item in found["data"]] == [5, 6]
    assert found["created"] > 0 and found["size"] == "64x32" and found["output_format"] == "png"
    image = opened(found["data"][1]["b64_json"])
    same(image, Request("a", width=64, height=32, seed=6, steps=3))
    assert "Seed: 6" in image.text["parameters"]  # type: ignore[attr-defined]


def test_urls_hold_the_picture(client: Any) -> None:
    body = {"prompt": "a", "steps": 1, "response_format": "url", "output_format": "webp"}
    (item,) = client.post(IMAGES + "generations", json=body).json()["data"]
    head, _, coded = item["url"].partition(",")
    assert head == "data:image/webp;base64" and opened(coded).format == "WEBP"


def test_compression(client: Any) -> None:
    sizes = []
    for compression in (0, 100):
        body = {"prompt": "a", "steps": 1, "seed": 1, "output_format": "jpeg"}
        body["output_compression"] = compression
        (item,) = client.post(IMAGES + "generations", json=body).json()["data"]
        assert opened(item["b64_json"]).format == "JPEG"
        sizes.append(len(item["b64_json"]))
    assert sizes[0] < sizes[1]


def test_quality_is_a_share_of_the_steps(client: Any) -> None:
    steps = {}
    for quality in ("low", "auto", "high"):
        body = {"prompt": "a", "quality": quality, "n": 1}
        found = client.post(IMAGES + "generations", json=body).json()
        text = opened(found["data"][0]["b64_json"]).text  # type: ignore[attr-defined]
        steps[quality] = int(text["parameters"].split("Steps: ")[1].split(",")[0])
    assert steps["low"] * 2 == steps["auto"] and steps["high"] == steps["auto"] * 1.5


def test_edits_paint_what_is_transparent(client: Any) -> None:
    image = Image.new("RGB", (64, 64), "blue")
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    files = {"image": file(image), "mask": file(mask)}
    data = {"prompt": "a", "seed": "5", "steps": "3"}
    found = client.post(IMAGES + "edits", data=data, files=files).json()
    painted = opened(found["data"][0]["b64_json"])
    edit = Edit(image, strength=1.0, mask=mask, invert_mask=True)
    same(painted, Request("a", seed=5, steps=3, edit=edit))
    assert painted.getpixel((60, 32)) == (0, 0, 255) != painted.getpixel((8, 32))
    hole = image.convert("RGBA")
    hole.paste((0, 0, 0, 0), (0, 0, 32, 64))
    found = client.post(IMAGES + "edits", data=data, files={"image[]": file(hole)}).json()
    assert opened(found["data"][0]["b64_json"]).getpixel((60, 32)) != (255, 255, 255)


def test_variations(client: Any) -> None:
    image = Image.new("RGB", (64, 64), "blue")
    data = {"n": "2", "seed": "5", "steps": "4", "size": "32x32"}
    answer = client.post(IMAGES + "variations", data=data, files={"image": file(image)})
    first, second = answer.json()["data"]
    edit = Edit(image, strength=0.75, resize="crop")
    same(opened(second["b64_json"]), Request("", "", 32, 32, 4, seed=6, edit=edit))
    assert first["b64_json"] != second["b64_json"]


def test_loras_in_forms(client: Any) -> None:
    def post(loras: str) -> Any:
        files = {"image": file(Image.new("RGB", (64, 64)))}
        data = {"prompt": "a", "steps": "1", "loras": loras}
        return client.post(IMAGES + "edits", data=data, files=files)

    assert "unknown LoRA 'nice'" in refused(post('[{"name": "nice", "unet": 0.8}]'), 404)["message"]
    for wrong in ('[{"path": "/etc/passwd"}]', "nice", "[" * 100_000, '{"name": "nice"}'):
        assert "loras" in refused(post(wrong), 422)["message"]
    assert post("[]").status_code == 200


def events(text: str) -> list[dict[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append({"event": lines["event"], **json.loads(lines["data"])})
    return found


def test_streaming(serve: Any) -> None:
    client = serve(SLOW)
    body = {"prompt": "a", "steps": 6, "seed": 5, "stream": True, "partial_images": 2, "n": 2}
    answer = client.post(IMAGES + "generations", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert all(item["event"] == item["type"] for item in found)
    partial = [item for item in found if item["type"] == "image_generation.partial_image"]
    complete = [item for item in found if item["type"] == "image_generation.completed"]
    assert [item["partial_image_index"] for item in partial] == [0, 1, 0, 1]
    assert len(complete) == 2 and found[-1] in complete
    assert opened(partial[0]["b64_json"]).size == (64, 64)
    same(opened(complete[1]["b64_json"]), Request("a", seed=6, steps=6))


def test_a_stream_ends_with_its_error(serve: Any) -> None:
    client = serve({"component": "unet", "fail_call": "1"})
    body = {"prompt": "a", "steps": 2, "stream": True}
    (found,) = events(client.post(IMAGES + "generations", json=body).text)
    assert found["event"] == "error" and found["error"]["type"] == "server_error"


def test_models(client: Any) -> None:
    found = client.get("/v1/models").json()
    assert found["object"] == "list"
    assert {"tiny", "other"} <= {item["id"] for item in found["data"]}
    assert client.get("/v1/models/tiny").json()["owned_by"] == "sdlite"
    assert "unknown model" in refused(client.get("/v1/models/none"), 404)["message"]


@pytest.mark.parametrize(
    "status, body, param",
    [
        (422, {}, "prompt"),
        (422, {"prompt": "a", "n": 0}, "n"),
        (400, {"prompt": "a", "size": "big"}, None),
        (400, {"prompt": "a", "size": "65x64"}, None),
        (400, {"prompt": "a", "background": "transparent"}, None),
        (404, {"prompt": "a", "model": "nothing"}, "model"),
        (404, {"prompt": "a", "sampler": "nothing"}, "sampler"),
        (422, {"prompt": "a", "n": 17}, None),
        (422, {"prompt": "a", "size": "4096x4096"}, None),
        (422, {"prompt": "a" * 20_001}, None),
    ],
)
def test_refusals(client: Any, status: int, body: dict[str, Any], param: str | None) -> None:
    error = refused(client.post(IMAGES + "generations", json=body), status)
    assert error["param"] == param and error["type"] == "invalid_request_error"


def test_bad_forms(serve: Any) -> None:
    client = serve(limits=Limits(input_images=2))
    image = Image.new("RGB", (64, 64))
    post = client.post
    data = {"prompt": "a"}
    assert refused(post(IMAGES + "edits", data=data), 400)["code"] == "missing_image"
    files = {"image": file(image), "mask": file(image)}
    assert "transparent" in refused(post(IMAGES + "edits", data=data, files=files), 400)["message"]
    two = [("image[]", file(image)), ("image[]", file(image))]
    assert "more than one" in refused(post(IMAGES + "edits", data=data, files=two), 400)["message"]
    many = [("image", file(image))] * 3
    refused(post(IMAGES + "edits", data=data, files=many), 400)
    wrong = {"image": ("x.png", b"no picture", "image/png")}
    refused(post(IMAGES + "edits", data=data, files=wrong), 422)
    head = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(post(IMAGES + "edits", content=b"--x\r\nnonsense", headers=head), 422)
    head["Content-Type"] = "multipart/form-data"
    refused(post(IMAGES + "edits", content=b"--x\r\nnonsense", headers=head), 400)
    refused(post(IMAGES + "variations", data={"n": "many"}, files={"image": file(image)}), 422)


def test_errors_of_the_guard_have_the_shape_too(client: Any) -> None:
    refused(client.get("/v1/models", headers={"Host": "evil.example"}), 421)
    assert refused(client.get("/v1/nothing"), 404)["type"] == "invalid_request_error"
