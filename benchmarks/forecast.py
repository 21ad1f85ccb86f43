"""Forecasts against what happens: seconds and private memory of whole pictures.

``python -m benchmarks.forecast PACKAGE ...`` calibrates on a fresh cache folder (at most 10 seconds
a package), forecasts pictures of several sizes, draws each in a process of its own, and compares.
An error is the distance from what was measured, in percent of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import label, machine, package_identity
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.runs import run

TIME_TARGET, MEMORY_TARGET = 25.0, 15.0
CHILD = """
import json, sys, time
from pathlib import Path
import sdlite
from sdlite import forecast
from sdlite.calibrate import calibrate
from sdlite.request import complete
job = json.loads(sys.argv[1])
folder = Path(job["folder"])
facts = {}
with sdlite.load(job["package"], **job["loading"]) as pipe:
    request = sdlite.Request("a red circle on a blue background", seed=1, **job["request"])
    plan = pipe.plan(request)
    if job["calibrate"]:
        start = time.perf_counter()
        calibrate(pipe.package, plan, folder)
        facts["calibration_seconds"] = time.perf_counter() - start
    else:
        full = complete(request, pipe.package.manifest)
        found = forecast.forecast(plan, full, pipe.package.manifest, forecast.read(folder))
        result = pipe.generate(request)
        facts = {
            "told_seconds": found.seconds(),
            "seconds": result.seconds,
            "told_private": found.private_bytes,
            "private": max(phase.private_bytes or 0 for phase in result.phases),
            "engine": plan.placement("unet").device.runtime,
            "memory_mode": plan.memory_mode,
            "phases": [
                [row.phase, row.load_seconds, row.run_seconds, row.private_bytes]
                for row in found.rows
            ],
        }
print(json.dumps(facts))
"""


def child(**job: Any) -> dict[str, Any]:
    """Run ``CHILD`` with a job in a fresh process; what it found."""
    outcome = run([sys.executable, "-c", CHILD, json.dumps(job)])
    if outcome.exit_code != 0:
        raise RuntimeError(f"it ended with {outcome.exit_code}: {outcome.output[-2000:]}")
    facts: dict[str, Any] = json.loads(outcome.output.splitlines()[-1])
    return facts


def compare(
    package: Path, loading: dict[str, Any], options: argparse.Namespace
) -> list[Measurement]:
    """Calibrate for the model's own size, then compare at every size."""
    way = f"{label(package)}, {loading.get('memory_mode', 'auto')}"
    seconds, private, notes = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        same: dict[str, Any] = {"package": str(package), "folder": folder, "loading": loading}
        took = child(**same, request={}, calibrate=True)["calibration_seconds"]
        for side in options.sizes:
            asked = {"width": side, "height": side, "steps": options.steps}
            facts = child(**same, request=asked, calibrate=False)
            seconds.append(100 * abs(facts["told_seconds"] / facts["seconds"] - 1))
            private.append(100 * abs(facts["told_private"] / facts["private"] - 1))
            notes.append(
                f"{side}x{side} on {facts['engine']}: {facts['told_seconds']:.2f} s told, "
                f"{facts['seconds']:.2f} s taken; {facts['told_private'] / 1e6:.0f} MB told, "
                f"{facts['private'] / 1e6:.0f} MB taken"
            )
    key = way.replace(", ", "_").replace("-", "_").replace(".", "_").lower()
    note = "; ".join(notes)
    return [
        Measurement(f"calibration_{key}", f"Calibration ({way})", "s", (took,), target=10.0),
        Measurement(
            f"time_error_{key}",
            f"Error of the forecast, time of a whole picture ({way})",
            "percent",
            tuple(seconds),
            "max",
            TIME_TARGET,
            note,
        ),
        Measurement(
            f"memory_error_{key}",
            f"Error of the forecast, private memory at its highest ({way})",
            "percent",
            tuple(private),
            "max",
            MEMORY_TARGET,
        ),
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description=__doc__)
    parser.add_argument("packages", nargs="+", type=lambda text: Path(text).resolve())
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 384, 512])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--modes", nargs="+", default=["auto", "mapped"])
    parser.add_argument("--quick", action="store_true", help="one size; proves that it runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.sizes, options.steps, options.modes = [64], 1, ["auto"]
    before = machine()
    found = []
    for package in options.packages:
        for mode in options.modes:
            found += compare(package, {"memory_mode": mode, "threads": options.threads}, options)
    names = "-".join(label(package) for package in options.packages)
    write(
        options.output / f"forecast-{names}.json",
        "forecast",
        f"Forecasts of {names}: {options.steps} steps, sides {options.sizes}",
        found,
        packages=[package_identity(package) for package in options.packages],
        machine_before=before,
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
