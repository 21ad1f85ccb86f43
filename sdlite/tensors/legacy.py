"""The format torch wrote before 1.6: pickles in a row, then the tensors' bytes one after another.

Magic number, protocol version, facts about the machine, the checkpoint, the keys of its storages:
five pickles. Then, for each key, its number of elements in 8 bytes and the elements.
"""

from __future__ import annotations

from pathlib import Path

from sdlite.errors import SourceCorrupt, SourceError
from sdlite.tensors.archive import LEGACY_MAGIC, MAX_MEMBERS, MAX_PROGRAM_BYTES, Archive, Member
from sdlite.tensors.base import ITEM_BYTES
from sdlite.tensors.pickle_machine import run_at

PROTOCOL = 1001
COUNT_BYTES = 8


def is_legacy(path: Path) -> bool:
    """Whether a file starts as such files do."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC
    except OSError:
        return False


def open_legacy(path: Path) -> tuple[Archive, object]:
    """Where the storages lie, and what the checkpoint's pickle makes; nothing is executed.

    Raises ``SourceHostile`` for a pickle that names anything but tensors and plain data,
    ``SourceCorrupt`` for a damaged file, ``SourceError`` for one that cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            program = stream.read(MAX_PROGRAM_BYTES)
            position = 0
            values: list[object] = []
            dtypes: dict[str, str] = {}
            for _ in range(5):
                value, position = run_at(program, position, path.name, dtypes)
                values.append(value)
            _, protocol, machine, top, keys = values
            if protocol != PROTOCOL:
                raise SourceError(f"{path.name}: old PyTorch file of protocol {protocol!r:.20}")
            if isinstance(machine, dict) and machine.get("little_endian") is False:
                raise SourceError(f"{path.name}: written on a big-endian machine; not supported")
            if not isinstance(keys, list) or len(keys) > MAX_MEMBERS:
                raise SourceCorrupt(f"{path.name}: has no list of storages; the file is damaged")
            places: dict[str, Member] = {}
            for key in keys:
                if not isinstance(key, str) or key in places or key not in dtypes:
                    raise SourceCorrupt(
                        f"{path.name}: storage {key!r:.60} is listed twice or used by no tensor; "
                        "the file is damaged"
                    )
                stream.seek(position)
                count = int.from_bytes(stream.read(COUNT_BYTES), "little")
                length = count * ITEM_BYTES[dtypes[key]]
                position += COUNT_BYTES
                if position + length > size:
                    raise SourceCorrupt(
                        f"{path.name}: storage of {count} elements at byte {position} of {size}; "
                        "the file is truncated, get it again"
                    )
                places[key] = Member(position, length)
                position += length
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    return Archive(b"", places), top
