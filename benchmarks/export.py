"""Seconds and peak memory of exports: ``python -m benchmarks.export NAME=SOURCE[:PRECISION] ...``.

Each source is exported by the command line in a process of its own, to a folder that is deleted
afterwards unless ``--keep`` names one. Memory is the process's own: the kernel's high-water mark of
resident memory, and private and mapped memory sampled apart. The source is dropped from the file
cache first, so that it is read from disk.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.runs import Outcome, evict, run
from sdlite.choices import PRECISIONS

SECONDS_TARGET = 60.0
RSS_TARGET = 1.5e9


@dataclass(frozen=True)
class Job:
    """One export."""

    name: str
    """Key of its figures."""
    source: Path
    """What is exported."""
    precision: str
    """Precision of the package."""


def parse_job(text: str) -> Job:
    """``NAME=SOURCE[:PRECISION]``; the precision is fp16 when left out."""
    name, separator, rest = text.partition("=")
    if not separator or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SOURCE[:PRECISION]")
    stem, _, precision = rest.rpartition(":")
    if precision not in PRECISIONS or not stem:
        stem, precision = rest, "fp16"
    return Job(name, Path(stem).resolve(), precision)


def export(job: Job, dest: Path) -> Outcome:
    """Export once, from disk."""
    evict(job.source)
    shutil.rmtree(dest, ignore_errors=True)
    command = [sys.executable, "-c", "from sdlite.cli import main; main()", "export"]
    outcome = run([*command, str(job.source), str(dest), "--precision", job.precision])
    if outcome.exit_code != 0:
        raise RuntimeError(f"export ended with {outcome.exit_code}: {outcome.output[-2000:]}")
    return outcome


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(item.stat().st_size for item in files)


def measure(
    job: Job, rounds: int, dest: Path, seconds_target: float, rss_target: float
) -> list[Measurement]:
    """All figures of one export."""
    outcomes = [export(job, dest) for _ in range(rounds)]
    source = f"{job.source.name} ({size_of(job.source) / 1e9:.2f} GB) to {job.precision}"
    return [
        Measurement(
            f"{job.name}_seconds",
            f"Export of {source}",
            "s",
            tuple(outcome.seconds for outcome in outcomes),
            target=seconds_target,
            note="whole command, interpreter start included; source not in the file cache",
        ),
        Measurement(
            f"{job.name}_processor_seconds",
            f"Processor seconds of all threads: {source}",
            "s",
            tuple(outcome.processor_seconds for outcome in outcomes),
        ),
        Measurement(
            f"{job.name}_max_rss",
            f"Peak RSS: {source}",
            "bytes",
            tuple(float(outcome.max_rss) for outcome in outcomes),
            "max",
            target=rss_target,
            note="the kernel's high-water mark, private and mapped together",
        ),
        Measurement(
            f"{job.name}_private_peak",
            f"Private memory at its highest: {source}",
            "bytes",
            tuple(float(outcome.private_peak or 0) for outcome in outcomes),
            "max",
        ),
        Measurement(f"{job.name}_package", f"Package: {source}", "bytes", (float(size_of(dest)),)),
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("jobs", nargs="+", type=parse_job, metavar="NAME=SOURCE[:PRECISION]")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds-target", type=float, default=SECONDS_TARGET)
    parser.add_argument("--rss-target", type=float, default=RSS_TARGET, help="bytes")
    parser.add_argument("--title", default="Export")
    parser.add_argument("--file", default="export.json", help="name of the result file")
    parser.add_argument("--keep", type=Path, help="folder in which packages stay, by name")
    parser.add_argument("--quick", action="store_true", help="mark the result as no figure")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    before = machine()
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory(dir=options.keep) as scratch:
        for job in options.jobs:
            dest = (options.keep or Path(scratch)) / job.name
            targets = (options.seconds_target, options.rss_target)
            found += measure(job, options.rounds, dest, *targets)
            if options.keep is None:
                shutil.rmtree(dest)
    write(
        options.output / options.file,
        "export",
        options.title,
        found,
        machine_before=before,
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
