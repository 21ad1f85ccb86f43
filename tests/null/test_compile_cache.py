"""Compiled graphs on disk: whole or not at all, what was asked for or nothing, bounded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sdlite import compilecache
from sdlite.compilecache import DamagedEntry, clear, entries, read, shrink, tensors_hash, write


def key(name: str, **more: str) -> dict[str, str]:
    return {"component": "unet", "graph": name, **more}


def test_round_trip(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "when needed"
    assert read(folder, key("a")) is None
    assert entries(folder) == ()
    assert write(folder, key("a"), b"blob\n\0")
    assert write(folder, key("a", shape="2"), b"other")
    assert read(folder, key("a")) == b"blob\n\0"
    assert read(folder, key("a", shape="2")) == b"other"
    assert read(folder, key("a", shape="3")) is None
    (entry, _) = entries(folder)
    assert entry.key["graph"] == "a"
    assert entry.path.name.startswith("unet-")


def test_what_is_damaged_or_foreign_is_refused(tmp_path: Path) -> None:
    write(tmp_path, key("a"), bytes(100))
    path = entries(tmp_path)[0].path
    good = path.read_bytes()
    for bad in (b"", good[:-1], good[:30], good[:-1] + b"x", b"PK\3\4 of another program", b"{}"):
        path.write_bytes(bad)
        with pytest.raises(DamagedEntry, match="unet-"):
            read(tmp_path, key("a"))
    write(tmp_path, key("a"), b"new")
    assert read(tmp_path, key("a")) == b"new"
    write(tmp_path, key("b"), b"of b")
    other = next(entry.path for entry in entries(tmp_path) if entry.key["graph"] == "b")
    other.replace(path)
    with pytest.raises(DamagedEntry, match="made for something else"):
        read(tmp_path, key("a"))


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    for when, name in enumerate("abc"):
        write(tmp_path, key(name), bytes(1000))
        path = next(e.path for e in entries(tmp_path) if e.key["graph"] == name)
        os.utime(path, (when, when))
    read(tmp_path, key("a"))
    size = sum(entry.size for entry in entries(tmp_path))
    assert write(tmp_path, key("d"), bytes(1000), limit=size)
    assert {entry.key["graph"] for entry in entries(tmp_path)} == {"a", "c", "d"}
    assert sum(entry.size for entry in entries(tmp_path)) <= size
    assert write(tmp_path, key("d"), bytes(1001), limit=size + 1)  # replaced, nothing else goes
    assert len(entries(tmp_path)) == 3
    assert not write(tmp_path, key("e"), bytes(10_000), limit=2000)  # too large: nothing goes
    assert len(entries(tmp_path)) == 3
    assert [entry.key["graph"] for entry in shrink(tmp_path, 0)] == ["c", "a", "d"]


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, key("a"), b"blob")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_nothing_for_long(tmp_path: Path) -> None:
    left = tmp_path / f"unet-1{compilecache.SUFFIX}.abc{compilecache.TEMPORARY}"
    left.write_bytes(bytes(10))
    write(tmp_path, key("a"), b"blob")
    assert left.exists()  # another process may be writing it
    os.utime(left, (0, 0))
    write(tmp_path, key("a"), b"blob")
    assert not left.exists()


def test_no_room_and_no_folder_are_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert not write(tmp_path / "file", key("a"), b"blob")


def test_clear(tmp_path: Path) -> None:
    write(tmp_path, key("a"), b"blob")
    (tmp_path / "notes.txt").write_text("the user's own")
    (tmp_path / f"broken{compilecache.SUFFIX}").write_bytes(b"?")
    assert len(clear(tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_replaced_tensors_have_a_hash() -> None:
    one = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float16)}
    assert tensors_hash(one, []) == ""
    assert tensors_hash(one, ["a", "b"]) == tensors_hash(dict(reversed(one.items())), ["b", "a"])
    for changed in (one["a"] + 1, one["a"].reshape(3, 2), one["a"].astype(np.float16)):
        assert tensors_hash({"a": changed}, ["a"]) != tensors_hash(one, ["a"])
    assert tensors_hash({"a": one["a"].T}, ["a"]) != tensors_hash(one, ["a"])
