"""Compiled graphs kept on disk: one folder, one file an entry, bounded in bytes.

An entry is a line that says what the file is, a line of JSON, and what the engine exported. The
JSON holds the whole key (what was compiled, from which files, how, for what, by which version) and
the hash of the rest, so that an entry is used only when all of it is what was asked for and whole;
engines read damaged data without checking it. Entries appear by renaming and disappear least
recently used first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdlite.types import Array

log = logging.getLogger("sdlite.cache")

MAGIC = b"sdlite compiled graph 1\n"
SUFFIX = ".compiled"
FOLDER_SUFFIX = ".engine"
KEY_FILE = "key.json"
TEMPORARY = ".tmp"
MAX_HEADER = 1 << 20
STALE_SECONDS = 3600
"""Unfinished files older than this belong to a process that was killed."""


@dataclass(frozen=True)
class CacheEntry:
    """One compiled graph on disk."""

    path: Path
    """The file."""
    size: int
    """Bytes."""
    used: float
    """When it was last used, seconds since 1970."""
    key: Mapping[str, str]
    """What it was made of and for; empty when the file is damaged."""


class DamagedEntry(Exception):
    """An entry is there and cannot be used: it is damaged, or not what its name says."""


def read(folder: Path, key: Mapping[str, str]) -> bytes | None:
    """What was stored under a key, or None.

    Raises ``DamagedEntry`` when there is a file in its place that is not that entry.
    """
    path = _path(folder, key)
    try:
        with path.open("rb") as stream:
            header = _header(stream.read(len(MAGIC)), stream.readline(MAX_HEADER))
            if header["key"] != dict(key):
                raise DamagedEntry(f"{path.name} was made for something else")
            blob = stream.read()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DamagedEntry(f"{path.name} is damaged: {error}") from error
    if hashlib.sha256(blob).hexdigest() != header["sha256"]:
        raise DamagedEntry(f"{path.name} is damaged: its content has another hash")
    with contextlib.suppress(OSError):
        os.utime(path)  # used now
    return blob


def write(folder: Path, key: Mapping[str, str], blob: bytes, limit: int | None = None) -> bool:
    """Store an entry, whole or not at all, and make room for it; whether it is stored now.

    An entry that alone exceeds the limit is not stored, and a folder that cannot be written to is
    none: both are logged, and the caller goes on with what it has.
    """
    head = {"key": dict(key), "sha256": hashlib.sha256(blob).hexdigest()}
    data = MAGIC + json.dumps(head).encode() + b"\n"
    size = len(data) + len(blob)
    if limit is not None and size > limit:
        log.info("%s of %s compiled are not kept: the limit is %d bytes", size, key, limit)
        return False
    path = _path(folder, key)
    temporary = path.with_name(f"{path.name}.{os.urandom(6).hex()}{TEMPORARY}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _forget_unfinished(folder)
        shrink(folder, None if limit is None else limit - size, spare=path)
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.write(blob)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        log.warning("the compiled graph cannot be kept in %s: %s", folder, error.strerror)
        return False
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def engine_folder(folder: Path, key: Mapping[str, str], limit: int | None = None) -> Path | None:
    """A folder for what an engine keeps by itself under a key, made if needed; used now.

    It is an entry like the others and counts as they do, but its size is the engine's business, so
    room is made for what is there already. None when it cannot be made.
    """
    path = _path(folder, key).with_suffix(FOLDER_SUFFIX)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / KEY_FILE).write_text(json.dumps(dict(key)), encoding="utf-8")
        os.utime(path)
    except OSError as error:
        log.warning("what was compiled cannot be kept in %s: %s", folder, error.strerror)
        return None
    shrink(folder, limit, spare=path)
    return path


def entries(folder: Path) -> tuple[CacheEntry, ...]:
    """Entries of a folder, last used first."""
    found = (*_entries(folder), *_engine_entries(folder))
    return tuple(sorted(found, key=lambda entry: (-entry.used, entry.path.name)))


def shrink(folder: Path, limit: int | None, spare: Path | None = None) -> tuple[CacheEntry, ...]:
    """Delete entries, least recently used first, until the rest takes at most ``limit`` bytes.

    ``spare`` is about to be replaced: it neither counts nor is deleted. Returns what was deleted;
    a file that cannot be (it is open, on Windows) stays and counts.
    """
    if limit is None:
        return ()
    found = [entry for entry in entries(folder) if entry.path != spare]
    total = sum(entry.size for entry in found)
    gone = []
    for entry in reversed(found):
        if total <= limit:
            break
        if _delete(entry.path):
            total -= entry.size
            gone.append(entry)
    return tuple(gone)


def clear(folder: Path) -> tuple[CacheEntry, ...]:
    """Delete every entry and every unfinished file; returns the entries deleted."""
    _forget_unfinished(folder, older=-1)
    return tuple(entry for entry in entries(folder) if _delete(entry.path))


def file_facts(path: Path) -> str:
    """What tells a file from its former self without reading it: place, size and time."""
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def tensors_hash(tensors: Mapping[str, Array], names: Iterable[str]) -> str:
    """Hash of the named tensors: names, dtypes, shapes and values; empty when there is none."""
    digest = hashlib.sha256()
    any_of = False
    for name in sorted(names):
        array = tensors[name]
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
        any_of = True
    return digest.hexdigest() if any_of else ""


def _path(folder: Path, key: Mapping[str, str]) -> Path:
    text = json.dumps(dict(key), sort_keys=True)
    component = "".join(c for c in key.get("component", "") if c.isalnum() or c == "_")[:40]
    return folder / f"{component}-{hashlib.sha256(text.encode()).hexdigest()[:32]}{SUFFIX}"


def _header(magic: bytes, line: bytes) -> dict[str, object]:
    if magic != MAGIC:
        raise ValueError("it is no compiled graph of this version of sdlite")
    header = json.loads(line)
    if not isinstance(header, dict) or not isinstance(header.get("key"), dict):
        raise ValueError("its header is not one")
    return {"key": header["key"], "sha256": header.get("sha256")}


def _entries(folder: Path) -> Iterator[CacheEntry]:
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):
            status = path.stat()
            key: dict[str, str] = {}
            try:
                with path.open("rb") as stream:
                    header = _header(stream.read(len(MAGIC)), stream.readline(MAX_HEADER))
                if isinstance(header["key"], dict):
                    key = {str(name): str(value) for name, value in header["key"].items()}
            except ValueError:
                log.info("%s is no entry", path)
            yield CacheEntry(path, status.st_size, status.st_mtime, key)


def _engine_entries(folder: Path) -> Iterator[CacheEntry]:
    for path in folder.glob(f"*{FOLDER_SUFFIX}"):
        with contextlib.suppress(OSError):
            used = path.stat().st_mtime
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            key: dict[str, str] = {}
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stored = json.loads((path / KEY_FILE).read_text(encoding="utf-8"))
                key = {str(name): str(value) for name, value in stored.items()}
            yield CacheEntry(path, size, used, key)


def _forget_unfinished(folder: Path, older: float = STALE_SECONDS) -> None:
    for path in folder.glob(f"*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > older:
                path.unlink()


def _delete(path: Path) -> bool:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.info("%s cannot be deleted: %s", path, error.strerror)
        return False
    return True
