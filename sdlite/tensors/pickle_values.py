"""The inert values a pickle is reduced to."""

from __future__ import annotations

from dataclasses import dataclass

MAX_DIMENSIONS = 32
"""More than any array library holds."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Name:
    """A global the pickle mentions; never imported, never called."""

    module: str
    """Module, as written."""
    name: str
    """Attribute, as written."""

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False)
class Opaque:
    """A value that no tensor depends on: training state, hyper-parameters."""


@dataclass(frozen=True)
class Storage:
    """A run of elements in the archive."""

    key: str
    """Member name under ``data/``."""
    dtype: str
    """Element type."""
    count: int
    """Elements."""


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as a view of a storage."""

    storage: Storage
    """Where its elements lie."""
    offset: int
    """Elements to skip."""
    shape: Shape
    """Extents."""
    strides: Shape
    """Elements from one index to the next, per dimension."""


def is_size(value: object) -> bool:
    """Whether a value is a number of elements."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def is_shape(value: object) -> bool:
    """Whether a value is a tuple of numbers of elements."""
    return isinstance(value, tuple) and len(value) <= MAX_DIMENSIONS and all(map(is_size, value))
