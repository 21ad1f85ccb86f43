"""Forecasts: counted calls, learned seconds, scaled to other sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite import forecast, registry
from sdlite.package import Package
from sdlite.pipeline import Pipeline
from sdlite.planner import Budget, Preferences
from sdlite.request import complete
from sdlite.types import Edit, Request, Result


@pytest.fixture
def pipe(tmp_path: Path) -> Pipeline:
    package = Package.open(write_null_package(tmp_path / "p"))
    wishes = Preferences(runtime="null", threads=1)
    return Pipeline(package, registry.devices("null"), Budget(), wishes)


def drawn(pipe: Pipeline, request: Request, seconds: float, load: float = 0.5) -> Result:
    """A run whose every call took as long as said."""
    result = pipe.generate(request)
    phases = tuple(
        replace(phase, engine_seconds=seconds * phase.calls, load_seconds=load)
        for phase in result.phases
    )
    return replace(result, phases=phases)


def forecasted(pipe: Pipeline, folder: Path, request: Request) -> forecast.Forecast:
    manifest = pipe.package.manifest
    full = complete(request, manifest)
    return forecast.forecast(pipe.plan(request), full, manifest, forecast.read(folder))


@pytest.mark.parametrize(
    ("sampler", "steps", "guidance", "calls"),
    [
        ("DPM++ 2M", 20, 5.0, 20),
        ("Euler a", 7, 5.0, 7),
        ("Heun", 10, 5.0, 19),
        ("DPM++ SDE", 5, 1.0, 9),
    ],
)
def test_calls_are_those_of_the_run(
    pipe: Pipeline, tmp_path: Path, sampler: str, steps: int, guidance: float, calls: int
) -> None:
    request = Request("a", seed=1, sampler=sampler, steps=steps, guidance=guidance)
    rows = {row.phase: row for row in forecasted(pipe, tmp_path, request).rows}
    assert rows["denoise"].calls == calls
    ran = {phase.name: phase.calls for phase in pipe.generate(request).phases}
    assert {name: row.calls for name, row in rows.items()} == ran


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_calls_of_an_edit(pipe: Pipeline, tmp_path: Path, strength: float) -> None:
    edit = Edit(Image.new("RGB", (50, 70)), strength=strength)
    request = Request("a", seed=1, sampler="DPM++ 2M", steps=20, edit=edit)
    rows = forecasted(pipe, tmp_path, request).rows
    ran = {phase.name: phase.calls for phase in pipe.generate(request).phases}
    assert {row.phase: row.calls for row in rows} == ran
    assert list(ran) == ["text", "encode", "denoise", "decode"]


def test_unknown_until_it_ran(pipe: Pipeline, tmp_path: Path) -> None:
    request = Request("a", seed=1, steps=4)
    assert forecasted(pipe, tmp_path, request).seconds() is None
    forecast.learn(tmp_path / "cache", drawn(pipe, request, 2.0))
    found = forecasted(pipe, tmp_path / "cache", replace(request, steps=10))
    assert found.seconds() == pytest.approx(0.5 + 10 * 2 + 0.5 + 2)
    assert found.resident
    assert found.seconds(3) == pytest.approx(1 + 3 * 22)
    assert {row.basis for row in found.rows} == {"small", "measured"}


def test_other_sizes_are_scaled_with_usual_shares(pipe: Pipeline, tmp_path: Path) -> None:
    request = Request("a", seed=1, steps=1, width=512, height=512)
    forecast.learn(tmp_path, drawn(pipe, request, 1.0, load=0.0))
    found = forecasted(pipe, tmp_path, replace(request, height=1024))
    rows = {row.phase: row for row in found.rows}
    assert rows["denoise"].basis == "scaled"
    # 0.04 of a call of one item whatever the size; of the rest three quarters grow with the area,
    # one with its square. Here a call has two.
    before, after = (0.04 + 2 * 0.96 * part for part in (1, 2 * 0.75 + 4 * 0.25))
    assert rows["denoise"].run_seconds == pytest.approx(after / before)
    assert rows["decode"].run_seconds == pytest.approx(2)


def test_two_sizes_say_what_is_the_same_at_all(pipe: Pipeline, tmp_path: Path) -> None:
    def grown(side: int) -> float:
        share = side * side / (512 * 512)
        return 0.75 * share + 0.25 * share**2

    for side in (128, 256):
        request = Request("a", seed=1, steps=2, width=side, height=side)
        forecast.learn(tmp_path, drawn(pipe, request, 3.0 + 40 * grown(side), load=0.0))
    found = forecasted(pipe, tmp_path, Request("a", steps=1, width=384, height=384))
    rows = {row.phase: row for row in found.rows}
    assert rows["denoise"].basis == "scaled"
    assert rows["denoise"].run_seconds == pytest.approx(3.0 + 40 * grown(384))


def test_what_is_the_same_at_all_counts_once_a_call(pipe: Pipeline, tmp_path: Path) -> None:
    """Timings of one item and of two, of different sizes, of calls of 3 + 40 s a picture's area."""
    for side, images in ((128, 1), (256, 2)):
        share = side * side / (512 * 512)
        seconds = 3.0 + 40 * images * 2 * (0.75 * share + 0.25 * share**2)
        request = Request("a", seed=1, steps=2, width=side, height=side, images=images)
        forecast.learn(tmp_path, drawn(pipe, request, seconds, load=0.0))
    found = forecasted(pipe, tmp_path, Request("a", steps=1, width=256, height=256))
    rows = {row.phase: row for row in found.rows}
    assert rows["denoise"].run_seconds == pytest.approx(3.0 + 80 * (0.75 / 4 + 0.25 / 16))


def test_three_sizes_say_what_grows_with_the_square(pipe: Pipeline, tmp_path: Path) -> None:
    for side in (64, 128, 256):
        request = Request("a", seed=1, steps=2, width=side, height=side)
        area = (side / 64) ** 2
        forecast.learn(tmp_path, drawn(pipe, request, 2 + 3 * area + 0.5 * area**2, load=0.0))
    found = forecasted(pipe, tmp_path, Request("a", steps=1, width=128, height=64))
    rows = {row.phase: row for row in found.rows}
    assert rows["denoise"].run_seconds == pytest.approx(2 + 3 * 2 + 0.5 * 2**2)


def test_sizes_that_would_take_less_than_nothing_count_as_usual(
    pipe: Pipeline, tmp_path: Path
) -> None:
    for side, seconds in ((64, 1.0), (256, 100.0)):
        request = Request("a", seed=1, steps=2, width=side, height=side)
        forecast.learn(tmp_path, drawn(pipe, request, seconds, load=0.0))
    found = forecasted(pipe, tmp_path, Request("a", steps=1, width=128, height=64))
    rows = {row.phase: row for row in found.rows}
    assert rows["denoise"].run_seconds is not None
    assert 1.0 < rows["denoise"].run_seconds < 2.0
    assert rows["decode"].run_seconds == pytest.approx(2)


def test_the_newest_counts_and_open_components_keep_their_load(
    pipe: Pipeline, tmp_path: Path
) -> None:
    request = Request("a", seed=1, steps=1)
    forecast.learn(tmp_path, drawn(pipe, request, 2.0, load=3.0))
    forecast.learn(tmp_path, drawn(pipe, request, 1.0, load=0.0))
    rows = {row.phase: row for row in forecasted(pipe, tmp_path, request).rows}
    assert (rows["denoise"].load_seconds, rows["denoise"].run_seconds) == (3.0, 1.0)
    assert len(forecast.read(tmp_path)) == 2


def test_another_engine_version_is_another_machine(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request("a", seed=1, steps=1)
    forecast.learn(tmp_path, drawn(pipe, request, 2.0))
    newer = [replace(device, description="version 2") for device in registry.devices("null")]
    other = Pipeline(pipe.package, newer, Budget(), Preferences(runtime="null", threads=1))
    assert forecasted(other, tmp_path, request).seconds() is None


@pytest.mark.parametrize("content", ["", "[", "{}", '[{"seconds": 1}]', "[3]"])
def test_a_damaged_file_is_no_timings(pipe: Pipeline, tmp_path: Path, content: str) -> None:
    (tmp_path / "timings.json").write_text(content)
    assert forecast.read(tmp_path) == []
    forecast.learn(tmp_path, pipe.generate(Request("a", seed=1, steps=1)))
    assert len(forecast.read(tmp_path)) == 2


def test_what_is_not_learned(pipe: Pipeline, tmp_path: Path) -> None:
    result = pipe.generate(Request("a", seed=1, steps=2, hires=sdlite.Hires(scale=2.0)))
    forecast.learn(tmp_path / "cache", result)
    assert not (tmp_path / "cache").exists()
    blocked = tmp_path / "file"
    blocked.write_text("")
    forecast.learn(blocked, pipe.generate(Request("a", seed=1, steps=1)))


def test_only_the_newest_are_kept(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "KEPT", 3)
    for side in (64, 72, 80):
        request = Request("a", seed=1, steps=1, width=side, height=side)
        forecast.learn(tmp_path, pipe.generate(request))
    found = json.loads((tmp_path / "timings.json").read_text())
    assert [entry["width"] for entry in found] == [72, 80, 80]
