"""Run something in a process of its own and measure its seconds and its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.watch import Watch

ROOT = Path(__file__).parents[1]
CODE = """
import dataclasses, json, resource, sys
import sdlite
from benchmarks.watch import Watch
from sdlite.types import Request
job = json.loads(sys.argv[1])
with Watch() as watch:
    with sdlite.load(
        job["package"],
        threads=job["threads"],
        memory_mode=job["mode"],
        runtime="onnxruntime",
    ) as pipe:
        result = pipe.generate(Request("a red circle on a blue background", **job["settings"]))
facts = {
    "seconds": result.seconds,
    "phases": [dataclasses.asdict(phase) for phase in result.phases],
    "plan": list(result.plan.reasons) if hasattr(result.plan, "reasons") else [],
    "private_peak": watch.private_peak,
    "mapped_peak": watch.mapped_peak,
    "max_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}
if job["picture"]:
    result.images[0].save(job["picture"])
print(json.dumps(facts))
"""


@dataclass(frozen=True)
class Outcome:
    """What a child process took."""

    seconds: float
    """From start to end, wall clock."""
    processor_seconds: float
    """User and system time of all its threads: what other work on the machine changes least."""
    exit_code: int
    """0 for success, negative when a signal ended it."""
    max_rss: int
    """Peak resident bytes by the kernel's high-water mark, private and mapped together."""
    private_peak: int | None
    """Highest private bytes, sampled."""
    mapped_peak: int | None
    """Highest mapped bytes, sampled."""
    output: str
    """What it wrote to standard output and standard error."""


def run(command: Sequence[str]) -> Outcome:
    """Run a command in the checkout to its end; its output is kept, its memory watched."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    with Watch(process.pid) as watch:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.stdout.close()
    # The process was waited for above; subprocess must not wait again.
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Outcome(
        seconds,
        usage.ru_utime + usage.ru_stime,
        process.returncode,
        usage.ru_maxrss * unit,
        watch.private_peak,
        watch.mapped_peak,
        output,
    )


def generate(
    package: Path,
    mode: str,
    threads: int,
    settings: Mapping[str, Any],
    picture: Path | None = None,
    wrap: Sequence[str] = (),
) -> dict[str, Any]:
    """Draw one picture in a fresh process; its phases and memory as a dictionary.

    ``wrap`` goes before the command, e.g. to set a memory limit.
    """
    job = {
        "package": str(package),
        "mode": mode,
        "threads": threads,
        "settings": dict(settings),
        "picture": None if picture is None else str(picture),
    }
    outcome = run([*wrap, sys.executable, "-c", CODE, json.dumps(job)])
    if outcome.exit_code != 0:
        raise RuntimeError(f"generate ended with {outcome.exit_code}: {outcome.output[-2000:]}")
    facts: dict[str, Any] = json.loads(outcome.output.splitlines()[-1])
    return {**facts, "process_seconds": outcome.seconds}


def evict(path: Path) -> None:
    """Ask the system to drop a file's cached pages, so that it is read from disk again."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
