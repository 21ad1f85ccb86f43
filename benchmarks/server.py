"""How soon ``sdlite serve`` answers, what it takes while idle, and what it adds to a picture.

``python -m benchmarks.server [--model MODEL [--models DIR]]``; with another model than the one that
ships what the server adds is told as a share of the picture. ``benchmarks.server_load`` has a mixed
load, ``benchmarks.server_state`` kills, ``benchmarks.server_malformed`` requests that are wrong,
``benchmarks.server_cancel`` jobs that are cancelled.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import sdlite
from benchmarks.machine import machine
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.serving import serving

START_TARGET = 1.5
IDLE_TARGET = 120e6
OVERHEAD_TARGET = 10.0
ENGINE = "sdlite_engine_seconds_total"
SHARE_TARGET = 2.0
PROMPT = "a large red circle on a blue background"


def start(model: str, rounds: int) -> list[Measurement]:
    """From starting the process to the first answer, and memory then."""
    seconds, processor, memory = [], [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        with serving(model) as server:
            status, _ = server.ask("GET", "/sdapi/v1/options")
            seconds.append(time.perf_counter() - begun)
            processor.append(server.processor_seconds())
            if status != 200:
                raise RuntimeError(f"the server answered {status}")
            memory.append(sum(server.memory()))
    return [
        Measurement(
            "first_answer_seconds",
            "sdlite serve: process to first answer (options)",
            "s",
            tuple(seconds),
            target=START_TARGET,
        ),
        Measurement(
            "first_answer_processor_seconds",
            "sdlite serve: processor time until then",
            "s",
            tuple(processor),
            note="what is left of the above on a machine that does nothing else",
        ),
        Measurement(
            "idle_bytes",
            "sdlite serve: resident memory, no model open",
            "bytes",
            tuple(memory),
            statistic="max",
            target=IDLE_TARGET,
            note="private and mapped pages",
        ),
    ]


def overhead(
    model: str, rounds: int, steps: int, threads: int, folder: Path | None = None
) -> list[Measurement]:
    """The same picture over HTTP and in Python, in turns, each after one to warm up.

    A model in ``folder`` is one of full size: there the target is a share of the picture.
    """
    body = {"prompt": PROMPT, "seed": 7, "steps": steps}
    inside, outside, cost, besides = [], [], [], []
    options = ["--threads", str(threads)]
    options += [] if folder is None else ["--models", str(folder)]
    with (
        serving(model, *options) as server,
        sdlite.load(model if folder is None else folder / model, threads=threads) as pipe,
    ):
        for number in range(rounds + 1):
            begun, used = time.perf_counter(), time.process_time()
            result = pipe.generate(PROMPT, seed=7, steps=steps)
            between, taken = time.perf_counter(), time.process_time() - used
            own = sum(phase.engine_seconds for phase in result.phases)
            computing = server.figure(ENGINE)
            used = server.processor_seconds()
            asked = time.perf_counter()
            status, _ = server.ask("POST", "/sdapi/v1/txt2img", body)
            ended = time.perf_counter()
            spent = server.processor_seconds() - used
            if status != 200:
                raise RuntimeError(f"the server answered {status}")
            if number:
                inside.append(1000 * (between - begun))
                outside.append(1000 * (ended - asked))
                computing = server.figure(ENGINE) - computing
                besides.append(1000 * ((ended - asked - computing) - (between - begun - own)))
                cost.append(1000 * (spent - taken))
    added = statistics.median(outside) - statistics.median(inside)
    share = Measurement(
        "overhead_percent",
        f"What the server adds to a picture of {model}, {steps} steps",
        "percent",
        tuple(100 * added / whole for added, whole in zip(besides, inside, strict=True)),
        target=SHARE_TARGET,
        note="round by round, engine calls of both left out, whose time varies far more; of more "
        "steps it is less",
    )
    return [
        Measurement("python_ms", f"A picture of {steps} steps, Python call", "ms", tuple(inside)),
        Measurement("http_ms", f"A picture of {steps} steps, HTTP", "ms", tuple(outside)),
        Measurement(
            "overhead_ms",
            "What the server adds, medians",
            "ms",
            (added,),
            target=OVERHEAD_TARGET if folder is None else None,
            note="PNG and base64 included",
        ),
        Measurement(
            "overhead_besides_ms",
            "The same, engine calls of both left out",
            "ms",
            tuple(besides),
            note="round by round",
        ),
        Measurement(
            "overhead_processor_ms",
            "Processor time the server adds",
            "ms",
            tuple(cost),
            note="the same in processor time, in ticks of 10 ms, without waiting for others",
        ),
        *([] if folder is None else [share]),
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("--model", default="shapes", help="model to draw with")
    parser.add_argument("--models", type=Path, help="folder of a model of full size")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few samples; proves that it runs")
    parser.add_argument("--note", action="append", default=[], help="what to say of this run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rounds = 1 if options.quick else options.rounds
    before = machine()
    steps = 2 if options.quick else options.steps
    if options.models is None:
        name, title = "server", "Server: start, idle memory, overhead"
        found = start(options.model, rounds)
        found += overhead(options.model, rounds, steps, options.threads)
    else:
        name, title = f"server-{options.model}", f"Server: overhead on {options.model}"
        found = overhead(options.model, rounds, steps, options.threads, options.models)
    write(
        options.output / f"{name}.json",
        "server",
        title,
        found,
        machine_before=before,
        quick=options.quick,
        notes=options.note,
    )


if __name__ == "__main__":
    main()
