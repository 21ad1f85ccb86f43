"""Whole pictures by sdlite in a process of its own, one for every line on standard input.

``python -m benchmarks.drawer JOB`` is started by ``benchmarks.pictures``; JOB is JSON with ``way``
(as in ``benchmarks.quality.compare``), ``threads``, ``side``, ``steps``, ``guidance``, ``prompt``,
and ``replay``, the profile whose recorded steps are followed where the way has it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import sdlite
from benchmarks.profiles import read_sequence, replay
from benchmarks.quality.compare import read_way
from benchmarks.watch import Watch


def main() -> None:
    job: dict[str, Any] = json.loads(sys.argv[1])
    way = read_way(job["way"])
    if job["replay"]:
        replay(job["replay"], read_sequence(job["replay"]))
    settings = {
        "seed": 1,
        "sampler": "DPM++ 2M",
        "schedule": "Karras",
        "guidance": job["guidance"],
        "steps": job["steps"],
        "width": job["side"],
        "height": job["side"],
        **way.drawing,
    }
    with Watch() as watch:
        start = time.perf_counter()
        with sdlite.load(way.model, threads=job["threads"], **way.opening) as pipe:
            # Opens what stays open; one step is enough for that.
            pipe.generate(sdlite.Request(job["prompt"], **{**settings, "steps": 1}))
            say({"seconds": time.perf_counter() - start, "version": sdlite.__version__})
            for _ in sys.stdin:
                watch.reset()
                result = pipe.generate(sdlite.Request(job["prompt"], **settings))
                opening = sum(phase.load_seconds for phase in result.phases)
                facts = {
                    "seconds": result.seconds - opening,
                    "private_peak": watch.private_peak,
                    "mapped_peak": watch.mapped_peak,
                    "resident_peak": watch.resident_peak,
                    "opening": opening,
                    "phases": {
                        phase.name: {
                            "seconds": round(phase.run_seconds, 3),
                            "calls": phase.calls,
                            "precision": phase.precision,
                            "full": phase.full,
                            "unguided": phase.unguided,
                            "skipped": phase.skipped,
                        }
                        for phase in result.phases
                    },
                    "plan": list(result.plan.reasons),
                    "notes": list(result.notes),
                }
                if job.get("picture"):
                    result.images[0].save(Path(job["picture"]))
                say(facts)


def say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
