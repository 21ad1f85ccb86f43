"""Routes about the machine: doctor, cache, exports, and the pictures beside LoRAs."""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra [server] is not installed")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")

from sdlite import doctor, home
from sdlite.server.native import exports
from tests.server.helpers import until

API = "/api/v1/"


def checkpoint(place: Path, name: str = "dream") -> Path:
    path = place / "models" / f"{name}.safetensors"
    path.write_bytes(b"no checkpoint")
    return path


def test_doctor(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = (doctor.Finding("disk", "warning", "little is left", "Delete something"),)
    monkeypatch.setattr(doctor, "findings", lambda: found)
    assert client.get(API + "doctor").json() == {"running": False, "ok": None, "checks": []}
    assert client.post(API + "doctor").status_code == 202
    until(lambda: client.get(API + "doctor").json()["ok"] is not None)
    told = client.get(API + "doctor").json()
    assert (
        told["ok"]
        and not told["running"]
        and told["checks"]
        == [
            {
                "name": "disk",
                "status": "warning",
                "detail": "little is left",
                "fix": "Delete something",
            }
        ]
    )


def test_one_examination_at_a_time(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, end = [], threading.Event()

    def findings() -> tuple[doctor.Finding, ...]:
        calls.append(1)
        end.wait(30)
        raise OSError("no more processes")

    monkeypatch.setattr(doctor, "findings", findings)
    for _ in range(3):
        assert client.post(API + "doctor").json()["running"]
    end.set()
    until(lambda: client.get(API + "doctor").json()["ok"] is False)
    assert client.post(API + "doctor").json()["checks"][0]["name"] == "doctor"
    assert calls == [1]


def test_cache(client: Any) -> None:
    from sdlite import compilecache

    assert client.get(API + "cache").json() == {"count": 0, "bytes": 0}
    compilecache.write(home.compiled_folder(), {"component": "unet"}, b"12345")
    found = client.get(API + "cache").json()
    assert found["count"] == 1 and found["bytes"] >= 5
    assert client.delete(API + "cache").json()["deleted"] == 1
    assert client.get(API + "cache").json()["count"] == 0


def rows(client: Any) -> dict[str, Any]:
    return {row["name"]: row for row in client.get(API + "exports").json()["checkpoints"]}


def test_an_export_that_fails_says_why(client: Any, place: Path) -> None:
    checkpoint(place)
    assert rows(client)["dream"] == {
        "name": "dream",
        "bytes": 13 + exports.GRAPHS_BYTES,
        "exported": False,
        "state": None,
        "share": 0.0,
        "error": None,
    }
    answer = client.post(API + "exports", json={"name": "dream"})
    assert answer.status_code == 202, answer.text
    until(lambda: rows(client)["dream"]["state"] == "failed")
    assert rows(client)["dream"]["error"].startswith("sdlite: error:")


PROGRAM = """
import sys, time, pathlib
if "slow" in sys.argv[-1]:
    sys.stderr.write(" 40%|####      | 1/2"); sys.stderr.flush(); time.sleep(60)
sys.stderr.write("100%|##########| 2/2")
pathlib.Path(sys.argv[-1]).mkdir()
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Instead of an export, a process that writes the same bar; the words it was called with."""
    real = exports.subprocess.Popen
    commands: list[list[str]] = []

    def popen(command: list[str], **options: Any) -> Any:
        assert command[1:4] == ["-m", "sdlite.cli", "export"] and command[-1] == "--progress"
        commands.append(command[4:-1])
        target = str(tmp_path / "adapter") if "--for" in command else command[-2]
        return real([sys.executable, "-c", PROGRAM, target], **options)

    monkeypatch.setattr(exports.subprocess, "Popen", popen)
    return commands


@pytest.mark.usefixtures("quick")
def test_exporting(client: Any, place: Path) -> None:
    checkpoint(place)
    checkpoint(place, "slow")
    assert client.post(API + "exports", json={"name": "slow"}).status_code == 202
    until(lambda: rows(client)["slow"]["share"] == 0.4)
    busy = client.post(API + "exports", json={"name": "dream"})
    assert busy.status_code == 409 and "slow is being exported" in busy.json()["error"]["message"]
    assert client.delete(API + "exports/slow").status_code == 200
    assert rows(client)["slow"]["state"] == "cancelled"
    assert client.delete(API + "exports/slow").status_code == 404
    until(lambda: client.post(API + "exports", json={"name": "dream"}).status_code == 202)
    until(lambda: rows(client)["dream"]["state"] == "done")
    assert rows(client)["dream"]["share"] == 1.0 and rows(client)["dream"]["exported"]
    again = client.post(API + "exports", json={"name": "dream"})
    assert again.status_code == 409 and "already" in again.json()["error"]["message"]


@pytest.mark.usefixtures("quick")
def test_a_folder_of_diffusers_in_the_models_folder(client: Any, place: Path) -> None:
    folder = place / "models" / "torch"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "model.safetensors").write_bytes(b"x")
    assert not rows(client)["torch"]["exported"]
    assert client.post(API + "exports", json={"name": "torch"}).status_code == 202
    until(lambda: rows(client)["torch"]["state"] == "done")
    assert rows(client)["torch"]["exported"] and (place / "models" / "torch-sdlite").is_dir()
    assert (folder / "model_index.json").exists()


def test_adding_a_control_network(client: Any, place: Path, quick: list[list[str]]) -> None:
    folder = place / "models" / "ControlNet"
    folder.mkdir()
    path = folder / "canny.pth"
    path.write_bytes(b"no network")
    found = client.get(API + "exports").json()
    assert "tiny" in found["packages"] and "shapes" not in found["packages"]
    (row,) = found["controls"]
    assert row["name"] == "canny" and row["models"] == [] and row["state"] is None
    assert client.post(API + "exports", json={"name": "canny"}).status_code == 404
    for body in ({"name": "canny", "model": "shapes"}, {"name": "nope", "model": "tiny"}):
        assert client.post(API + "exports", json=body).status_code == 404, body
    answer = client.post(API + "exports", json={"name": "canny", "model": "tiny"})
    assert answer.status_code == 202, answer.text
    until(lambda: client.get(API + "exports").json()["controls"][0]["state"] == "done")
    package = place / "models" / "tiny"
    assert quick == [[str(path), "--for", str(package), "--name", "canny"]]


def test_names_are_never_paths(client: Any, place: Path) -> None:
    for name in ("nope", "../models/tiny", str(checkpoint(place))):
        answer = client.post(API + "exports", json={"name": name})
        assert answer.status_code == 404, name
    assert client.post(API + "exports", json={"path": "/etc"}).status_code == 422


def test_a_full_disk_is_noticed_before(
    client: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(place)
    usage = exports.shutil.disk_usage(place)._replace(free=5)
    monkeypatch.setattr(exports.shutil, "disk_usage", lambda place: usage)
    answer = client.post(API + "exports", json={"name": "dream"})
    assert answer.status_code == 507 and "5 are free" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("kind", "where"), [("loras", "Lora"), ("embeddings", "embeddings")])
def test_pictures_beside_files(client: Any, place: Path, kind: str, where: str) -> None:
    folder = place / "models" / where
    folder.mkdir()
    for name in ("with one", "without"):
        (folder / f"{name}.safetensors").write_bytes(b"")
    Image.new("RGB", (600, 300), "red").save(folder / "with one.preview.png")
    listed = {item["name"]: item["preview"] for item in client.get(API + "choices").json()[kind]}
    assert listed["without"] is None
    answer = client.get(listed["with one"])
    assert Image.open(io.BytesIO(answer.content)).size == (256, 128)
    assert client.get(f"{API}{kind}/without/preview").status_code == 404
    assert client.get(f"{API}{kind}/nope/preview").status_code == 404
