"""Whether jobs survive ``kill -9``: a run of many jobs, the server killed at random points.

``python -m benchmarks.server_state [--rounds 10] [--jobs 50]``. Every round has a folder of its
own. Jobs are sent, the server is killed and started again a few times meanwhile, and when all is
done the folder is looked through: every job that was accepted has exactly one result, every
picture is the one the same call in Python draws, and no file is damaged or left over.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import json
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

import sdlite
from benchmarks.machine import machine
from benchmarks.quality.likeness import psnr
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.serving import PROGRAM, Running, serving
from sdlite.types import Edit, Request

PROMPT = "a large red circle on a blue background"
LIKENESS = 50.0
"""Decibels; another order of threads may change last bits."""
PATIENCE = 600.0


@dataclass
class Round:
    """What happened in one round."""

    accepted: dict[str, int] = field(default_factory=dict)
    """Job to which of the bodies it is, as the server answered."""
    unheard: int = 0
    """Requests whose answer the kill swallowed: the job may be there or not."""
    kills: int = 0
    """How often the server was killed."""
    wrong: list[str] = field(default_factory=list)
    """What should not be."""


def bodies(count: int, steps: int, size: int, seed: int) -> list[dict[str, Any]]:
    """Requests: mostly short, every fifth ten times as long, every fourth from a picture."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        body: dict[str, Any] = {"prompt": PROMPT, "seed": number, "steps": steps}
        if number % 5 == 4:
            body["steps"] = steps * 10
        if number % 4 == 3:
            colour = tuple(chance.randrange(256) for _ in range(3))
            stream = io.BytesIO()
            Image.new("RGB", (size, size), colour).save(stream, "PNG")
            text = base64.b64encode(stream.getvalue()).decode()
            body["edit"] = {"image": text, "strength": 0.8}
        found.append(body)
    return found


def expected(pipe: sdlite.Pipeline, asked: Sequence[Mapping[str, Any]]) -> list[Image.Image]:
    """The same pictures drawn in this process."""
    found = []
    for body in asked:
        fields = dict(body)
        edit = fields.pop("edit", None)
        if edit is not None:
            picture = Image.open(io.BytesIO(base64.b64decode(edit["image"])))
            fields["edit"] = Edit(picture, strength=edit["strength"])
        found.append(pipe.generate(Request(**fields)).images[0])
    return found


def play(
    model: str,
    asked: Sequence[Mapping[str, Any]],
    pictures: Sequence[Image.Image],
    folder: Path,
    *,
    kills: int,
    seed: int,
    between: tuple[float, float],
    options: Sequence[str] = (),
    program: Sequence[str] = PROGRAM,
) -> Round:
    """One round.

    Args:
        model: what to draw with.
        asked: bodies of the jobs.
        pictures: what should come of them.
        folder: for ``--state``; empty.
        kills: how often the server is killed before the jobs may end.
        seed: of the moments.
        between: shortest and longest time from a start to the kill, in seconds.
        options: further options of the server.
        program: how sdlite is started.
    """
    chance = random.Random(seed)
    found = Round()
    left = list(enumerate(asked))
    options = ("--state", str(folder), "--save-every", "0.05", "--max-queue", "200", *options)
    for number in range(kills + 1):
        with serving(model, *options, program=program) as server:
            last = number == kills
            sender = threading.Thread(target=_send, args=(server, left, found))
            sender.start()
            if last:
                sender.join()
                _wait(server, found)
                _check(server, asked, pictures, found)
            else:
                time.sleep(chance.uniform(*between))
                server.process.kill()
                found.kills += 1
                sender.join()
    _check_folder(folder, found)
    return found


def _send(server: Running, left: list[tuple[int, Mapping[str, Any]]], found: Round) -> None:
    """Send what was not sent yet, one after the other, until the server is gone."""
    while left:
        number, body = left[0]
        try:
            status, data = server.ask("POST", "/api/v1/jobs", body)
        except (OSError, http.client.HTTPException):
            found.unheard += 1
            return
        if status != 202:
            found.wrong.append(f"job {number} was answered {status}: {data[:200]!r}")
        else:
            found.accepted[json.loads(data)["id"]] = number
        left.pop(0)
        time.sleep(0.01)


def _jobs(server: Running) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(server.ask("GET", "/api/v1/jobs?limit=1000")[1])[
        "jobs"
    ]
    return listed


def _wait(server: Running, found: Round) -> None:
    end = time.monotonic() + PATIENCE
    while any(job["state"] in ("queued", "running") for job in _jobs(server)):
        if time.monotonic() > end:
            found.wrong.append(f"not everything was done after {PATIENCE:g} seconds")
            return
        time.sleep(0.05)


def _check(
    server: Running,
    asked: Sequence[Mapping[str, Any]],
    pictures: Sequence[Image.Image],
    found: Round,
) -> None:
    jobs = {job["id"]: job for job in _jobs(server)}
    for name, number in found.accepted.items():
        if name not in jobs:
            found.wrong.append(f"job {name} was accepted and is lost")
        elif jobs[name]["seed"] != asked[number]["seed"]:
            found.wrong.append(f"job {name} is another one")
    if len(jobs) > len(found.accepted) + found.unheard:
        found.wrong.append(f"{len(jobs)} jobs of {len(found.accepted)} that were accepted")
    for name, job in jobs.items():
        if job["state"] != "done" or len(job["images"]) != 1:
            found.wrong.append(f"job {name}: {job['state']}, {len(job['images'])} pictures")
            continue
        status, data = server.ask("GET", job["images"][0]["url"])
        if status != 200:
            found.wrong.append(f"picture of job {name} was answered {status}")
            continue
        near = psnr(pictures[job["seed"]], Image.open(io.BytesIO(data)).convert("RGB"))
        if near < LIKENESS:
            found.wrong.append(f"picture of job {name}: {near:.1f} dB to the one it should be")


def _check_folder(folder: Path, found: Round) -> None:
    """Nothing is damaged, nothing is left over."""
    with contextlib.closing(sqlite3.connect(folder / "jobs.sqlite")) as base:
        verdict = base.execute("PRAGMA integrity_check").fetchone()[0]
        if verdict != "ok":
            found.wrong.append(f"the database: {verdict}")
        names = {f"{job}-{n}.png" for job, n in base.execute("SELECT job, number FROM pictures")}
        inputs = base.execute("SELECT count(*) FROM inputs").fetchone()[0]
    there = {path.name for path in (folder / "pictures").iterdir()}
    if there != names:
        found.wrong.append(f"files and rows differ: {sorted(there ^ names)[:5]}")
    for path in (folder / "pictures").glob("*.png"):
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError) as error:
            found.wrong.append(f"{path.name}: {error}")
    left = [path.name for path in (folder / "unfinished").iterdir()]
    if left or inputs:
        found.wrong.append(f"left over: {left[:5]}, {inputs} inputs")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_state", description=__doc__)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--steps", type=int, default=3, help="steps of a short job")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kills", type=int, default=3, help="kills a round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--note", action="append", default=[], help="what to say of this run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    before = machine()
    wrong: list[str] = []
    jobs = kills = 0
    threads = ("--threads", str(given.threads))
    with sdlite.load(given.model, threads=given.threads) as pipe:
        size = pipe.package.manifest.defaults.width
        asked = bodies(given.jobs, given.steps, size, given.seed)
        pictures = expected(pipe, asked)
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            played = play(
                given.model,
                asked,
                pictures,
                Path(folder) / "state",
                kills=given.kills,
                seed=given.seed * 1000 + number,
                between=(0.05, 4.0),
                options=threads,
            )
        jobs += len(played.accepted)
        kills += played.kills
        wrong += played.wrong
        print(
            f"round {number + 1}: {len(played.accepted)} jobs, {played.kills} kills, "
            f"{played.unheard} unheard, {len(played.wrong)} wrong {played.wrong[:3]}",
            flush=True,
        )
    write(
        given.output / "server-state.json",
        "server_state",
        "Server: kill -9 at random points of a run, with --state",
        [
            Measurement(
                "state_wrong",
                f"kill -9, {given.rounds} runs of {given.jobs} jobs: lost, doubled or wrong",
                "count",
                (float(len(wrong)),),
                target=0.0,
                note="; ".join(wrong[:5]),
            ),
            Measurement("state_jobs", "Jobs accepted", "count", (float(jobs),)),
            Measurement("state_kills", "Kills", "count", (float(kills),)),
        ],
        machine_before=before,
        quick=given.rounds < 10 or given.jobs < 50,
        notes=given.note,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
