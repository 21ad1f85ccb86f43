"""Benchmark results as JSON: figures with their samples, targets, machine, versions, command."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import command, commit, machine, now, versions

RESULTS = Path(__file__).parent / "results"
FORMAT = 1


@dataclass(frozen=True)
class Measurement:
    """One figure."""

    key: str
    """Stable identifier, lower case with underscores."""
    what: str
    """What it is, in words a reader of the table understands."""
    unit: str
    """``s``, ``ms``, ``bytes``, ``count``, ``ratio`` or ``percent``."""
    samples: tuple[float, ...]
    """Every sample, in the order taken."""
    statistic: str = "median"
    """``median``, or ``max`` for peaks."""
    target: float | None = None
    """The figure must be at most this; None when there is no target."""
    note: str = ""
    """How it was measured, where the name does not say it."""

    @property
    def value(self) -> float:
        """The samples' median or maximum."""
        return max(self.samples) if self.statistic == "max" else statistics.median(self.samples)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.value <= self.target


def write(
    path: Path,
    program: str,
    title: str,
    measurements: Sequence[Measurement],
    *,
    packages: Sequence[Mapping[str, Any]] = (),
    peers: Mapping[str, Any] | None = None,
    machine_before: Mapping[str, Any] | None = None,
    quick: bool = False,
    notes: Sequence[str] = (),
) -> None:
    """Write one result file, and print its figures.

    ``machine_before`` is ``machine()`` called before the run, so that its load is that of others.
    """
    data = {
        "format": FORMAT,
        "program": program,
        "title": title,
        "command": command(),
        "date": now(),
        "commit": commit(),
        "quick": quick,
        "machine": dict(machine_before or machine()),
        "versions": versions(),
        "packages": [dict(package) for package in packages],
        "peers": dict(peers or {}),
        "notes": list(notes),
        "measurements": [
            {**asdict(item), "value": item.value, "met": item.met} for item in measurements
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    print(f"{title} -> {path.name}")
    for item in measurements:
        verdict = {None: "", True: "  met", False: "  NOT MET"}[item.met]
        goal = "" if item.target is None else f"  (target {show(item.target, item.unit)})"
        print(f"  {item.what}: {show(item.value, item.unit)}{goal}{verdict}")


def show(value: float, unit: str) -> str:
    """A figure as people read it."""
    if unit == "bytes":
        if abs(value) < 1e6:
            return f"{value / 1e3:.1f} kB"
        return f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"
    if unit == "s":
        return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
    if unit == "ms":
        return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"
    if unit == "ratio":
        return f"{value:.2f}x"
    if unit == "percent":
        return f"{value:.2g} %"
    if unit == "count":
        return f"{value:.0f}"
    return f"{value:.3g} {unit}"
