"""Read ``.gguf`` files, GGML's: nothing in them is believed before it is checked.

The format (versions 2 and 3, little-endian): the letters GGUF, a version, the numbers of tensors
and of metadata entries; the entries; a name, shape, type and place for each tensor; padding; data.
Shapes run from the fastest axis to the slowest, the other way round than elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from sdlite.errors import SourceCorrupt, SourceError
from sdlite.tensors.base import TensorInfo, read_elements
from sdlite.tensors.ggml import BLOCKS, PLAIN, BlockFormat
from sdlite.types import Array

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 100_000_000
"""As for safetensors; whole vocabularies of language models stay below."""
MAX_NAME_BYTES = 1 << 16
MAX_ENTRIES = 1 << 20
"""Tensors or metadata entries that a file may claim to have."""
MAX_DIMENSIONS = 4
"""ggml's own limit."""
MAX_ALIGNMENT = 1 << 20
KEPT_TEXT_BYTES = 1 << 16
"""Longer texts of the metadata are left out."""
ALIGNMENT = "general.alignment"
LICENCE = ("general.license", "modelspec.license")
"""Where the licence stands, and under which name the rest of sdlite looks for it."""

VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a metadata value by its type."""
UINT32, TEXT, LIST = 4, 8, 9
"""Types of metadata values that matter."""


@dataclass(frozen=True)
class GgufFile:
    """A checked ``.gguf`` file; tensors are read one at a time, blocks widened to float32."""

    path: Path
    """The file."""
    metadata: Mapping[str, str]
    """Its metadata, as far as it is text, and short."""
    entries: Mapping[str, TensorInfo]
    """Shape and dtype by name, in file order."""
    offsets: Mapping[str, int]
    """First byte of each tensor within the file."""
    formats: Mapping[str, BlockFormat]
    """Block format of the tensors that are stored in blocks."""

    def infos(self) -> Mapping[str, TensorInfo]:
        """Every tensor's shape and dtype, by name."""
        return self.entries

    def read(self, name: str) -> Array:
        """Read one tensor; raises ``SourceCorrupt`` when it is not (or no longer) there."""
        if name not in self.entries:
            raise SourceCorrupt(f"{self.path.name}: no tensor {name!r}")
        info, offset = self.entries[name], self.offsets[name]
        found = self.formats.get(name)
        if found is None:
            array = read_elements(self.path, offset, info.count, info.dtype, name)
        else:
            raw = read_elements(self.path, offset, info.packed_bytes, "uint8", name)
            array = found.read(raw)
        return array.reshape(info.shape)


def open_gguf(path: Path) -> GgufFile:
    """Read and check a file's header.

    Raises ``SourceCorrupt`` with the first defect found, ``SourceError`` when the file cannot be
    read, is of a version that is not supported, or holds a type that is not.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            return _Header(path, stream, size).file()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


class _Header:
    """Walks through a header; every length is compared with what is left before it is read."""

    def __init__(self, path: Path, stream: BinaryIO, size: int) -> None:
        self._path = path
        self._stream = stream
        self._size = size
        self._at = 0

    def file(self) -> GgufFile:
        """Everything the header says."""
        self._check_start()
        tensors, entries = self._count("tensors"), self._count("metadata entries")
        metadata, alignment = self._metadata(entries)
        infos: dict[str, TensorInfo] = {}
        starts: dict[str, int] = {}
        formats: dict[str, BlockFormat] = {}
        for _ in range(tensors):
            name = self._name("tensor")
            if name in infos:
                self._bad(f"tensor {name!r} is there twice")
            infos[name], found = self._tensor(name)
            if found is not None:
                formats[name] = found
            starts[name] = self._number(8)
        data = -(-self._at // alignment) * alignment
        ordered = sorted(infos, key=lambda name: (starts[name], infos[name].size))
        self._check_cover(ordered, infos, starts, data, alignment)
        return GgufFile(
            self._path,
            metadata,
            {name: infos[name] for name in ordered},
            {name: data + starts[name] for name in ordered},
            formats,
        )

    def _check_start(self) -> None:
        start = self._stream.read(8)
        self._at = 8
        if len(start) < 8 or not start.startswith(MAGIC):
            self._bad(f"starts with {start[:4]!r} instead of {MAGIC!r}")
        version = int.from_bytes(start[4:], "little")
        if int.from_bytes(start[4:], "big") in VERSIONS:
            raise SourceError(
                f"{self._path.name}: written for big-endian machines, which is not read; "
                "convert the checkpoint again"
            )
        if version not in VERSIONS:
            raise SourceError(
                f"{self._path.name}: GGUF version {version}; versions 2 and 3 are read"
            )

    def _metadata(self, entries: int) -> tuple[dict[str, str], int]:
        """Texts by name, and the alignment of the data."""
        found: dict[str, str] = {}
        names: set[str] = set()
        alignment = 32
        for _ in range(entries):
            name = self._name("metadata entry")
            if name in names:
                self._bad(f"metadata entry {name!r} is there twice")
            names.add(name)
            kind = self._number(4)
            if name == ALIGNMENT:
                alignment = self._number(4) if kind == UINT32 else 0
                if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
                    self._bad(f"{ALIGNMENT} is no power of two up to {MAX_ALIGNMENT}")
                continue
            text = self._value(name, kind)
            if text is not None:
                found[name] = text
        if LICENCE[0] in found:
            found.setdefault(LICENCE[1], found[LICENCE[0]])
        return found, alignment

    def _value(self, name: str, kind: int) -> str | None:
        """A text that is not long; everything else is passed over."""
        if kind == TEXT:
            length = self._number(8)
            raw = self._take(length, f"metadata entry {name!r}")
            return raw.decode("utf-8", "replace") if length <= KEPT_TEXT_BYTES else None
        if kind == LIST:
            inner, count = self._number(4), self._number(8)
            if inner == TEXT:
                # Each takes 8 bytes at least, so that the end of the file ends this.
                for _ in range(count):
                    self._take(self._number(8), f"metadata entry {name!r}")
                return None
            kind, repeat = inner, count
        else:
            repeat = 1
        if kind not in VALUE_BYTES:
            self._bad(f"metadata entry {name!r} is of unknown type {kind}")
        self._take(VALUE_BYTES[kind] * repeat, f"metadata entry {name!r}")
        return None

    def _tensor(self, name: str) -> tuple[TensorInfo, BlockFormat | None]:
        what = f"tensor {name!r}"
        dimensions = self._number(4)
        if dimensions > MAX_DIMENSIONS:
            self._bad(f"{what} has {dimensions} dimensions, the format allows {MAX_DIMENSIONS}")
        shape = tuple(self._number(8) for _ in range(dimensions))[::-1]
        if any(extent >= 1 << 63 for extent in shape):
            self._bad(f"{what} has shape {list(shape)}")
        kind = self._number(4)
        if kind in PLAIN:
            return TensorInfo(shape, PLAIN[kind]), None
        if kind not in BLOCKS:
            known = ", ".join([*PLAIN.values(), *(found.name for found in BLOCKS.values())])
            raise SourceError(
                f"{self._path.name}: {what} is of ggml's type {kind}; read are {known}"
            )
        found = BLOCKS[kind]
        if not shape or shape[-1] % found.count:
            self._bad(f"{what}: rows of shape {list(shape)} are no whole {found.name} blocks")
        count = TensorInfo(shape, "float32").count
        size = count // found.count * found.size
        return TensorInfo(shape, "float32", found.name, size), found

    def _check_cover(
        self,
        names: list[str],
        infos: Mapping[str, TensorInfo],
        starts: Mapping[str, int],
        data: int,
        alignment: int,
    ) -> None:
        """Tensors follow one another with no more between them than alignment asks for."""
        end = 0
        for name in names:
            start, size = starts[name], infos[name].size
            if start % alignment:
                self._bad(f"tensor {name!r} is not aligned to {alignment} bytes")
            if start < end:
                self._bad(f"tensor {name!r} overlaps another")
            if start - end >= alignment:
                self._bad(f"{start - end} unused bytes before tensor {name!r}")
            end = start + size
            if data + end > self._size:
                raise SourceCorrupt(
                    f"{self._path.name}: tensor {name!r} ends at byte {data + end} of a file of "
                    f"{self._size}; the file is truncated, get it again"
                )
        if names and self._size - data - end >= alignment:
            self._bad(f"{self._size - data - end} bytes after the last tensor")

    def _count(self, what: str) -> int:
        count = self._number(8)
        if count > MAX_ENTRIES:
            self._bad(f"claims {count} {what}, at most {MAX_ENTRIES} make sense")
        return count

    def _name(self, what: str) -> str:
        length = self._number(8)
        if length > MAX_NAME_BYTES:
            self._bad(f"name of a {what} is {length} bytes long")
        try:
            return self._take(length, f"name of a {what}").decode("utf-8")
        except UnicodeDecodeError as error:
            raise SourceCorrupt(
                f"{self._path.name}: name of a {what} is not UTF-8; the file is damaged"
            ) from error

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size, "a number"), "little")

    def _take(self, size: int, what: str) -> bytes:
        if size > self._size - self._at:
            self._bad(f"ends inside {what}")
        if self._at + size > MAX_HEADER_BYTES:
            self._bad(f"header is longer than {MAX_HEADER_BYTES} bytes")
        raw = self._stream.read(size)
        self._at += len(raw)
        if len(raw) != size:
            self._bad(f"ends inside {what}")
        return raw

    def _bad(self, what: str) -> NoReturn:
        raise SourceCorrupt(f"{self._path.name}: {what}; the file is damaged, get it again")
