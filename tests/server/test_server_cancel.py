"""The program that measures how long cancelled jobs keep a device, on the fake engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sdlite_runtimes.null import NullRuntime
from sdlite_runtimes.nullpackage import write_null_package

from benchmarks import server_cancel
from sdlite import registry


def test_cancelled_jobs_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = NullRuntime({"component": "unet", "delay": "0.05"})
    monkeypatch.setitem(registry._runtimes, "null", slow)
    package = write_null_package(tmp_path / "tiny")
    words = [str(package), "--modes", "normal", "--runtime", "null", "--quick"]
    server_cancel.main([*words, "--output", str(tmp_path)])
    data = json.loads((tmp_path / "server-cancel.json").read_text(encoding="utf-8"))
    found = {item["key"]: item for item in data["measurements"]}
    assert data["quick"] and found["normal_call_seconds"]["value"] >= 0.05
    assert len(found["normal_free_seconds"]["samples"]) == 2
