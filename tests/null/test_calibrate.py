"""Calibration: what it measures, within its time, and what forecasts make of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sdlite_runtimes.null import NullRuntime
from sdlite_runtimes.nullpackage import write_null_package

from sdlite import forecast, registry
from sdlite.calibrate import calibrate, unknown
from sdlite.errors import EngineError
from sdlite.package import Package
from sdlite.pipeline import Pipeline
from sdlite.planner import Budget, Preferences
from sdlite.request import complete
from sdlite.types import Request


def opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: str
) -> tuple[Package, Pipeline]:
    runtime = NullRuntime(options)
    monkeypatch.setitem(registry._runtimes, "null", runtime)
    package = Package.open(write_null_package(tmp_path / "p", size=256))
    return package, Pipeline(package, runtime.probe(), Budget(), Preferences(runtime="null"))


def sizes(timings: list[forecast.Timing]) -> list[tuple[int, int]]:
    return sorted((timing.width, timing.height) for timing in timings)


def test_every_part_at_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, pipe = opened(tmp_path, monkeypatch)
    plan = pipe.plan(Request("a"))
    assert unknown(plan, [])
    timings = calibrate(package, plan, tmp_path / "cache")
    # U-Net and decoder each.
    assert sizes(timings) == sorted(2 * [(64, 64), (128, 128), (256, 256)])
    assert not unknown(plan, timings)
    full = complete(Request("a", steps=3), package.manifest)
    found = forecast.forecast(plan, full, package.manifest, timings)
    assert found.seconds() is not None
    assert {row.basis for row in found.rows} == {"small", "measured"}


def test_it_keeps_to_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, pipe = opened(tmp_path, monkeypatch, component="unet", delay="0.1")
    begin = time.perf_counter()
    timings = calibrate(package, pipe.plan(Request("a")), tmp_path / "cache", seconds=0.5)
    unet = [timing for timing in timings if timing.seconds >= 0.1]
    # Four times the area is taken to need four times as long, for which there is no time.
    assert sizes(unet) == [(64, 64)]
    assert time.perf_counter() - begin < 2


def test_what_is_known_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, pipe = opened(tmp_path, monkeypatch)
    plan = pipe.plan(Request("a"))
    first = calibrate(package, plan, tmp_path / "cache")
    assert calibrate(package, plan, tmp_path / "cache") == first
    # Another engine version is another machine.
    monkeypatch.setattr(forecast, "describe", lambda: _Other())
    assert unknown(plan, first)


class _Other:
    cpu_name, logical_cores = "another processor", 3


def test_wide_pictures_are_measured_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, pipe = opened(tmp_path, monkeypatch)
    timings = calibrate(package, pipe.plan(Request("a", width=512, height=256)), tmp_path)
    assert set(sizes(timings)) == {(128, 64), (256, 128), (512, 256)}


def test_a_graph_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, pipe = opened(tmp_path, monkeypatch, component="unet", fail_load="error")
    with pytest.raises(EngineError, match="unet"):
        calibrate(package, pipe.plan(Request("a")), tmp_path)
