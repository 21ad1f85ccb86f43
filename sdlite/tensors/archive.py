"""The zip archive that torch writes: names by rule, members stored, everything inside the file."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sdlite.errors import SourceCorrupt, SourceError, SourceHostile

MAX_PROGRAM_BYTES = 16 << 20
"""The pickle of a full Stable Diffusion checkpoint has under 1 MB."""
MAX_MEMBERS = 200_000
LOCAL_HEADER = 30
"""Fixed part of a zip member's header: signature, 22 bytes, name length, extra length."""
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850")
"""How files of torch before 1.6 start: no archive, several pickles in a row."""
NAME = re.compile(
    r"(?P<root>[^/\\:\0]{1,255})/(?:(?P<program>data\.pkl)|data/(?P<key>[0-9]{1,10})|"
    r"version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)"
)
"""All that torch writes; anything else in the archive is refused."""


@dataclass(frozen=True)
class Member:
    """Where a stored member's bytes lie."""

    offset: int
    """First byte within the file."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Archive:
    """A checked archive."""

    program: bytes
    """The pickle."""
    storages: Mapping[str, Member]
    """Tensor data by storage key."""


def open_archive(path: Path) -> Archive:
    """Check names, places and compression of all members and read the pickle.

    Raises ``SourceHostile`` for names that torch does not write, ``SourceCorrupt`` for a damaged
    archive, ``SourceError`` for files that cannot be read or are of a kind that is not.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(16)
            if not start.startswith(b"PK"):
                raise _no_archive(path, start)
            with zipfile.ZipFile(stream) as archive:
                infos = archive.infolist()
            members = _members(path, infos)
            places = {name: _place(path, stream, size, info) for name, info in members.items()}
            _check_apart(path, places)
            program = _read(stream, places["program"])
            if "byteorder" in places and _read(stream, places["byteorder"]).strip() != b"little":
                raise SourceError(f"{path.name}: written on a big-endian machine; not supported")
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        zipfile.BadZipFile,
        struct.error,
        ValueError,
        OverflowError,
        IndexError,
        NotImplementedError,
        EOFError,
        RuntimeError,
    ) as error:
        raise SourceCorrupt(
            f"{path.name}: damaged archive ({error}); the file is truncated, get it again"
        ) from error
    storages = {name[5:]: place for name, place in places.items() if name.startswith("data/")}
    return Archive(program, storages)


def _no_archive(path: Path, start: bytes) -> SourceError:
    return SourceCorrupt(
        f"{path.name}: starts with {start[:4].hex(' ') or 'nothing'}, it is no PyTorch checkpoint"
    )


def _members(path: Path, infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Members by role: ``program``, ``byteorder``, ``data/<key>``; the rest only checked."""
    if len(infos) > MAX_MEMBERS:
        raise SourceCorrupt(f"{path.name}: {len(infos)} members, more than any checkpoint has")
    found: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for info in infos:
        match = NAME.fullmatch(info.orig_filename)
        if match is None or match["root"] in (".", ".."):
            raise SourceHostile(
                f"{path.name}: archive member {info.orig_filename[:80]!r} is nothing that PyTorch "
                "writes; refused"
            )
        roots.add(match["root"])
        role = info.orig_filename.split("/", 1)[1]
        role = "program" if match["program"] else role
        if role in found:
            raise SourceHostile(f"{path.name}: archive member {role!r} twice; refused")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise SourceError(
                f"{path.name}: archive member {role!r} is compressed; PyTorch never does that, "
                "unpack and store it again"
            )
        if info.flag_bits & 0x1:
            raise SourceError(f"{path.name}: the archive is encrypted")
        found[role] = info
    if "program" not in found:
        raise SourceCorrupt(f"{path.name}: the archive has no data.pkl; it is no checkpoint")
    if len(roots) != 1:
        raise SourceHostile(f"{path.name}: archive with {len(roots)} top folders; refused")
    if found["program"].file_size > MAX_PROGRAM_BYTES:
        raise SourceCorrupt(
            f"{path.name}: data.pkl of {found['program'].file_size} bytes, "
            f"at most {MAX_PROGRAM_BYTES} make sense"
        )
    return found


def _place(path: Path, stream: BinaryIO, size: int, info: zipfile.ZipInfo) -> Member:
    stream.seek(info.header_offset)
    header = stream.read(LOCAL_HEADER)
    if len(header) < LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise SourceCorrupt(f"{path.name}: no member at byte {info.header_offset}; damaged archive")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    offset = info.header_offset + LOCAL_HEADER + name_length + extra_length
    if offset + info.file_size > size:
        raise SourceCorrupt(
            f"{path.name}: member of {info.file_size} bytes at byte {offset} of {size}; "
            "the file is truncated, get it again"
        )
    return Member(offset, info.file_size)


def _check_apart(path: Path, places: Mapping[str, Member]) -> None:
    end = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].offset, item[1].size)):
        if place.offset < end:
            raise SourceHostile(f"{path.name}: archive member {name!r} overlaps another; refused")
        end = place.offset + place.size


def _read(stream: BinaryIO, place: Member) -> bytes:
    stream.seek(place.offset)
    return stream.read(place.size)
