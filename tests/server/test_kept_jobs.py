"""``--state``: jobs survive the end of the server, polite or not."""

from __future__ import annotations

import io
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra [server] is not installed")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")

import sdlite
from benchmarks import server_state
from sdlite.errors import OutputError, RequestError
from sdlite.output import write_whole
from sdlite.server import ledger
from sdlite.server.guard import Access
from sdlite.server.jobs import Job
from sdlite.server.ledger import Ledger
from sdlite.server.state import Server, Setup
from sdlite.types import Request
from tests.server.helpers import PROGRAM, SLOW, picture, until
from tests.server.test_native import API, ended, error, submitted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def restarted(serve: Any, client: Any, folder: Path, **setup: Any) -> Any:
    client.stop(client)
    return serve(state=folder, **setup)


def image(client: Any, job: dict[str, Any], number: int = 0) -> Image.Image:
    answer = client.get(job["images"][number]["url"])
    assert answer.status_code == 200
    return Image.open(io.BytesIO(answer.content))


def test_finished_jobs_are_still_there(serve: Any, folder: Path) -> None:
    client = serve(state=folder)
    job = ended(client, submitted(client, images=2))
    files = sorted((folder / "pictures").iterdir())
    assert [file.name for file in files] == [f"{job['id']}-{n}.png" for n in range(2)]
    assert image(client, job, 1).info["parameters"] == job["images"][1]["infotext"]
    client = restarted(serve, client, folder)
    assert client.get(API + "jobs").json()["jobs"] == [job | {"seconds": job["seconds"]}]
    assert client.get(f"{API}jobs/{job['id']}").json() == job
    with client.stream("GET", f"{API}jobs/{job['id']}/events") as answer:
        assert next(answer.iter_lines()) == "event: done"
    webp = client.get(job["images"][0]["url"] + "?format=webp")
    assert Image.open(io.BytesIO(webp.content)).format == "WEBP"


def test_waiting_and_half_done_jobs_go_on(serve: Any, folder: Path) -> None:
    client = serve(SLOW, state=folder, save_seconds=1000.0)
    first = submitted(client, steps=12, guidance=1, sampler="Euler a")
    edit = {"image": picture(colour="blue"), "mask": picture(colour="white", mode="L")}
    second = submitted(client, seed=9, edit=edit, steps=4)
    until(lambda: client.get(f"{API}jobs/{first['id']}").json()["step"] >= 5)
    client.stop(client)
    assert len(list((folder / "unfinished").iterdir())) == 1
    client = serve(state=folder)
    done = ended(client, first)
    assert done["state"] == "done" and ended(client, second)["state"] == "done"
    assert not list((folder / "unfinished").iterdir())
    with sdlite.load("tiny", runtime="null") as pipe:
        whole = pipe.generate(Request("a", seed=5, steps=12, guidance=1, sampler="Euler a"))
    assert image(client, done).tobytes() == whole.images[0].tobytes()


def test_it_goes_on_where_it_was(serve: Any, folder: Path, monkeypatch: Any) -> None:
    client = serve(SLOW, state=folder)
    job = submitted(client, steps=12, guidance=1)
    until(lambda: client.get(f"{API}jobs/{job['id']}").json()["step"] >= 5)
    client.stop(client)
    seen: list[int] = []
    monkeypatch.setattr(Ledger, "step", lambda *given: seen.append(given[4].index))
    client = serve(state=folder)
    assert ended(client, job)["state"] == "done"
    assert seen[0] >= 5 and seen[-1] == 11


def test_a_state_that_does_not_fit_is_begun_again(serve: Any, folder: Path) -> None:
    client = serve(SLOW, state=folder)
    job = submitted(client, steps=12, guidance=1)
    until(lambda: client.get(f"{API}jobs/{job['id']}").json()["step"] >= 3)
    client.stop(client)
    (state,) = (folder / "unfinished").iterdir()
    state.write_bytes(state.read_bytes()[:100])
    client = serve(state=folder)
    assert ended(client, job)["state"] == "done"


def test_a_job_that_ends_the_server_is_given_up(serve: Any, folder: Path) -> None:
    client = serve(SLOW, state=folder)
    job = submitted(client, steps=100, guidance=1)
    until(lambda: client.get(f"{API}jobs/{job['id']}").json()["step"] >= 1)
    client.stop(client)
    with sqlite3.connect(folder / "jobs.sqlite") as base:
        base.execute("UPDATE jobs SET attempts = ?", (ledger.ATTEMPTS,))
    base.close()
    client = serve(state=folder)
    found = ended(client, job)
    assert found["state"] == "failed" and "ended 5 times" in found["error"]


def test_asking_the_server_to_end_is_no_attempt(serve: Any, folder: Path) -> None:
    client = serve(SLOW, state=folder)
    wide = submitted(client, edit={"image": picture()}, outpaint={"right": 16}, steps=100)
    until(lambda: client.get(f"{API}jobs/{wide['id']}").json()["step"] >= 1)
    client.stop(client)
    with sqlite3.connect(folder / "jobs.sqlite") as base:
        assert base.execute("SELECT state, attempts FROM jobs").fetchall() == [("running", 0)]
    base.close()


def test_cancelled_and_failed_ones_do_not_go_on(serve: Any, folder: Path) -> None:
    client = serve(SLOW, state=folder)
    job = submitted(client, steps=100, guidance=1)
    until(lambda: client.get(f"{API}jobs/{job['id']}").json()["step"] >= 1)
    client.delete(f"{API}jobs/{job['id']}")
    assert ended(client, job)["state"] == "cancelled"
    client = restarted(serve, client, folder)
    assert client.get(f"{API}jobs/{job['id']}").json()["state"] == "cancelled"
    assert not client.server.room.waiting() and not client.server.room.running()


def test_events_say_that_the_server_ends(serve: Any, folder: Path) -> None:
    client = serve(SLOW, state=folder)
    job = submitted(client, steps=100, guidance=1)
    with client.stream("GET", f"{API}jobs/{job['id']}/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: progress"
        client.server.room.end()
        assert "event: suspended" in list(lines)
    assert error(client.post(API + "jobs", json={"prompt": "a"}), 503).startswith("the server is")


def test_jobs_belong_to_keys(serve: Any, folder: Path) -> None:
    keys = {"state": folder, "access": Access(api_keys=("one", "two"))}
    client = serve(**keys)
    one, two = ({"X-API-Key": name} for name in ("one", "two"))
    answer = client.post(API + "jobs", json={"prompt": "a", "steps": 1}, headers=one)
    path = f"{API}jobs/{answer.json()['id']}"
    until(lambda: client.get(path, headers=one).json()["state"] == "done")
    client = restarted(serve, client, folder, access=Access(api_keys=("two", "one")))
    assert client.get(path, headers=one).status_code == 200
    assert client.get(path, headers=two).status_code == 404
    assert client.get(API + "pictures", headers=two).json() == {"pictures": [], "next": None}


@pytest.mark.parametrize("kept", [True, False])
def test_finished_pictures(serve: Any, folder: Path, kept: bool) -> None:
    client = serve(state=folder if kept else None)
    jobs = [
        ended(client, submitted(client, prompt=word, images=2)) for word in ("red Haus", "blue")
    ]
    path = API + "pictures"
    found = client.get(path).json()
    urls = [item["url"] for job in reversed(jobs) for item in reversed(job["images"])]
    assert [item["url"] for item in found["pictures"]] == urls and found["next"] is None
    assert found["pictures"][0]["model"] == "tiny" and found["pictures"][0]["width"] == 64
    page = client.get(path + "?limit=3").json()
    rest = client.get(path, params={"before": page["next"]}).json()
    assert [item["url"] for item in (*page["pictures"], *rest["pictures"])] == urls
    words = client.get(path + "?search=HAUS+red").json()["pictures"]
    assert {item["job"] for item in words} == {jobs[0]["id"]}
    assert client.get(path + "?search=red+blue").json()["pictures"] == []
    assert "no place" in error(client.get(path + "?before=x"), 422)
    assert "not from 1 to 1000" in error(client.get(path + "?limit=5000"), 422)
    assert "no whole number" in error(client.get(path + "?limit=x"), 422)
    small = client.get(urls[0] + "?size=16&format=webp")
    assert Image.open(io.BytesIO(small.content)).size == (16, 16)
    assert "none of png" in error(client.get(urls[0] + "?format=tiff"), 422)

    place = client.get(path + "?limit=1").json()["next"]
    assert client.delete(urls[0]).status_code == 200
    rest = client.get(path, params={"before": place}).json()["pictures"]
    assert [item["url"] for item in rest] == urls[1:]
    assert error(client.get(urls[0]), 404) and error(client.delete(urls[0]), 404)
    left = client.get(path).json()["pictures"]
    assert [item["url"] for item in left] == urls[1:]
    name = f"{API}jobs/{jobs[0]['id']}?forget=1"
    assert client.delete(name).status_code == 200 and error(client.delete(name), 404)
    assert [item["url"] for item in client.get(path).json()["pictures"]] == urls[1:2]
    assert client.delete(urls[1]).status_code == 200
    assert client.get(API + "jobs").json() == {"jobs": []}
    if kept:
        assert not list((folder / "pictures").iterdir())


def test_a_running_job_is_not_forgotten(serve: Any, folder: Path) -> None:
    client = serve(SLOW, state=folder)
    job = submitted(client, steps=100, guidance=1)
    assert "cancel it first" in error(client.delete(f"{API}jobs/{job['id']}?forget=true"), 409)
    page = client.get(API + "jobs?limit=1").json()["jobs"]
    assert client.get(f"{API}jobs?before={page[0]['id']}").json() == {"jobs": []}


def test_a_full_folder_takes_no_jobs(serve: Any, folder: Path) -> None:
    client = serve(state=folder, state_bytes=100)
    job = ended(client, submitted(client))
    answer = client.post(API + "jobs", json={"prompt": "a"})
    assert "--max-state" in error(answer, 507)
    client.delete(job["images"][0]["url"])
    ended(client, submitted(client))


def test_a_refused_job_leaves_nothing(serve: Any, folder: Path, monkeypatch: Any) -> None:
    from sdlite.server.limits import Limits

    client = serve(SLOW, state=folder, limits=Limits(queue=1, queue_of_client=1))
    accept = Ledger.accept

    def fill(self: Ledger, job: Job) -> None:
        accept(self, job)
        monkeypatch.setattr(Ledger, "accept", accept)
        submitted(client, steps=100)  # somebody is faster: no, it was nobody's turn yet
        until(lambda: client.server.room.running())
        submitted(client, steps=100)

    monkeypatch.setattr(Ledger, "accept", fill)
    assert error(client.post(API + "jobs", json={"prompt": "a"}), 503)
    assert len(client.get(API + "jobs").json()["jobs"]) == 2


def test_what_cannot_be_written_fails_the_job_alone(
    serve: Any, folder: Path, monkeypatch: Any
) -> None:
    client = serve(state=folder)

    def full(path: Path, *rest: Any, **more: Any) -> None:
        raise OutputError(f"cannot write {path}: the disk is full")

    monkeypatch.setattr(ledger, "write_whole", full)
    found = ended(client, submitted(client))
    assert found["state"] == "failed" and "the disk is full" in found["error"]
    monkeypatch.setattr(ledger, "write_whole", write_whole)
    assert ended(client, submitted(client))["state"] == "done"


def test_one_server_a_folder(place: Path, folder: Path) -> None:
    setup = Setup(model="tiny", runtime="null", state=folder)
    server = Server(setup)
    with pytest.raises(RequestError, match="another server uses"):
        Server(setup)
    server.stop()
    Server(setup).stop()


def test_folders_that_are_none_of_ours(folder: Path) -> None:
    folder.mkdir()
    (folder / "jobs.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(RequestError, match="no file of sdlite's"):
        Ledger(folder)
    (folder / "jobs.sqlite").unlink()
    with sqlite3.connect(folder / "jobs.sqlite") as base:
        base.execute("PRAGMA user_version = 99")
    base.close()
    with pytest.raises(RequestError, match="another version of sdlite"):
        Ledger(folder)


def test_what_others_put_into_the_folder_stays(folder: Path) -> None:
    Ledger(folder).close()
    foreign, ours = folder / "pictures" / "cat.png", folder / "pictures" / f"{'ab' * 8}-0.png"
    half = folder / "pictures" / f".{'ab' * 8}-0.png.0123456789ab.tmp"
    for path in (foreign, ours, half):
        path.write_bytes(b"x")
    Ledger(folder).close()
    assert foreign.exists() and not ours.exists() and not half.exists()


def test_a_job_no_version_can_read(serve: Any, folder: Path) -> None:
    client = serve(SLOW, state=folder)
    job = submitted(client, steps=100, guidance=1)
    client.stop(client)
    with sqlite3.connect(folder / "jobs.sqlite") as base:
        base.execute('UPDATE jobs SET requests = \'[{"request": {"no": 1}, "pictures": {}}]\'')
    base.close()
    client = serve(state=folder)
    found = ended(client, job)
    assert found["state"] == "failed" and "cannot read it" in found["error"]


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is for others")
def test_killed_at_random_points(place: Path, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    asked = server_state.bodies(10, 2, 64, seed=1)
    with sdlite.load("tiny", runtime="null") as pipe:
        pictures = server_state.expected(pipe, asked)
    played = server_state.play(
        "tiny",
        asked,
        pictures,
        folder,
        kills=2,
        seed=3,
        between=(0.2, 0.8),
        options=("--runtime", "null"),
        program=(sys.executable, "-c", PROGRAM, "0.01"),
    )
    assert played.wrong == [] and len(played.accepted) + played.unheard >= 10


def test_outpainting_is_kept_too(serve: Any, folder: Path) -> None:
    client = serve(SLOW, state=folder)
    first = submitted(client, steps=100, guidance=1)
    wide = submitted(client, edit={"image": picture()}, outpaint={"right": 16}, steps=4)
    client.stop(client)
    client = serve(state=folder)
    client.delete(f"{API}jobs/{first['id']}")
    done = ended(client, wide)
    assert done["state"] == "done" and image(client, done).size == (80, 64)
