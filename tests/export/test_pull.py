"""Fetching from a hub, against a small server on this machine that imitates one."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sdlite_export import pull as pull_module
from sdlite_export.pull import STATE, PullPlan, pull, pulled
from sdlite_export.source import open_source

from sdlite.errors import (
    Cancelled,
    OutputError,
    RequestError,
    SourceCorrupt,
    SourceError,
    SourceHostile,
)

COMMIT = "c0ffee" + "0" * 34
LARGE = (".safetensors", ".ckpt", ".bin")


@dataclass
class Hub:
    """What the server offers and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    """Bytes after which the first transfer of a file breaks off."""
    ranges: bool = True
    lies: dict[str, str] = field(default_factory=dict)
    """Wrong checksums to state."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def info(self) -> dict[str, object]:
        siblings = []
        for path, data in self.files.items():
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": git}
            if path.endswith(LARGE):
                sha = self.lies.get(path, hashlib.sha256(data).hexdigest())
                entry["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 130}
            elif path in self.lies:
                entry["blobId"] = self.lies[path]
            siblings.append(entry)
        return {
            "id": "org/name",
            "modelId": "org/name",
            "sha": COMMIT,
            "private": False,
            "tags": ["diffusers", "license:mit"],
            "siblings": siblings,
        }

    def fetched(self, path: str) -> list[str | None]:
        """The ``Range`` header of every transfer of a file."""
        return [
            asked for seen, asked in self.requests if seen.endswith(f"/resolve/{COMMIT}/{path}")
        ]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(
            self, status: int, data: bytes, headers: Mapping[str, str], cut: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if cut is None else data[:cut])
            if cut is not None:
                self.close_connection = True

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            state.requests.append((path, self.headers.get("Range")))
            if state.status != 200:
                self.answer(state.status, b'{"error": "no"}', state.headers)
            elif path in ("/api/models/org/name", "/api/models/org/name/revision/v1"):
                data = json.dumps(state.info()).encode()
                self.answer(200, data, {"Content-Type": "application/json"})
            elif path.startswith(f"/org/name/resolve/{COMMIT}/"):
                self.send_file(path.split("/", 5)[5])
            else:
                self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

        def send_file(self, name: str) -> None:
            data = state.files[name]
            cut = state.cut.pop(name, None)
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if asked and state.ranges:
                start = int(asked[1])
                where = f"bytes {start}-{len(data) - 1}/{len(data)}"
                self.answer(206, data[start:], {"Content-Range": where}, cut)
            else:
                self.answer(200, data, {}, cut)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setattr(pull_module, "PAUSE_SECONDS", 0.0)
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def yes(plan: PullPlan) -> bool:
    return True


@pytest.fixture
def diffusers(hub: Hub, tiny_checkpoint: Path) -> Hub:
    """The tiny model as a repository, with much in it that no export needs."""
    for path in tiny_checkpoint.rglob("*"):
        if path.is_file():
            hub.files[path.relative_to(tiny_checkpoint).as_posix()] = path.read_bytes()
    for extra in ("safety_checker/model.safetensors", "unet/diffusion_pytorch_model.bin", "a.png"):
        hub.files[extra] = b"not needed"
    hub.files["README.md"] = b"---\nlicense: mit\n---\n"
    return hub


def test_a_diffusers_model_is_fetched_verified_and_readable(
    diffusers: Hub, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    seen: list[PullPlan] = []
    steps: list[tuple[str, int, int]] = []

    def confirm(plan: PullPlan) -> bool:
        seen.append(plan)
        assert list(tmp_path.iterdir()) == []
        return True

    path = pull(
        "org/name",
        tmp_path / "model",
        confirm=confirm,
        endpoint=diffusers.address,
        progress=lambda *step: steps.append(step),
    )
    assert path == tmp_path / "model"
    assert [item.name for item in tmp_path.iterdir()] == ["model"]
    assert not (path / "safety_checker").exists() and not (path / "a.png").exists()
    assert open_source(path).licence.id == "mit"
    plan = seen[0]
    assert (plan.licence, plan.revision, plan.single) == ("mit", COMMIT, False)
    files = [item for item in path.rglob("*") if item.is_file() and item.name != STATE]
    assert plan.size == sum(item.stat().st_size for item in files)
    assert steps[-1][1:] == (plan.size, plan.size)
    assert [step[1] for step in steps] == sorted(step[1] for step in steps)


def test_half_precision_weights_are_preferred(diffusers: Hub, tmp_path: Path) -> None:
    weights = "unet/diffusion_pytorch_model"
    diffusers.files[f"{weights}.fp16.safetensors"] = diffusers.files[f"{weights}.safetensors"]
    path = pull("org/name", tmp_path / "model", confirm=yes, endpoint=diffusers.address)
    assert (path / f"{weights}.fp16.safetensors").is_file()
    assert not (path / f"{weights}.safetensors").exists()


def test_a_single_file_model_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"model.safetensors": b"x" * 1000, "README.md": b"---\nlicense: mit\n---\n"}
    path = pull("org/name", tmp_path / "m", confirm=yes, endpoint=hub.address, revision="v1")
    assert path == tmp_path / "m" / "model.safetensors"
    assert path.read_bytes() == b"x" * 1000
    assert (tmp_path / "m" / "README.md").is_file()
    assert pulled(tmp_path / "m", "org/name", "v1") == path
    for other in (("org/name", None), ("org/name/model.safetensors", "v1"), ("org/other", "v1")):
        assert pulled(tmp_path / "m", *other) is None
    path.unlink()
    assert pulled(tmp_path / "m", "org/name", "v1") is None


ASKED = '{"asked": {"repo": "org/name", "file": null, "revision": null}, "source": %s}'


@pytest.mark.parametrize(
    "record",
    [
        *("", "[]", "5", '{"asked": 1}', "[" * 60_000),
        *(ASKED % source for source in ("7", "{}", '["x"]', '"../x"', '"none"')),
    ],
)
def test_only_a_record_of_its_own_is_believed(tmp_path: Path, record: str) -> None:
    (tmp_path / "x").write_text("")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / STATE).write_text(record)
    assert pulled(folder, "org/name") is None
    (folder / STATE).write_text(ASKED % '""')
    assert pulled(folder, "org/name") == folder


def test_one_of_several_models_must_be_named(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"a.safetensors": b"a", "b.safetensors": b"b", "x/c.ckpt": b"c"}
    with pytest.raises(RequestError, match=r"several models; name one, e\.g\. org/name/a\.safete"):
        pull("org/name", tmp_path / "m", confirm=yes, endpoint=hub.address)
    path = pull("org/name/x/c.ckpt", tmp_path / "m", confirm=yes, endpoint=hub.address)
    assert path == tmp_path / "m" / "x" / "c.ckpt"
    with pytest.raises(RequestError, match=r"has no file 'd\.ckpt'"):
        pull("org/name/d.ckpt", tmp_path / "n", confirm=yes, endpoint=hub.address)


def test_saying_no_fetches_nothing(diffusers: Hub, tmp_path: Path) -> None:
    with pytest.raises(Cancelled, match="was not fetched"):
        pull("org/name", tmp_path / "m", confirm=lambda _: False, endpoint=diffusers.address)
    assert [path for path, _ in diffusers.requests] == ["/api/models/org/name"]
    assert list(tmp_path.iterdir()) == []


def test_a_broken_connection_is_taken_up_again(hub: Hub, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    hub.files = {"model.safetensors": data}
    hub.cut["model.safetensors"] = 5000
    path = pull("org/name", tmp_path / "m", confirm=yes, endpoint=hub.address)
    assert path.read_bytes() == data
    assert hub.fetched("model.safetensors") == [None, "bytes=5000-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_pull_goes_on_the_next_time(hub: Hub, tmp_path: Path, ranges: bool) -> None:
    data = bytes(range(256)) * 10_000  # more than one piece
    hub.files = {"model.safetensors": data}
    hub.ranges = ranges

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("org/name", tmp_path / "m", confirm=yes, endpoint=hub.address, progress=interrupt)
    assert not (tmp_path / "m").exists()
    path = pull("org/name", tmp_path / "m", confirm=yes, endpoint=hub.address)
    assert path.read_bytes() == data
    first, second = hub.fetched("model.safetensors")
    assert first is None and second is not None and second != "bytes=0-"
    assert [item.name for item in tmp_path.iterdir()] == ["m"]


def test_files_of_another_revision_are_not_mixed_in(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"model.safetensors": b"new" * 100}
    staging = tmp_path / ".m.sdlite-pull"
    staging.mkdir()
    (staging / "model.safetensors").write_bytes(b"old" * 50)
    path = pull("org/name", tmp_path / "m", confirm=yes, endpoint=hub.address)
    assert path.read_bytes() == b"new" * 100
    assert hub.fetched("model.safetensors") == [None]


@pytest.mark.parametrize("name", ["model.safetensors", "README.md"])
def test_a_wrong_checksum_is_refused_and_the_file_deleted(
    hub: Hub, tmp_path: Path, name: str
) -> None:
    hub.files = {"model.safetensors": b"model", "README.md": b"card"}
    hub.lies[name] = "0" * (64 if name.endswith(LARGE) else 40)
    with pytest.raises(SourceCorrupt, match=r"the hub states 0000000000000000\.\.\.; it was del"):
        pull("org/name", tmp_path / "m", confirm=yes, endpoint=hub.address)
    assert not (tmp_path / "m").exists()
    assert not (tmp_path / ".m.sdlite-pull" / name).exists()


def test_a_path_that_leads_outside_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"../evil.safetensors": b"x"}
    with pytest.raises(SourceHostile, match="leads outside; refused"):
        pull("org/name", tmp_path / "m", confirm=yes, endpoint=hub.address)


def test_too_little_space_is_told_first(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {"model.safetensors": b"x" * 100}

    def full(folder: Path, needed: int) -> None:
        assert needed == 100
        raise OutputError("not enough disk space")

    monkeypatch.setattr(pull_module, "check_space", full)
    with pytest.raises(OutputError, match="not enough disk space"):
        pull("org/name", tmp_path / "m", confirm=yes, endpoint=hub.address)
    assert hub.fetched("model.safetensors") == []


def test_nothing_to_export_is_told(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"config.json": b"{}", "tokenizer.json": b"{}"}
    with pytest.raises(SourceError, match=r"neither a complete .* it has config\.json, tokenizer"):
        pull("org/name", tmp_path / "m", confirm=yes, endpoint=hub.address)


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "the hub has no model 'org/name'"),
        (403, {"X-Error-Code": "GatedRepo"}, "asks you to accept its terms"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision 'v1'"),
        (418, {}, "the hub refused org/name: "),
    ],
)
def test_the_hubs_refusals_are_told_in_one_line(
    hub: Hub, tmp_path: Path, status: int, headers: dict[str, str], words: str
) -> None:
    hub.status, hub.headers = status, headers
    with pytest.raises(SourceError, match=words) as caught:
        pull("org/name", tmp_path / "m", confirm=yes, endpoint=hub.address, revision="v1")
    assert "\n" not in str(caught.value)


def test_being_offline_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"the hub cannot be reached .* are you online\?"):
        pull("org/name", tmp_path / "m", confirm=yes, endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["", "name", "org/", "../..", "org/na me", "https://x/y", "a/b\n"])
def test_a_bad_name_never_reaches_the_network(tmp_path: Path, name: str) -> None:
    with pytest.raises((RequestError, SourceError)):
        pull(name, tmp_path / "m", confirm=yes, endpoint="http://127.0.0.1:9")


def test_a_taken_destination_is_left_alone(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").write_text("")
    with pytest.raises(OutputError, match="exists already"):
        pull("org/name", tmp_path / "m", confirm=yes, endpoint=hub.address)
    assert hub.requests == []
