"""The page's files, its catalogues, and what the native API answers for it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra [server] is not installed")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")

from sdlite.cli.serve import show_page
from sdlite.server.guard import Access
from sdlite.server.limits import Limits
from sdlite.server.native.outlook import smaller
from sdlite.server.page import files
from tests.server.helpers import SLOW, picture, until

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "sdlite" / "server" / "page"
LANGUAGES = sorted((PAGE / "src" / "lang").glob("*.json"))
MOST_BYTES = 300_000
"""What the whole page may be, compressed."""
API = "/api/v1/"


def words(path: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_it_was_built_from_these_sources() -> None:
    listed = words(files.BUILT / "sources.json")
    assert listed.keys() >= {"package-lock.json", "build.mjs", "src/app.tsx"}
    here = {
        path.relative_to(PAGE).as_posix() for path in (PAGE / "src").rglob("*") if path.is_file()
    }
    assert {name for name in listed if name.startswith("src/")} == here
    for name, digest in listed.items():
        data = (PAGE / name).read_bytes().replace(b"\r\n", b"\n")
        changed = f"{name} was changed since: run scripts/page.py"
        assert hashlib.sha256(data).hexdigest() == digest, changed


def test_it_is_small() -> None:
    sizes = [len(gzip.compress((files.BUILT / name).read_bytes())) for name in files.names()]
    assert sum(sizes) <= MOST_BYTES


def test_it_loads_nothing_from_elsewhere() -> None:
    allowed = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}
    allowed |= {"http://www.w3.org/1998/Math/MathML"}
    for name in files.names():
        text = (files.BUILT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= allowed, name


def test_files_of_the_sources_are_small() -> None:
    for path in (PAGE / "src").rglob("*.ts*"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.stem)
def test_catalogues_are_complete(path: Path) -> None:
    english, other = words(PAGE / "src" / "lang" / "en.json"), words(path)
    assert list(other) == list(english)
    for key, text in other.items():
        assert text.strip(), key
        slots = re.findall(r"\{\w+\}", text)
        assert sorted(slots) == sorted(re.findall(r"\{\w+\}", english[key])), key


def test_every_word_is_used() -> None:
    """Keys are written out, or made of a beginning that is."""
    source = "".join(path.read_text(encoding="utf-8") for path in (PAGE / "src").rglob("*.ts*"))
    for key in words(PAGE / "src" / "lang" / "en.json"):
        beginnings = [key[: at + 1] for at, letter in enumerate(key) if letter in ".-"]
        made = any(f"`{beginning}${{" in source for beginning in beginnings)
        assert made or f'"{key}"' in source, key


def test_three_languages() -> None:
    assert [path.stem for path in LANGUAGES] == ["de", "en", "nl"]


def test_serving_the_files(client: Any) -> None:
    answer = client.get("/")
    assert answer.status_code == 200 and "app.js" in answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for name in files.names():
        found = client.get(f"/page/{name}", headers={"Accept-Encoding": "gzip"})
        assert found.content == (files.BUILT / name).read_bytes()
        assert found.headers["content-encoding"] == "gzip"
    plain = client.get("/page/app.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    again = client.get("/page/app.js", headers={"If-None-Match": plain.headers["etag"]})
    assert again.status_code == 304 and not again.content


@pytest.mark.parametrize("name", ["sources.json.bak", "..%2Ffiles.py", "app.map", "LICENSES.txt"])
def test_files_that_are_not_there(client: Any, name: str) -> None:
    answer = client.get(f"/page/{name}")
    assert answer.status_code == 404 and answer.json()["error"]["kind"] == "not_found"


def test_browsers_ask_for_the_key(serve: Any) -> None:
    client = serve(access=Access(api_keys=("secret",)))
    answer = client.get("/", headers={"Accept": "text/html"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert client.get("/", auth=("", "secret")).status_code == 200


def test_a_plan_says_what_would_be_faster(client: Any) -> None:
    body = {"prompt": "a", "width": 64, "height": 64, "steps": 20, "images": 2}
    before = client.post(API + "plan", json=body).json()
    assert before["seconds"] is None and before["faster"] == []
    job = client.post(API + "jobs", json=body).json()
    until(lambda: client.get(f"{API}jobs/{job['id']}").json()["state"] == "done")
    after = client.post(API + "plan", json=body).json()
    assert after["seconds"] > 0
    assert {item["kind"] for item in after["faster"]} == {"images", "steps", "size", "profile"}
    for item in after["faster"]:
        assert item["seconds"] < after["seconds"]
        assert client.post(API + "plan", json=body | item["change"]).status_code == 200


def test_smaller_sides() -> None:
    assert smaller(512) == 384 and smaller(768) == 576
    assert smaller(128) == 96 and smaller(8) == 8


def test_choices(client: Any) -> None:
    found = client.get(API + "choices").json()
    assert found["models"][0]["name"] == "tiny"
    assert "Euler" in found["samplers"] and "Karras" in found["schedules"]


def test_reading_a_picture(client: Any) -> None:
    body = {"prompt": "a red circle", "negative_prompt": "blue", "seed": 4, "steps": 3}
    job = client.post(API + "jobs", json=body).json()
    until(lambda: client.get(f"{API}jobs/{job['id']}").json()["state"] == "done")
    data = client.get(f"{API}jobs/{job['id']}/images/0").content
    image = base64.b64encode(data).decode()
    found = client.post(API + "read", json={"image": image}).json()
    assert found["settings"].items() >= body.items()
    assert found["infotext"].startswith("a red circle")
    assert client.post(API + "jobs", json=found["settings"]).status_code == 202


def test_pictures_of_other_programs_are_read(client: Any) -> None:
    from PIL.PngImagePlugin import PngInfo

    from tests.null.test_carried import comfy, png

    chunks, stream = PngInfo(), io.BytesIO()
    chunks.add_text("prompt", json.dumps(comfy()))
    png().save(stream, "PNG", pnginfo=chunks)
    image = base64.b64encode(stream.getvalue()).decode()
    found = client.post(API + "read", json={"image": image}).json()
    assert found["settings"]["steps"] == 20 and found["settings"]["emphasis"] == "ComfyUI"
    assert "its LoRA ink is not in the model folders: drawn without it" in found["problems"]
    assert "Steps: 20" in found["infotext"]


def test_pictures_that_cannot_be_read(client: Any) -> None:
    answer = client.post(API + "read", json={"image": picture()})
    assert answer.status_code == 422 and answer.json()["error"]["kind"] == "no_parameters"
    assert client.post(API + "read", json={"image": "no picture"}).status_code == 422
    answer = client.post(API + "read", json={"image": picture(), "model": "nope"})
    assert answer.status_code in (404, 422)


def test_what_a_control_network_reads(client: Any) -> None:
    body = {"image": picture((64, 48)), "preprocessor": "canny"}
    answer = client.post(API + "preprocess", json=body)
    assert answer.status_code == 200, answer.text
    data = base64.b64decode(answer.json()["image"])
    assert Image.open(io.BytesIO(data)).size == (64, 48)
    for change in ({"preprocessor": "/etc/passwd.onnx"}, {"image": "no picture"}):
        assert client.post(API + "preprocess", json=body | change).status_code in (400, 404, 422)


def test_outpainting(client: Any) -> None:
    body = {"prompt": "a", "steps": 2, "seed": 1, "edit": {"image": picture((64, 64))}}
    body["outpaint"] = {"right": 24, "top": 8}
    plan = client.post(API + "plan", json=body)
    assert plan.status_code == 200, plan.text
    job = client.post(API + "jobs", json=body).json()
    path = f"{API}jobs/{job['id']}"
    until(lambda: client.get(path).json()["state"] not in ("queued", "running"))
    assert client.get(path).json()["state"] == "done", client.get(path).json()
    drawn = Image.open(io.BytesIO(client.get(path + "/images/0").content))
    assert drawn.size == (88, 72)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"edit": None}, "takes one picture"),
        ({"outpaint": {}}, "nothing to add"),
        ({"outpaint": {"left": -1}}, "left -1"),
        ({"outpaint": {"left": 1024}}, "at most"),
        ({"images": 2}, "draws one"),
    ],
)
def test_outpainting_refused(serve: Any, change: dict[str, Any], words: str) -> None:
    client = serve(limits=Limits(pixels=128 * 128))
    body = {"prompt": "a", "edit": {"image": picture((64, 64))}, "outpaint": {"right": 8}}
    answer = client.post(API + "jobs", json=body | change)
    assert answer.status_code in (400, 422)
    assert words in answer.json()["error"]["message"]


def test_a_job_says_what_it_draws_and_why_it_failed(serve: Any) -> None:
    client = serve({**SLOW, "fail_call": "1"})
    job = client.post(API + "jobs", json={"prompt": "a cat", "steps": 2}).json()
    assert job["prompt"] == "a cat" and job["error_kind"] is None
    path = f"{API}jobs/{job['id']}"
    until(lambda: client.get(path).json()["state"] == "failed")
    assert client.get(path).json()["error_kind"] == "EngineError"


def test_open_shows_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    import webbrowser

    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    show_page("http://0.0.0.0:7860")
    until(lambda: shown == ["http://127.0.0.1:7860"])


def test_the_build_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "page.py")]
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "--check"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.startswith("skipped: Node and npm")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Node 20" in done.stderr
