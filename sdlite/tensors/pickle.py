"""Read ``.ckpt``, ``.pt`` and ``.bin`` files without executing anything.

Such a file is a pickle (a program for a small stack machine) and the tensors' bytes, in a zip
archive or, before PyTorch 1.6, in a row. A pickle names functions to call; the standard library
imports and calls them. Here a machine of our own interprets the program over inert values: a name
is only ever compared with lists, the few functions that build tensors become records (storage,
offset, shape, strides), and a name that no list has ends the reading with ``SourceHostile``.
Nothing is imported, so nothing can run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import as_strided

from sdlite.errors import SourceCorrupt, SourceHostile
from sdlite.tensors.archive import Archive, open_archive
from sdlite.tensors.base import ITEM_BYTES, TensorInfo, read_elements
from sdlite.tensors.legacy import is_legacy, open_legacy
from sdlite.tensors.pickle_machine import run
from sdlite.tensors.pickle_values import TensorRecord
from sdlite.types import Array

MAX_NESTING = 4
"""How deep tensors may lie below the top of the file."""
MAX_TENSORS = 100_000


@dataclass(frozen=True)
class PickleFile:
    """A checked pickle checkpoint; tensors are read one at a time from the stored archive."""

    path: Path
    """The file."""
    archive: Archive
    """Where its members lie."""
    records: Mapping[str, TensorRecord]
    """Storage, offset, shape and strides by tensor name."""
    entries: Mapping[str, TensorInfo]
    """Shape and dtype by name."""

    def infos(self) -> Mapping[str, TensorInfo]:
        """Every tensor's shape and dtype, by name."""
        return self.entries

    def read(self, name: str) -> Array:
        """Read one tensor, contiguous; raises ``SourceCorrupt`` when it is not there."""
        if name not in self.records:
            raise SourceCorrupt(f"{self.path.name}: no tensor {name!r}")
        record = self.records[name]
        if 0 in record.shape:
            return np.zeros(record.shape, np.float32)
        reach = 1 + sum(
            (extent - 1) * stride
            for extent, stride in zip(record.shape, record.strides, strict=True)
        )
        storage = record.storage
        start = self.archive.storages[storage.key].offset
        start += record.offset * ITEM_BYTES[storage.dtype]
        flat = read_elements(self.path, start, reach, storage.dtype, name)
        item = flat.itemsize
        view = as_strided(flat, record.shape, tuple(stride * item for stride in record.strides))
        return np.ascontiguousarray(view).reshape(record.shape)


def open_pickle(path: Path) -> PickleFile:
    """Interpret a checkpoint's pickle and check every tensor against the archive.

    Raises ``SourceHostile`` for a pickle that names anything but tensors and plain data,
    ``SourceCorrupt`` for a damaged file, ``SourceError`` for one that cannot be read.
    """
    archive, top = _open(path)
    return _checked(path, archive, _state_dict(path, top))


def open_nested(path: Path) -> PickleFile:
    """The same for a file whose tensors lie in mappings within each other.

    A tensor is named by the keys that lead to it, joined by dots: ``string_to_param.*``. Raises
    what ``open_pickle`` raises.
    """
    archive, top = _open(path)
    records: dict[str, TensorRecord] = {}
    pending: list[tuple[str, object, int]] = [("", top, 0)]
    while pending:
        name, value, depth = pending.pop()
        if isinstance(value, TensorRecord) and name:
            records[name] = value
        elif isinstance(value, dict) and depth < MAX_NESTING:
            for key, inner in value.items():
                if isinstance(key, str):
                    pending.append((f"{name}.{key}" if name else key, inner, depth + 1))
        if len(pending) + len(records) > MAX_TENSORS:
            raise SourceCorrupt(f"{path.name}: holds more than {MAX_TENSORS} values by name")
    if not records:
        raise SourceCorrupt(f"{path.name}: holds no tensors by name")
    return _checked(path, archive, records)


def _open(path: Path) -> tuple[Archive, object]:
    """Where a file's storages lie, and what its pickle makes."""
    if is_legacy(path):
        return open_legacy(path)
    archive = open_archive(path)
    return archive, run(archive.program, path.name)


def _checked(path: Path, archive: Archive, records: dict[str, TensorRecord]) -> PickleFile:
    for name, record in records.items():
        _check(path, archive, name, record)
    entries = {
        name: TensorInfo(record.shape, record.storage.dtype) for name, record in records.items()
    }
    return PickleFile(path, archive, records, entries)


def _state_dict(path: Path, top: object) -> dict[str, TensorRecord]:
    """The tensors: the top mapping itself, or what it holds under ``state_dict``."""
    for _ in range(MAX_NESTING):
        if not isinstance(top, dict) or "state_dict" not in top:
            break
        top = top["state_dict"]
    if not isinstance(top, dict):
        raise SourceCorrupt(f"{path.name}: holds a {type(top).__name__}, not named tensors")
    records = {
        key: value
        for key, value in top.items()
        if isinstance(key, str) and isinstance(value, TensorRecord)
    }
    if not records:
        raise SourceCorrupt(f"{path.name}: holds no tensors by name; it is no model checkpoint")
    return records


def _check(path: Path, archive: Archive, name: str, record: TensorRecord) -> None:
    storage = record.storage
    what = f"{path.name}: tensor {name[:80]}"
    if storage.key not in archive.storages:
        raise SourceCorrupt(f"{what}: its data (storage {storage.key[:40]!r}) is not in the file")
    available = archive.storages[storage.key].size // ITEM_BYTES[storage.dtype]
    if storage.count > available:
        raise SourceCorrupt(
            f"{what}: storage of {storage.count} elements, the file has {available}; "
            "the file is truncated, get it again"
        )
    count = reach = 1
    for extent, stride in zip(record.shape, record.strides, strict=True):
        count *= extent
        reach += max(extent - 1, 0) * stride
    if count and record.offset + reach > storage.count:
        raise SourceCorrupt(
            f"{what}: reaches element {record.offset + reach} of a storage of {storage.count}"
        )
    # A stride of 0 repeats elements: a small file could ask for terabytes.
    if count > storage.count:
        raise SourceHostile(f"{what}: {count} elements from a storage of {storage.count}; refused")
