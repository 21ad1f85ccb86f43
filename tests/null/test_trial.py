"""Engines whose wheels are built for newer processors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sdlite import registry, trial
from sdlite.errors import RuntimeUnavailable
from sdlite.hardware import describe
from sdlite.types import Device

NAME = "engine_of_a_newer_machine"
Make = Callable[[str], Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Write the engine, on a processor that lacks what makes a trial needless."""
    old = replace(describe(), arch="x86_64", cpu_flags=("sse4_2",), cpu_name="Old")
    monkeypatch.setattr(trial, "describe", lambda: old)
    monkeypatch.setattr(trial, "_folder", None)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))

    def write(code: str) -> Path:
        path = tmp_path / f"{NAME}.py"
        path.write_text(code)
        return path

    return write


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_an_engine_that_ends_the_process_is_found_by_probe(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")

    class Newer:
        name = "newer"
        module = NAME

        def probe(self) -> tuple[Device, ...]:
            raise AssertionError("it would end this process")

    monkeypatch.setattr(registry, "get", lambda _: Newer())
    with pytest.raises(RuntimeUnavailable, match=r"ends the process \(SIGILL\)") as caught:
        registry.probe("newer")
    assert "older version" in caught.value.fix


def test_an_engine_that_runs_is_tried_once(make: Make, tmp_path: Path) -> None:
    path = make("")
    trial.keep_in(tmp_path / "cache")
    trial.check(NAME)
    path.write_text("import os\nos._exit(3)\n")
    trial.check(NAME)
    (tmp_path / "cache" / trial.FILE).write_text("{")
    with pytest.raises(RuntimeUnavailable, match=r"ends the process \(exit code 3\)"):
        trial.check(NAME)


def test_what_cannot_be_imported_is_for_the_adapter_to_tell(make: Make) -> None:
    make("raise ImportError('libtbb.so.12: cannot open shared object file')")
    trial.check(NAME)


def test_a_processor_that_has_enough_needs_no_trial(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("import os\nos._exit(3)\n")
    newer = replace(describe(), arch="x86_64", cpu_flags=("avx2", "sse4_2"))
    monkeypatch.setattr(trial, "describe", lambda: newer)
    trial.check(NAME)


@pytest.mark.parametrize(
    ("code", "text"), [(-4, "SIGILL"), (-999, "signal 999"), (3, "exit code 3")]
)
def test_how_a_process_ended(code: int, text: str) -> None:
    assert trial.ended(code) == text
    assert trial.ended(0xC000001D) == "exit code 0xc000001d"
