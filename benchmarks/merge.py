"""Seconds and peak memory of merging: ``python -m benchmarks.merge FIRST SECOND [--minus THIRD]``.

Each way of merging is run by the command line in a process of its own, into a file that is deleted
afterwards. Memory is the kernel's high-water mark of resident memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.runs import Outcome, evict, run

RSS_TARGET = 1.5e9
WAYS = {"weighted": "Weighted sum", "difference": "Add difference"}


def merge(files: list[Path], dest: Path) -> Outcome:
    """Merge once, from disk."""
    for file in files:
        evict(file)
    first, second, *rest = map(str, files)
    more = ["--minus", *rest] if rest else []
    command = [sys.executable, "-c", "from sdlite.cli import main; main()", "merge"]
    outcome = run([*command, first, second, str(dest), "--multiplier", "0.3", *more])
    if outcome.exit_code != 0:
        raise RuntimeError(f"merge ended with {outcome.exit_code}: {outcome.output[-2000:]}")
    dest.unlink()
    return outcome


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merge", description=__doc__)
    parser.add_argument("first", type=lambda text: Path(text).resolve())
    parser.add_argument("second", type=lambda text: Path(text).resolve())
    parser.add_argument("--minus", type=lambda text: Path(text).resolve())
    parser.add_argument("--folder", type=Path, help="where the new file is made for a while")
    parser.add_argument("--title", default="Merging checkpoints")
    parser.add_argument("--quick", action="store_true", help="mark the result as no figure")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    before = machine()
    files = [options.first, options.second, options.minus or options.second]
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        for (key, label), count in zip(WAYS.items(), (2, 3), strict=True):
            outcome = merge(files[:count], Path(scratch) / f"{key}.safetensors")
            size = options.first.stat().st_size / 1e9
            what = f"{label} of {count} files of {size:.2f} GB"
            found += [
                Measurement(f"{key}_seconds", what, "s", (outcome.seconds,)),
                Measurement(
                    f"{key}_processor_seconds",
                    f"Processor seconds: {what}",
                    "s",
                    (outcome.processor_seconds,),
                ),
                Measurement(
                    f"{key}_max_rss",
                    f"Peak RSS: {what}",
                    "bytes",
                    (float(outcome.max_rss),),
                    "max",
                    target=RSS_TARGET,
                    note="the kernel's high-water mark, private and mapped together",
                ),
            ]
    write(
        options.output / "merge.json",
        "merge",
        options.title,
        found,
        machine_before=before,
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
