"""A mixed load: many clients, every API, some hang up in the middle, some cancel.

``python -m benchmarks.server_load [--clients 16] [--requests 200]``. What is drawn is chosen
beforehand so that the checker calls the pictures of this model wholly right when they are drawn by
a call in Python. Every picture that is kept has to be that one, and is read by the checker again;
no answer may be wrong; and memory must not grow with the number of jobs.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import random
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

import sdlite
from benchmarks.machine import machine
from benchmarks.quality.checker import judge
from benchmarks.quality.judge_folder import load_prompts
from benchmarks.quality.likeness import psnr
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.serving import Running, serving
from sdlite.types import Edit, Request

SLOPE_TARGET = 50_000.0
SETTLED_JOBS = 20
"""Jobs after which memory should not grow any more."""
GONE_SHARE, CANCEL_SHARE = 0.2, 0.1
LIKENESS = 50.0
KINDS = ("txt2img", "img2img", "openai", "stream", "native")
PATIENCE = 900.0


@dataclass(frozen=True)
class Case:
    """A request whose picture is wholly right."""

    prompt: str
    seed: int
    edit: bool
    """Whether it begins with a grey picture."""
    picture: Image.Image


@dataclass
class Found:
    """What happened."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    """Jobs that had ended, and private bytes then."""

    def note(self, words: str) -> None:
        with self.lock:
            self.wrong.append(words)


def grey(size: int) -> Image.Image:
    return Image.new("RGB", (size, size), (120, 120, 120))


def as_text(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def cases(pipe: sdlite.Pipeline, count: int, steps: int) -> list[Case]:
    """Half from noise, half from a grey picture, each wholly right."""
    found: list[Case] = []
    size = pipe.package.manifest.defaults.width
    for seed, entry in enumerate(load_prompts()):
        prompt, edit = str(entry["prompt"]), len(found) % 2 == 1
        request = Request(prompt, steps=steps, seed=seed)
        if edit:
            start = Edit(grey(size), strength=1.0, resize="stretch")
            request = Request(prompt, steps=steps, seed=seed, width=size, height=size, edit=start)
        picture = pipe.generate(request).images[0]
        if not judge(prompt, picture).wrong:
            found.append(Case(prompt, seed, edit, picture))
        if len(found) == count:
            return found
    raise RuntimeError(f"only {len(found)} of {count} requests are drawn right")


class Client:
    """One of the clients, with a key and so a turn of its own."""

    def __init__(self, server: Running, key: str, steps: int, found: Found) -> None:
        self._server = server
        self._key = key
        self._steps = steps
        self._found = found

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=PATIENCE)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"X-API-Key": self._key})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def leave(self, path: str, body: Any, after: float) -> None:
        """Send a request and close the connection before the answer."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {self._key}\r\n"
        head += f"Content-Length: {len(data)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self._server.port)) as connection:
            connection.sendall(head.encode() + data)
            time.sleep(after)

    def body(self, kind: str, case: Case) -> tuple[str, dict[str, Any]]:
        """Path and body of a request."""
        body: dict[str, Any] = {"prompt": case.prompt, "seed": case.seed, "steps": self._steps}
        if kind == "img2img":
            size = case.picture.width
            body |= {"init_images": [as_text(grey(size))], "denoising_strength": 1.0}
            return "/sdapi/v1/img2img", {**body, "width": size, "height": size}
        if kind == "txt2img":
            return "/sdapi/v1/txt2img", body
        if kind == "native":
            return "/api/v1/jobs", body
        if kind == "stream":
            body |= {"stream": True, "partial_images": 2}
        return "/v1/images/generations", body

    def keep(self, kind: str, case: Case) -> Image.Image | None:
        """Ask and take the picture."""
        path, body = self.body(kind, case)
        status, data = self.ask("POST", path, body)
        if status not in (200, 202):
            self._found.note(f"{kind} was answered {status}: {data[:200]!r}")
            return None
        if kind in ("txt2img", "img2img"):
            return _opened(base64.b64decode(json.loads(data)["images"][0]))
        if kind == "openai":
            return _opened(base64.b64decode(json.loads(data)["data"][0]["b64_json"]))
        if kind == "stream":
            events = [json.loads(line[6:]) for line in data.split(b"\n") if line[:6] == b"data: "]
            if not events or events[-1]["type"] != "image_generation.completed":
                self._found.note(f"a stream ended with {str(events[-1:])[:200]}")
                return None
            return _opened(base64.b64decode(events[-1]["b64_json"]))
        name = json.loads(data)["id"]
        _, told = self.ask("GET", f"/api/v1/jobs/{name}/events?preview=1")
        if b"event: done" not in told:
            self._found.note(f"events of a job ended with {told[-200:]!r}")
            return None
        status, data = self.ask("GET", f"/api/v1/jobs/{name}/images/0")
        return _opened(data)

    def cancel(self, case: Case, after: float) -> None:
        """Ask, wait a little, and cancel."""
        path, body = self.body("native", case)
        status, data = self.ask("POST", path, body)
        time.sleep(after)
        status, data = self.ask("DELETE", f"/api/v1/jobs/{json.loads(data)['id']}")
        if status != 200:
            self._found.note(f"cancelling was answered {status}: {data[:200]!r}")

    def remember(self) -> None:
        """Note the server's memory."""
        text = self.ask("GET", "/metrics")[1].decode()
        figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
        jobs = sum(float(v) for name, v in figures.items() if name.startswith("sdlite_jobs_total"))
        private = float(figures.get('sdlite_memory_bytes{kind="private"}', "nan"))
        with self._found.lock:
            self._found.memory.append((jobs, private))


def _opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image.convert("RGB")


def play(
    server: Running, known: Sequence[Case], clients: int, requests: int, steps: int, seed: int
) -> Found:
    """Carry out the load; every client is a thread."""
    found = Found()
    chance = random.Random(seed)
    plan = [(chance.random(), chance.choice(KINDS), chance.random()) for _ in range(requests)]
    plain = [case for case in known if not case.edit]
    edits = [case for case in known if case.edit]

    def one(number: int) -> None:
        share, kind, moment = plan[number]
        client = Client(server, f"key-{number % clients}", steps, found)
        case = (edits if kind == "img2img" else plain)[number % len(plain)]
        try:
            if share < GONE_SHARE:
                with found.lock:
                    found.kinds["gone"] += 1
                client.leave(*client.body(kind if kind != "native" else "stream", case), moment)
            elif share < GONE_SHARE + CANCEL_SHARE:
                with found.lock:
                    found.kinds["cancelled"] += 1
                client.cancel(case, moment)
            else:
                with found.lock:
                    found.kinds[kind] += 1
                image = client.keep(kind, case)
                if image is not None:
                    _judge(image, case, kind, found)
            client.remember()
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            found.note(f"{kind}: {type(error).__name__}: {error}")

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(requests)))
    _settle(Client(server, "key-0", steps, found), found)
    return found


def _judge(image: Image.Image, case: Case, kind: str, found: Found) -> None:
    near = psnr(case.picture, image)
    if near < LIKENESS:
        found.note(f"{kind}: {near:.1f} dB to the picture of {case.prompt!r}")
    wrong = judge(case.prompt, image).wrong
    if wrong:
        found.note(f"{kind}: {case.prompt!r}: {', '.join(wrong)}")


def _settle(client: Client, found: Found) -> None:
    """Nothing runs and nothing waits in the end."""
    end = time.monotonic() + 60
    while True:
        text = client.ask("GET", "/metrics")[1].decode()
        if "sdlite_jobs_running 0\n" in text and "sdlite_jobs_waiting 0\n" in text:
            break
        if time.monotonic() > end:
            found.note("jobs still run or wait though nobody is there")
            break
        time.sleep(0.1)
    if 'sdlite_jobs_total{state="failed"} 0' not in text:
        found.note("jobs failed")


def slope(memory: Sequence[tuple[float, float]]) -> float:
    """Bytes a job adds after the first ones."""
    settled = [point for point in memory if point[0] > SETTLED_JOBS] or list(memory)
    return statistics.linear_regression(*zip(*sorted(settled), strict=True)).slope


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_load", description=__doc__)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--note", action="append", default=[], help="what to say of this run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    before = machine()
    with sdlite.load(given.model, threads=given.threads) as pipe:
        known = cases(pipe, 12, given.steps)
    keys = [word for n in range(given.clients) for word in ("--api-key", f"key-{n}")]
    options = ("--threads", str(given.threads), "--max-queue", "400", *keys)
    begun = time.monotonic()
    with serving(given.model, *options) as server:
        found = play(server, known, given.clients, given.requests, given.steps, given.seed)
    seconds = time.monotonic() - begun
    for words in found.wrong[:20]:
        print(words)
    print(dict(found.kinds))
    write(
        given.output / "server-load.json",
        "server_load",
        f"Server: {given.requests} mixed requests from {given.clients} clients",
        [
            Measurement(
                "load_wrong",
                f"{given.requests} mixed requests, {given.clients} clients: wrong answers",
                "count",
                (float(len(found.wrong)),),
                target=0.0,
                note="; ".join(found.wrong[:5]),
            ),
            Measurement(
                "load_slope_bytes",
                f"The same: memory a job adds, after {SETTLED_JOBS} jobs",
                "bytes",
                (slope(found.memory),),
                target=SLOPE_TARGET,
            ),
            Measurement(
                "load_requests",
                "Requests",
                "count",
                (float(given.requests),),
                note=", ".join(f"{kind} {n}" for kind, n in sorted(found.kinds.items())),
            ),
            Measurement("load_seconds", "Seconds for all of it", "s", (seconds,)),
        ],
        machine_before=before,
        quick=given.requests < 200,
        notes=given.note,
    )
    return 1 if found.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
