"""The native API on the fake engine: jobs, events, plans, lists."""

from __future__ import annotations

import io
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra [server] is not installed")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")

import sdlite
from sdlite.server import kept
from sdlite.server.guard import Access
from sdlite.server.native.schema import EditBody, HiresBody, JobBody
from sdlite.types import Edit, Hires, Request
from tests.export.makers import safetensors_bytes
from tests.server.helpers import SLOW, opened, picture, until

API = "/api/v1/"


def submitted(client: Any, **body: Any) -> dict[str, Any]:
    answer = client.post(API + "jobs", json={"prompt": "a", "seed": 5, "steps": 3, **body})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"{API}jobs/{job['id']}"
    return job


def ended(client: Any, job: dict[str, Any]) -> dict[str, Any]:
    path = f"{API}jobs/{job['id']}"
    until(lambda: client.get(path).json()["state"] not in ("queued", "running"))
    found: dict[str, Any] = client.get(path).json()
    return found


def error(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


def test_every_field_of_a_request_can_be_sent() -> None:
    for body, noun in ((JobBody, Request), (EditBody, Edit), (HiresBody, Hires)):
        lacking = {item.name for item in fields(noun)} - body.model_fields.keys()
        # Embeddings are named in prompts; a path could be that of any file.
        assert lacking <= {"embeddings"}


def test_a_job_from_asking_to_picture(client: Any) -> None:
    job = ended(client, submitted(client, images=2, variation_strength=0.0))
    assert job["state"] == "done" and job["share"] == 1.0 and job["error"] is None
    assert [image["seed"] for image in job["images"]] == [5, 6]
    answer = client.get(job["images"][1]["url"])
    assert answer.headers["content-type"] == "image/png"
    with sdlite.load("tiny", runtime="null") as pipe:
        (expected,) = pipe.generate(Request("a", seed=6, steps=3)).images
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(answer.content))), np.asarray(expected)
    )
    webp = client.get(job["images"][0]["url"] + "?format=webp")
    assert Image.open(io.BytesIO(webp.content)).format == "WEBP"
    assert client.get(API + "jobs").json()["jobs"][0]["id"] == job["id"]


def test_edits_and_second_passes(client: Any) -> None:
    edit = {"image": picture((64, 64), "blue"), "mask": picture((64, 64), "white")}
    job = ended(client, submitted(client, edit=edit))
    assert job["state"] == "done"
    job = ended(client, submitted(client, hires={"scale": 1.5}))
    shown = Image.open(io.BytesIO(client.get(job["images"][0]["url"]).content))
    assert shown.size == (96, 96)


def test_events(serve: Any) -> None:
    client = serve(SLOW)
    job = submitted(client, steps=5)
    answer = client.get(f"{API}jobs/{job['id']}/events?preview=1")
    blocks = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    names = [block[0].removeprefix("event: ") for block in blocks]
    assert set(names[:-1]) == {"progress"} and names[-1] == "done"
    views = [json.loads(block[1].removeprefix("data: ")) for block in blocks]
    assert [view["step"] for view in views] == sorted(view["step"] for view in views)
    assert opened(views[-3]["preview"]).size == (64, 64)
    assert views[-1]["images"]


def test_cancelling(serve: Any) -> None:
    client = serve(SLOW)
    jobs = [submitted(client, steps=150, guidance=1) for _ in range(3)]
    path = f"{API}jobs/"
    until(lambda: client.get(path + jobs[0]["id"]).json()["step"] > 1)
    last = client.get(path + jobs[2]["id"]).json()
    assert last["position"] == 1 and last["seconds_left"] > 0
    assert client.delete(path + jobs[1]["id"]).json()["state"] == "cancelled"
    client.delete(path + jobs[0]["id"])
    assert ended(client, jobs[0])["state"] == "cancelled"
    assert "has no pictures" in error(client.get(path + jobs[0]["id"] + "/images/0"), 409)
    client.delete(path + jobs[2]["id"])


def test_a_failed_job_says_why(serve: Any) -> None:
    client = serve({"component": "unet", "fail_call": "1"})
    job = ended(client, submitted(client))
    assert job["state"] == "failed" and "unet" in job["error"]


def test_jobs_of_others_are_not_there(serve: Any) -> None:
    client = serve(access=Access(api_keys=("one", "two")))
    client.headers["X-API-Key"] = "one"
    job = submitted(client)
    client.headers["X-API-Key"] = "two"
    assert client.get(API + "jobs").json()["jobs"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/images/0")):
        assert "no job" in error(client.request(method, f"{API}jobs/{job['id']}{path}"), 404)


def test_old_jobs_are_forgotten(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_JOBS", 2)
    first = submitted(client)
    for _ in range(4):
        ended(client, submitted(client))
    assert "no job" in error(client.get(f"{API}jobs/{first['id']}"), 404)
    assert len(client.get(API + "jobs").json()["jobs"]) == 3


def test_plan(client: Any) -> None:
    found = client.post(API + "plan", json={"prompt": "a", "images": 2}).json()
    assert found["model"] == "tiny" and found["peak_bytes"] > 0 and found["reasons"]
    assert found["seconds"] is None
    ended(client, submitted(client))
    assert client.post(API + "plan", json={"prompt": "a"}).json()["seconds"] > 0


def test_models_and_devices(client: Any) -> None:
    models = {item["name"]: item for item in client.get(API + "models").json()["models"]}
    assert models["tiny"]["family"] == "sd1" and models["other"]["width"] == 32
    engines = {item["name"]: item for item in client.get(API + "devices").json()["engines"]}
    assert engines["null"]["devices"]


def test_loras_are_names(client: Any, place: Path) -> None:
    folder = place / "models" / "Lora"
    folder.mkdir()
    (folder / "nice.safetensors").write_bytes(b"")
    (place / "models" / "embeddings").mkdir()
    (place / "models" / "embeddings" / "bad-hands.pt").write_bytes(b"")
    (found,) = client.get("/sdapi/v1/loras").json()
    assert found["name"] == "nice" and found["path"].endswith("nice.safetensors")
    data = safetensors_bytes({"emb_params": np.zeros((3, 768), np.float32)})
    (place / "models" / "embeddings" / "good.safetensors").write_bytes(data)
    loaded = client.get("/sdapi/v1/embeddings").json()["loaded"]
    assert loaded["bad-hands"]["vectors"] is None
    assert (loaded["good"]["vectors"], loaded["good"]["shape"]) == (3, 768)
    for name in ("../models/Lora/nice", str(folder / "nice.safetensors"), "nothing"):
        job = ended(client, submitted(client, loras=[{"name": name}]))
        assert job["state"] == "failed" and "unknown LoRA" in job["error"]
    wrong = {"prompt": "a", "loras": [{"name": "nice", "path": "/etc/passwd"}]}
    assert "loras.0.path" in error(client.post(API + "jobs", json=wrong), 422)


def test_loras_say_what_training_wrote(client: Any, place: Path) -> None:
    folder = place / "models" / "Lora"
    folder.mkdir()
    words = {"ss_output_name": "Other", "ss_tag_frequency": '{"a": {"cat": 3}}', "odd": "{"}
    down = {"lora_unet_x.lora_down.weight": np.zeros((1, 1), np.float32)}
    (folder / "nice.safetensors").write_bytes(safetensors_bytes(down, words))
    (found,) = client.get("/sdapi/v1/loras").json()
    assert (found["name"], found["alias"]) == ("nice", "Other")
    assert found["metadata"] == words | {"ss_tag_frequency": {"a": {"cat": 3}}}


def test_refusals(client: Any) -> None:
    jobs = API + "jobs"
    assert "prompt" in error(client.post(jobs, json={}), 422)
    assert "promt" in error(client.post(jobs, json={"prompt": "a", "promt": "b"}), 422)
    assert "multiple of 8" in error(client.post(jobs, json={"prompt": "a", "width": 9}), 400)
    body = {"prompt": "a", "edit": {"image": "%"}}
    assert "edit.image" in error(client.post(jobs, json=body), 422)
    assert "no job" in error(client.get(jobs + "/nothing"), 404)
    job = ended(client, submitted(client))
    assert "no picture 7" in error(client.get(f"{jobs}/{job['id']}/images/7"), 404)
    assert "format" in error(client.get(f"{jobs}/{job['id']}/images/0?format=exe"), 422)
