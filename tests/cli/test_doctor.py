"""``sdlite devices`` and ``sdlite doctor``, also on installations that are broken."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdlite import compilecache, doctor, hardware, registry
from sdlite.errors import RuntimeUnavailable
from tests.cli.conftest import Run

Answers = dict[tuple[str, ...], dict[str, Any]]
FINE = {"device": "cpu", "description": "a processor", "precision": "fp32", "seconds": 0.1}
DRAWS = {"finding": {"name": "drawing", "status": "ok", "detail": "tiny", "fix": ""}}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What the other processes say; change it before the command runs."""
    found: Answers = {
        ("onnxruntime",): {"devices": [FINE]},
        ("openvino",): {"devices": [FINE]},
        (): DRAWS,
    }

    def isolated(*arguments: str) -> dict[str, Any]:
        return found[arguments]

    monkeypatch.setattr(doctor, "isolated", isolated)
    return found


def checks(run: Run, code: int) -> dict[str, dict[str, str]]:
    done = run("doctor", "--json")
    assert done.exit_code == code, done.output
    document = json.loads(done.stdout)
    assert document["ok"] == (code == 0)
    return {item["name"]: item for item in document["checks"]}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Put a module before all others in new processes."""
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, sys.path)]))

    def make(name: str, code: str) -> Path:
        (folder / f"{name}.py").write_text(code)
        return folder

    return make


def test_devices(run: Run) -> None:
    done = run("devices")
    assert done.exit_code == 0
    assert "null         null" in done.stdout or "null     null" in done.stdout
    found = json.loads(run("devices", "--json").stdout)
    (null,) = (item for item in found["devices"] if item["runtime"] == "null")
    assert null["precisions"] == ["fp32"]
    assert null["memory_bytes"] == pytest.approx(hardware.describe().ram_available, rel=0.5)


def test_devices_of_engines_that_cannot_be_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    state = RuntimeUnavailable("OpenVINO cannot be imported", "Install it with: pip install x")
    monkeypatch.setattr(registry, "available", lambda: [("openvino", state)])
    done = run("devices")
    assert done.exit_code == 0
    assert "openvino: OpenVINO cannot be imported. Install it with: pip install x" in done.stdout
    found = json.loads(run("devices", "--json").stdout)
    assert found["unavailable"][0]["runtime"] == "openvino"


def test_all_is_well(run: Run, answers: Answers) -> None:
    done = run("doctor")
    assert done.exit_code == 0, done.output
    assert "FAIL" not in done.stdout
    found = checks(run, 0)
    assert {"python", "processor", "memory", "settings", "models folder", "cache folder"} <= set(
        found
    )
    assert found["openvino cpu"]["detail"] == "a processor, runs in fp32"


def test_a_missing_engine_is_a_warning_while_there_is_another(run: Run, answers: Answers) -> None:
    answers["openvino",] = {"reason": "not installed", "fix": "pip install it"}
    found = checks(run, 0)
    assert (found["openvino"]["status"], found["openvino"]["fix"]) == ("warning", "pip install it")


def test_a_device_that_computes_nonsense(run: Run, answers: Answers) -> None:
    answers["openvino",] = {
        "devices": [{**FINE, "device": "gpu", "error": "values that are not numbers"}]
    }
    found = checks(run, 0)
    assert found["openvino gpu"]["status"] == "warning"
    assert "not numbers" in found["openvino gpu"]["detail"]


def test_damaged_cache(run: Run, home: Path, answers: Answers) -> None:
    folder = home / "cache" / "compiled"
    folder.mkdir(parents=True)
    (folder / f"unet-1{compilecache.SUFFIX}").write_bytes(b"?")
    found = checks(run, 0)["compile cache"]
    assert found["status"] == "warning"
    assert found["fix"] == "Run: sdlite cache --clear"


def test_settings_that_cannot_be(run: Run, home: Path, answers: Answers) -> None:
    (home / "settings.toml").write_text("stpes = 3\n")
    found = checks(run, 1)["settings"]
    assert found["status"] == "failure"
    assert "Did you mean 'steps'" in found["detail"]


def test_low_memory_and_disk(run: Run, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 1 << 60)
    monkeypatch.setattr(doctor, "LEAST_DISK", 1 << 60)
    found = checks(run, 0)
    assert {found[name]["status"] for name in ("memory", "models folder", "cache folder")} == {
        "warning"
    }
    assert "--memory-mode mapped" in found["memory"]["fix"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_an_engine_that_ends_the_process(
    run: Run, home: Path, fake: Callable[[str, str], Path]
) -> None:
    fake("onnxruntime", "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    fake("openvino", "raise ImportError('libtbb.so.12: cannot open shared object file')\n")
    found = checks(run, 1)
    assert "ends the process (SIGILL)" in found["onnxruntime"]["detail"]
    assert "libtbb.so.12" in found["openvino"]["detail"]
    assert 'pip install "sdlite[cpu]"' in found["openvino"]["fix"]
    assert found["engines"]["status"] == "failure"
    assert found["drawing"]["status"] == "ok"  # the settings of these tests name the null engine


def test_what_is_set_up_wrongly_is_found_before_drawing(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDLITE_RUNTIME", "nul")
    found = doctor.Finding(**doctor.isolated()["finding"])
    assert found.status == "failure"
    assert "Did you mean 'null'" in found.detail


def test_two_onnxruntimes(run: Run, fake: Callable[[str, str], Path]) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    info = fake("unused", "") / "onnxruntime_gpu-1.31.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.0\n"
    )
    found = doctor.isolated("onnxruntime")
    assert "onnxruntime, onnxruntime-gpu" in found["reason"]
    assert "pip uninstall -y" in found["fix"]
