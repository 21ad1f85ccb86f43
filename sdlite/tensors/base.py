"""Tensors by name in files of any kind: what they are, read one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sdlite.errors import SourceCorrupt
from sdlite.types import Array


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as it lies in its file."""

    shape: tuple[int, ...]
    """Extents, in the order of the state dict."""
    dtype: str
    """``float32``, ``float16``, ``bfloat16``, ``float64``, ``int64`` ..."""
    packed: str = ""
    """Format of the blocks it is stored in, as which ``dtype`` is what reading gives; empty where
    its elements stand alone."""
    packed_bytes: int = 0
    """What the blocks take."""

    @property
    def count(self) -> int:
        """Number of elements."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def size(self) -> int:
        """Bytes it takes in its file."""
        return self.packed_bytes if self.packed else self.count * ITEM_BYTES[self.dtype]


class Tensors(Protocol):
    """Named tensors that stay on disk until they are read."""

    def infos(self) -> Mapping[str, TensorInfo]:
        """Every tensor's shape and dtype, by name."""
        ...

    def read(self, name: str) -> Array:
        """Read one tensor: a new array owned by the caller, bfloat16 widened to float32.

        Raises ``SourceCorrupt`` when the file no longer holds it.
        """
        ...


ITEM_BYTES: dict[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
}
"""Bytes an element of each readable dtype takes."""

FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
"""Dtypes weights may have."""


def storage_dtype(dtype: str) -> np.dtype[np.generic]:
    """The little-endian numpy dtype that holds ``dtype`` on disk (bfloat16 as 16-bit words)."""
    stored = "uint16" if dtype == "bfloat16" else dtype
    return np.dtype(stored).newbyteorder("<")


def widen(raw: Array, dtype: str) -> Array:
    """Turn what lies on disk into native numbers; bfloat16 becomes float32.

    A bfloat16 is the upper half of a float32, so the words are shifted up by 16 bits.
    """
    if dtype == "bfloat16":
        words = raw.astype(np.uint32)
        words <<= 16
        return words.view(np.float32)
    return raw.astype(np.dtype(dtype), copy=False)


def read_elements(path: Path, offset: int, count: int, dtype: str, name: str) -> Array:
    """Read ``count`` elements at byte ``offset`` of a file into a new one-dimensional array.

    The file is read, never mapped, so a file that shrinks meanwhile gives an error, not a crash.
    Raises ``SourceCorrupt`` when the bytes are not there.
    """
    raw: Array = np.empty(count, dtype=storage_dtype(dtype))
    view = raw.view(np.uint8).data
    try:
        with path.open("rb", buffering=0) as stream:
            stream.seek(offset)
            done = 0
            while done < len(view):
                got = stream.readinto(view[done:])
                if not got:
                    raise SourceCorrupt(
                        f"{path.name}: ends at byte {offset + done}, inside tensor {name}; "
                        "the file is truncated, get it again"
                    )
                done += got
    except OSError as error:
        raise SourceCorrupt(f"cannot read {path}: {error.strerror or error}") from error
    return widen(raw, dtype)


def short(names: Iterable[str], limit: int = 4) -> str:
    """The first few of many names, for a one-line message."""
    listed = sorted(names)
    text = ", ".join(name if len(name) <= 80 else name[:77] + "..." for name in listed[:limit])
    return text + (f" and {len(listed) - limit} more" if len(listed) > limit else "")
