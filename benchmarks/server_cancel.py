"""How long a cancelled job keeps the device, with a model of full size.

``python -m benchmarks.server_cancel MODEL [--modes normal mapped]``. Jobs are carried out by the
server's engine room and cancelled at random moments of a step, as a client that goes away does it.
The time from there until the next job may begin is compared with what the engine was asked in the
same run: calls of the U-Net, of which a chain of segments makes one. Heun's method asks it twice a
step, so that waiting for the end of a step would show.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from benchmarks.machine import machine, package_identity
from benchmarks.record import RESULTS, Measurement, write
from sdlite import registry
from sdlite.engine import Artifact, LoadOptions, Runtime, Session, TensorSpec
from sdlite.home import find_model
from sdlite.package import Package
from sdlite.pipeline import Pipeline
from sdlite.planner import Budget, Preferences
from sdlite.request import complete
from sdlite.server.jobs import CANCELLED, Job, Order
from sdlite.server.limits import Limits
from sdlite.server.room import EngineRoom
from sdlite.types import Array, Device, Request

PROMPT = "a castle on a hill"
PATIENCE = 600.0
"""Seconds after which a job that does not come to a step, or to its end, counts as hanging."""


class Timed:
    """A session that notes how long its calls take."""

    def __init__(self, session: Session, seconds: list[float]) -> None:
        self._session = session
        self._seconds = seconds
        self.inputs: tuple[TensorSpec, ...] = session.inputs
        self.outputs: tuple[TensorSpec, ...] = session.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        begun = time.perf_counter()
        try:
            return self._session.run(inputs)
        finally:
            self._seconds.append(time.perf_counter() - begun)

    def close(self) -> None:
        self._session.close()


@dataclass
class Watched:
    """An engine whose calls of the U-Net are timed, graph by graph."""

    engine: Runtime
    seconds: dict[int, list[float]] = field(default_factory=dict)
    """Of each call, by the graph's place in its chain."""
    formats: ClassVar[frozenset[str]] = frozenset()

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.engine.name

    def load(self, artifact: Artifact, root: Path, device: Device, options: LoadOptions) -> Session:
        session = self.engine.load(artifact, root, device, options)
        if artifact.component != "unet":
            return session
        return Timed(session, self.seconds.setdefault(artifact.index, []))


@dataclass
class Taken:
    """What one mode took."""

    free: list[float] = field(default_factory=list)
    """Seconds from cancelling to the end of the job, each."""
    calls: list[float] = field(default_factory=list)
    """Seconds of whole calls of the U-Net."""
    parts: list[float] = field(default_factory=list)
    """Seconds of its graphs, one by one."""
    graphs: int = 0
    """How many a call has."""


def measure(model: str, runtime: str, mode: str, threads: int, rounds: int, seed: int) -> Taken:
    """Cancel ``rounds`` jobs, each in the middle of a step."""
    package = Package.open(find_model(model))
    watched = Watched(registry.get(runtime))
    devices = registry.probe(runtime)
    wishes = Preferences(runtime=runtime, memory_mode=mode, threads=threads)

    def opened(name: str) -> Pipeline:
        return Pipeline(package, devices, Budget(), wishes, runtime=lambda _: watched)

    request = complete(
        Request(PROMPT, steps=20, sampler="Heun", guidance=1.0, seed=1), package.manifest
    )
    room = EngineRoom([opened], Limits(), keep_seconds=-1)
    room.start()
    taken, chance = Taken(), random.Random(seed)
    try:
        for _ in range(rounds):
            job = room.submit(Order(model, (request,), "a", "benchmark"))
            stepped = threading.Event()
            job.listeners.append(lambda job=job, stepped=stepped: _tell(job, stepped))
            if not stepped.wait(PATIENCE):
                raise RuntimeError(f"no step within {PATIENCE:g} seconds: {job.error}")
            step = 2 * _call(watched)
            time.sleep(chance.uniform(0, 1) * step)
            begun = time.perf_counter()
            room.cancel(job)
            while not job.over:
                time.sleep(0.0005)
            taken.free.append(time.perf_counter() - begun)
            if job.state != CANCELLED:
                raise RuntimeError(f"the job is {job.state}: {job.error}")
    finally:
        room.close()
    taken.graphs = len(watched.seconds)
    taken.parts = [one for each in watched.seconds.values() for one in each]
    whole = min(map(len, watched.seconds.values()))
    taken.calls = [sum(each[i] for each in watched.seconds.values()) for i in range(whole)]
    return taken


def _tell(job: Job, stepped: threading.Event) -> None:
    if job.progress.step >= 1 or job.over:
        stepped.set()


def _call(watched: Watched) -> float:
    """Seconds of the last whole call."""
    return sum(each[-1] for each in watched.seconds.values())


def figures(mode: str, taken: Taken) -> list[Measurement]:
    """What to write of one mode."""
    many = taken.graphs > 1
    found = [
        Measurement(
            f"{mode}_call_seconds",
            f"U-Net call, {mode} mode",
            "s",
            tuple(taken.calls),
            note=f"{taken.graphs} graphs, the engine alone" if many else "the engine alone",
        )
    ]
    if many:
        found.append(
            Measurement(
                f"{mode}_segment_seconds",
                f"Longest segment of a U-Net call, {mode} mode",
                "s",
                (max(taken.parts),),
            )
        )
    words = "segment" if many else "call"
    found.append(
        Measurement(
            f"{mode}_free_seconds",
            f"Cancel to free device, {mode} mode (target: the longest {words})",
            "s",
            tuple(taken.free),
            "max",
            target=max(taken.parts),
            note=f"at random moments; {words}s of the same run are the target",
        )
    )
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_cancel", description=__doc__)
    parser.add_argument("model", help="name or path of a package")
    parser.add_argument("--modes", nargs="+", default=["normal", "mapped"])
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few samples; proves that it runs")
    parser.add_argument("--note", action="append", default=[], help="what to say of this run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    before = machine()
    rounds = 2 if given.quick else given.rounds
    found = []
    for mode in given.modes:
        taken = measure(given.model, given.runtime, mode, given.threads, rounds, given.seed)
        found += figures(mode, taken)
    write(
        given.output / "server-cancel.json",
        "server_cancel",
        "Server: cancelled jobs of a full-size model",
        found,
        packages=[package_identity(find_model(given.model))],
        machine_before=before,
        quick=given.quick,
        notes=given.note,
    )


if __name__ == "__main__":
    main()
