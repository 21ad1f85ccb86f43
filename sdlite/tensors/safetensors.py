"""Read ``.safetensors`` files with our own eyes: nothing in them is believed before it is checked.

The format: 8 bytes little-endian header length, that many bytes of a JSON object, then data. Each
entry gives dtype, shape and begin and end within the data; the data is covered without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlite.errors import SourceCorrupt, SourceError
from sdlite.tensors.base import ITEM_BYTES, TensorInfo, read_elements
from sdlite.types import Array

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
MAX_DIMENSIONS = 32
"""More than any array library holds; a longer shape is refused before it is multiplied out."""

DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "I64": "int64",
    "U64": "uint64",
    "F64": "float64",
}
FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E8M0")
"""Known to the format, read by nobody here; named so that the error can say what to do."""


@dataclass(frozen=True)
class SafetensorsFile:
    """A checked ``.safetensors`` file; tensors are read one at a time, each by its own read."""

    path: Path
    """The file."""
    metadata: Mapping[str, str]
    """Its ``__metadata__``; free text by whoever wrote the file."""
    entries: Mapping[str, TensorInfo]
    """Shape and dtype by name, in file order."""
    offsets: Mapping[str, int]
    """First byte of each tensor within the file."""

    def infos(self) -> Mapping[str, TensorInfo]:
        """Every tensor's shape and dtype, by name."""
        return self.entries

    def read(self, name: str) -> Array:
        """Read one tensor; raises ``SourceCorrupt`` when it is not (or no longer) there."""
        if name not in self.entries:
            raise SourceCorrupt(f"{self.path.name}: no tensor {name!r}")
        info = self.entries[name]
        array = read_elements(self.path, self.offsets[name], info.count, info.dtype, name)
        return array.reshape(info.shape)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Read and check a file's header.

    Raises ``SourceCorrupt`` with the first defect found, ``SourceError`` when the file cannot be
    read or holds a dtype that is not supported.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = _header_length(path, stream.read(8), size)
            text = stream.read(length)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    if len(text) != length:
        raise _bad(path, f"ends after {8 + len(text)} bytes, inside its header")
    header = _parse(path, text)
    metadata = _metadata(path, header.pop("__metadata__", {}))
    start = 8 + length
    entries: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    for name, value in header.items():
        entries[name], begin, end = _entry(path, name, value)
        spans.append((begin, end, name))
    spans.sort()
    _check_cover(path, spans, size - start)
    ordered = {name: entries[name] for _, _, name in spans}
    offsets = {name: start + begin for begin, _, name in spans}
    return SafetensorsFile(path, metadata, ordered, offsets)


def _bad(path: Path, what: str) -> SourceCorrupt:
    return SourceCorrupt(f"{path.name}: {what}; the file is damaged, get it again")


def _show(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _header_length(path: Path, first: bytes, size: int) -> int:
    if len(first) < 8:
        raise _bad(path, f"only {len(first)} bytes, too short for a .safetensors file")
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER_BYTES:
        raise _bad(path, f"header length {length}, the format allows {MAX_HEADER_BYTES}")
    if length > size - 8:
        raise _bad(path, f"header of {length} bytes in a file of {size}")
    if length < 2:
        raise _bad(path, f"header length {length}, too short for a JSON object")
    return length


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in items:
            if name in found:
                raise _bad(path, f"header names {_show(name)} twice")
            found[name] = value
        return found

    def constant(word: str) -> Any:
        raise _bad(path, f"header contains {word}, which is not JSON")

    if text[:1] != b"{":
        raise _bad(path, f"header starts with {_show(text[:1])} instead of '{{'")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(path, f"header is not UTF-8 at byte {error.start}") from error
    try:
        header = json.loads(decoded, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError as error:
        raise _bad(path, "header is nested too deeply") from error
    except ValueError as error:
        raise _bad(path, f"header is not JSON: {error}") from error
    assert isinstance(header, dict)  # it starts with a brace
    return header


def _metadata(path: Path, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _bad(path, f"__metadata__ is {_show(value)}, not an object")
    for key, text in value.items():
        if not isinstance(text, str):
            raise _bad(path, f"__metadata__ entry {_show(key)} is {_show(text)}, not a string")
    return value


def _entry(path: Path, name: str, value: object) -> tuple[TensorInfo, int, int]:
    what = f"tensor {_show(name)}"
    if not isinstance(value, dict):
        raise _bad(path, f"{what} is described by {_show(value)}, not an object")
    wrong = sorted({"dtype", "shape", "data_offsets"} ^ set(value))
    if wrong:
        state = "unknown" if wrong[0] in value else "missing"
        raise _bad(path, f"{what}: field {_show(wrong[0])} is {state}")
    dtype = _dtype(path, what, value["dtype"])
    shape = value["shape"]
    if not isinstance(shape, list) or not all(_is_size(extent) for extent in shape):
        raise _bad(path, f"{what}: shape {_show(shape)} is not a list of sizes")
    if len(shape) > MAX_DIMENSIONS:
        raise _bad(path, f"{what}: {len(shape)} dimensions, at most {MAX_DIMENSIONS} make sense")
    span = value["data_offsets"]
    if not isinstance(span, list) or len(span) != 2 or not all(_is_size(at) for at in span):
        raise _bad(path, f"{what}: data_offsets {_show(span)} are not two sizes")
    begin, end = span
    info = TensorInfo(tuple(shape), dtype)
    if begin > end:
        raise _bad(path, f"{what}: begins at {_show(begin)} after its end {_show(end)}")
    if end - begin != info.count * ITEM_BYTES[dtype]:
        raise _bad(
            path,
            f"{what}: shape {_show(shape)} of {value['dtype']} does not take the "
            f"{_show(end - begin)} bytes of its offsets",
        )
    return info, begin, end


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _dtype(path: Path, what: str, value: object) -> str:
    if isinstance(value, str) and value in DTYPES:
        return DTYPES[value]
    if value in FLOAT8:
        raise SourceError(
            f"{path.name}: {what} is stored as {value}; float8 weights are not read, "
            "use the fp16 file of this model"
        )
    raise _bad(path, f"{what}: unknown dtype {_show(value)}")


def _check_cover(path: Path, spans: list[tuple[int, int, str]], available: int) -> None:
    """The data is covered from its first byte to its last, each byte once."""
    position = 0
    previous = ""
    for begin, end, name in spans:
        what = f"tensor {_show(name)}"
        if end > available:
            raise SourceCorrupt(
                f"{path.name}: {what} ends at byte {end} of the data, of which there are "
                f"{max(available, 0)}; the file is truncated, get it again"
            )
        if begin < position:
            raise _bad(path, f"{what} overlaps tensor {_show(previous)}")
        if begin > position:
            raise _bad(path, f"{begin - position} unused bytes before {what}")
        position, previous = end, name
    if position != available:
        raise _bad(path, f"{available - position} bytes after the last tensor")
