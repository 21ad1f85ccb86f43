"""What a stranger may not do: each limit, the host check, keys, and the log."""

from __future__ import annotations

import base64
import io
import json
import logging
import struct
import zlib
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra [server] is not installed")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")

from sdlite.server.guard import Access, hostname, same
from sdlite.server.limits import Limits
from sdlite.server.logs import log_to
from tests.server.helpers import SLOW, picture, until

API = "/sdapi/v1/"


def kind(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["errors"])


def draw(client: Any, **body: Any) -> Any:
    return client.post(API + "txt2img", json={"prompt": "x", "steps": 1, "seed": 1, **body})


def after(client: Any) -> None:
    """The next good request succeeds."""
    assert draw(client).status_code == 200


@pytest.mark.parametrize(
    "limits, body, words",
    [
        ({"steps": 4}, {"steps": 5}, "5 steps; at most 4"),
        (
            {"steps": 4},
            {"steps": 3, "enable_hr": True, "hr_second_pass_steps": 2},
            "5 steps; at most 4",
        ),
        ({"pixels": 4096}, {"width": 72, "height": 64}, "72x64; at most 4096"),
        ({"pixels": 4096}, {"enable_hr": True}, "128x128; at most 4096"),
        ({"images": 3}, {"batch_size": 2, "n_iter": 2}, "4 pictures; 1 to 3"),
        ({"prompt": 10}, {"prompt": "x" * 11}, "11 characters; at most 10"),
        ({"prompt": 10}, {"negative_prompt": "x" * 11}, "11 characters; at most 10"),
        ({"prompt": 10}, {"enable_hr": True, "hr_prompt": "x" * 11}, "11 characters"),
        ({"prompt_parts": 2}, {"prompt": "a AND b AND c"}, "3 prompts joined by AND; at most 2"),
        ({"prompt_parts": 1}, {"enable_hr": True, "hr_prompt": "a AND b"}, "2 prompts joined"),
        ({"prompt_breaks": 1}, {"prompt": "a BREAK b BREAK c"}, "2 times BREAK; at most 1"),
        ({"prompt_breaks": 0}, {"negative_prompt": "a BREAK b"}, "1 times BREAK; at most 0"),
        ({"body_values": 50}, {"script_args": [0] * 60}, "more than 50 values"),
    ],
)
def test_sizes(serve: Any, limits: dict[str, int], body: dict[str, Any], words: str) -> None:
    client = serve(limits=Limits(**limits))
    status = 413 if "body_values" in limits else 422
    assert words in kind(draw(client, **body), status)
    after(client)


def test_body_size(serve: Any) -> None:
    client = serve(limits=Limits(body_bytes=2000))
    assert "more than 2000 bytes" in kind(draw(client, prompt="x" * 2000), 413)

    def pieces() -> Any:
        # Without a length: it has to be counted while it comes.
        yield b'{"prompt": "'
        for _ in range(100):
            yield b"x" * 100
        yield b'"}'

    assert "more than 2000 bytes" in kind(client.post(API + "txt2img", content=pieces()), 413)
    after(client)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"{", "no JSON"),
        (b"[1]", "body"),
        (b'"x"', "body"),
        (b"[" * 100_000, "no JSON"),
        (b'{"steps": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"cfg_scale": Infinity}', "no JSON"),
        (b'{"prompt": {"a": 1}}', "prompt"),
        (b'{"seed": 1e400}', "seed"),
        (b'{"seed": -5}', "seed"),
        (b'{"steps": 2.5}', "steps"),
        (b'{"batch_size": 0}', "batch_size"),
        (b"\xff\xfe", "no JSON"),
    ],
)
def test_malformed_bodies(client: Any, content: bytes, words: str) -> None:
    assert words in kind(client.post(API + "txt2img", content=content), 422)
    after(client)


def test_lone_surrogates_and_nul_are_drawn(client: Any) -> None:
    content = rb'{"prompt": "\ud800 \u0000", "steps": 1}'
    assert client.post(API + "txt2img", content=content).status_code == 200


def png(width: int, height: int) -> bytes:
    """A file of a few bytes that says it has many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def test_picture_bombs(serve: Any) -> None:
    client = serve(limits=Limits(input_pixels=10_000))

    def edit(data: bytes) -> Any:
        text = base64.b64encode(data).decode()
        return client.post(API + "img2img", json={"init_images": [text], "steps": 1})

    assert "5000x5000 pixels; at most 10000" in kind(edit(png(5000, 5000)), 422)
    assert "too many pixels" in kind(edit(png(50_000, 50_000)), 422)
    assert "damaged picture" in kind(edit(png(64, 64)), 422)
    assert "no picture of a known format" in kind(edit(b"%!PS-Adobe-3.0 EPSF-3.0\n"), 422)
    body = {"image": picture((64, 64)), "upscaler_1": "Lanczos", "upscaling_resize": 16}
    assert "1024x1024" in kind(client.post(API + "extra-single-image", json=body), 422)
    body |= {"resize_mode": 1, "upscaling_resize_w": 10**9, "upscaling_resize_h": 1}
    assert "pixels are made" in kind(client.post(API + "extra-single-image", json=body), 422)
    after(client)


def test_how_many_pictures_are_read(serve: Any) -> None:
    client = serve(limits=Limits(input_images=2))
    body = {"init_images": [picture()] * 3}
    assert "3 pictures; at most 2" in kind(client.post(API + "img2img", json=body), 422)
    body = {"imageList": [{"data": picture()}] * 3}
    assert "3 pictures" in kind(client.post(API + "extra-batch-images", json=body), 422)


def test_pixels_of_all_pictures(serve: Any) -> None:
    client = serve(limits=Limits(request_pixels=3 * 4096))
    fine = {"init_images": [picture()] * 2, "mask": picture(), "steps": 1, "batch_size": 2}
    assert client.post(API + "img2img", json=fine).status_code == 200
    body = {**fine, "init_images": [picture()] * 3}
    words = "pictures of a request may have 12288 pixels together"
    assert words in kind(client.post(API + "img2img", json=body), 422)
    # Those of a batch are enlarged one after the other.
    body = {"imageList": [{"data": picture()}] * 4}
    assert client.post(API + "extra-batch-images", json=body).status_code == 200


def test_pixels_of_the_queue(serve: Any) -> None:
    client = serve(SLOW, limits=Limits(queue_pixels=4096, steps=1000))
    job = {"prompt": "x", "steps": 900, "guidance": 1.0}
    first = client.post("/api/v1/jobs", json=job)
    until(lambda: client.server.room.running())
    body = {**job, "edit": {"image": picture()}}
    assert client.post("/api/v1/jobs", json=body).status_code == 202
    answer = client.post("/api/v1/jobs", json=body)
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
    assert "have 4096 pixels already" in answer.json()["error"]["message"]
    # Without a picture there is a place.
    assert client.post("/api/v1/jobs", json=job).status_code == 202
    assert first.status_code == 202


def test_bytes_of_all_bodies(serve: Any) -> None:
    client = serve(limits=Limits(bodies_bytes=1000))
    answer = draw(client, prompt="x" * 1000)
    assert "too large together" in kind(answer, 503) and answer.headers["Retry-After"]
    # What was answered is counted no longer.
    for _ in range(3):
        assert draw(client, prompt="x" * 600).status_code == 200


def test_no_url_is_fetched(client: Any) -> None:
    for url in ("http://127.0.0.1/x.png", "https://example.org/x", "file:///etc/passwd"):
        answer = client.post(API + "img2img", json={"init_images": [url]})
        assert "URLs are not fetched" in kind(answer, 422)


@pytest.mark.parametrize("name", ["../tiny", "/etc", "..", "models/tiny", "tiny/../tiny", "."])
def test_names_are_no_paths(client: Any, name: str) -> None:
    body = {"override_settings": {"sd_model_checkpoint": name}}
    assert "unknown model" in kind(draw(client, **body), 404)


def test_a_full_queue(serve: Any) -> None:
    client = serve(SLOW, limits=Limits(queue=1, queue_of_client=1))
    room = client.server.room
    from sdlite.server.jobs import Order
    from sdlite.types import Request

    long = Order("tiny", (Request("x", steps=900, guidance=1.0, seed=1),), "b", "test", 1.0)
    jobs = [room.submit(long)]
    until(lambda: room.running())
    jobs.append(room.submit(long))
    answer = draw(client)
    assert "queue is full" in kind(answer, 503)
    assert int(answer.headers["Retry-After"]) >= 1
    for job in jobs:
        room.cancel(job)
    after(client)


def test_time_of_a_job(serve: Any) -> None:
    client = serve(SLOW, limits=Limits(job_seconds=0.2, steps=1000))
    assert "longer than 0.2 seconds" in kind(draw(client, steps=900), 504)
    after(client)


@pytest.mark.parametrize(
    "host, fine",
    [
        ("localhost", True),
        ("localhost:7860", True),
        ("127.0.0.1:7860", True),
        ("[::1]:7860", True),
        ("192.168.1.5:7860", True),
        ("box.lan", True),
        ("BOX.lan:80", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:7860", False),
        ("user@localhost", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_the_name_it_goes_by(serve: Any, host: str, fine: bool) -> None:
    client = serve(access=Access(hosts=frozenset({"box.lan"})))
    answer = client.get("/healthz", headers={"Host": host})
    assert answer.status_code == (200 if fine else 421)


def test_host_names() -> None:
    assert hostname("LocalHost.:80") == "localhost"
    assert hostname("a/b") == "" and hostname("x:notaport") == ""


def test_pages_of_other_sites(serve: Any) -> None:
    client = serve()
    strange = {"Origin": "https://evil.example"}
    assert "may not use" in kind(client.get(API + "samplers", headers=strange), 403)
    own = {"Origin": "http://localhost", "Host": "localhost"}
    answer = client.get(API + "samplers", headers=own)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    named = serve(access=Access(origins=frozenset({"https://good.example"})))
    good = {"Origin": "https://good.example"}
    answer = named.get(API + "samplers", headers=good)
    assert answer.headers["access-control-allow-origin"] == "https://good.example"
    preflight = {**good, "Access-Control-Request-Method": "POST"}
    assert named.options(API + "txt2img", headers=preflight).status_code == 200
    assert named.get(API + "samplers", headers=strange).status_code == 403


def test_keys(serve: Any) -> None:
    client = serve(access=Access(api_keys=("first", "sécond"), users=(("me", "pass:word"),)))

    def status(**headers: str) -> int:
        found = client.get(API + "samplers", headers=headers)
        return int(found.status_code)

    def basic(user: str, password: str) -> str:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    refused = client.get(API + "samplers")
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic")
    assert status(Authorization="Bearer first") == 200
    assert client.get(API + "samplers", headers={"X-API-Key": "sécond".encode()}).status_code == 200
    assert status(Authorization=basic("anybody", "first")) == 200
    assert status(Authorization=basic("me", "pass:word")) == 200
    for wrong in (
        "Bearer firs",
        "Bearer ",
        "Bearer",
        "Basic !!!",
        basic("me", "pass"),
        basic("you", "pass:word"),
        basic("", ""),
    ):
        assert status(Authorization=wrong) == 401, wrong
    assert client.get("/healthz").status_code == 200
    assert client.get("/metrics").status_code == 401
    assert client.get("/nowhere").status_code == 401


def test_secrets_are_compared_whole() -> None:
    assert same("a\udcff", "a\udcff") and not same("a", "ab") and not same("", "a")


def test_clients_are_told_apart_by_key(serve: Any) -> None:
    client = serve(SLOW, access=Access(api_keys=("one", "two")), limits=Limits(steps=1000))
    from concurrent.futures import ThreadPoolExecutor

    def get(key: str, path: str = "progress", method: str = "GET", **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}"}
        return client.request(method, API + path, headers=headers, **more)

    with ThreadPoolExecutor(1) as pool:
        body = {"prompt": "x", "steps": 900, "cfg_scale": 1}
        job = pool.submit(get, "one", "txt2img", "POST", json=body)
        until(lambda: get("one").json()["progress"] > 0)
        assert get("two").json()["state"]["job_count"] == 0
        get("two", "interrupt", "POST")
        assert not client.server.room.running()[0].interrupted
        get("one", "interrupt", "POST")
        assert len(job.result(30).json()["images"]) == 1


def test_metrics(client: Any) -> None:
    after(client)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert 'sdlite_jobs_total{state="done"} 1' in lines
    assert "sdlite_pictures_total 1" in lines
    assert 'sdlite_http_responses_total{status="200"} 1' in lines
    assert "sdlite_models_open 1" in lines and "sdlite_jobs_waiting 0" in lines
    figures = dict(line.split() for line in lines if line.count(" ") == 1)
    computing = float(figures["sdlite_engine_seconds_total"])
    assert 0 < computing <= float(figures["sdlite_job_seconds_total"])


def test_the_log_has_no_prompts(client: Any) -> None:
    stream = io.StringIO()
    logger = logging.getLogger("sdlite.server")
    before = logger.handlers[:], logger.level, logger.propagate
    log_to(stream)
    try:
        draw(client, prompt="a secret prompt", sampler_name="secret sampler")
        draw(client, prompt="a secret prompt")
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {"request", "job ended", "model opened"} <= {line["event"] for line in lines}
    assert all({"time", "level", "event"} <= line.keys() for line in lines)
    assert "secret" not in stream.getvalue()


def test_prompts_are_in_the_log_where_they_are_asked_for(serve: Any) -> None:
    stream = io.StringIO()
    logger = logging.getLogger("sdlite.server")
    before = logger.handlers[:], logger.level, logger.propagate
    client = serve(log_prompts=True)
    log_to(stream)
    try:
        draw(client, prompt="a tree", negative_prompt="leaves")
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    (entry,) = (line for line in found if line["event"] == "prompts")
    assert entry["prompts"] == [{"prompt": "a tree", "negative_prompt": "leaves"}]
    assert entry["job"] in {line.get("job") for line in found if line["event"] == "job ended"}


def test_errors_tell_nothing_of_the_inside(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("/home/me/secret")

    from sdlite.pipeline import Pipeline

    monkeypatch.setattr(Pipeline, "generate", broken)
    answer = draw(client)
    assert answer.status_code == 500 and "secret" not in answer.text


def test_openapi_names_every_route(client: Any) -> None:
    described = client.get("/openapi.json").json()
    assert described["openapi"] == "3.1.0"
    assert {"get", "post"} <= described["paths"][API + "options"].keys()
    reference = described["paths"][API + "txt2img"]["post"]["requestBody"]["content"]
    assert reference["application/json"]["schema"] == {"$ref": "#/components/schemas/Txt2Img"}
    assert "steps" in described["components"]["schemas"]["Txt2Img"]["properties"]


def test_a_body_that_does_not_come(serve: Any) -> None:
    import asyncio

    client = serve(limits=Limits(body_seconds=0.05))
    headers = [(b"host", b"localhost"), (b"content-length", b"10")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": API + "txt2img",
        "raw_path": b"",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 408 and b"0.05 seconds" in sent[1]["body"]
    after(client)
