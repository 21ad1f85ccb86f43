"""One configuration file of a diffusers folder; every value is checked when it is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from sdlite.errors import SourceCorrupt, UnknownFamily
from sdlite_export.source.files import read_json
from sdlite_export.source.gather import SUPPORTED

T = TypeVar("T")

MAX_SIZE = 65536
"""More channels or rows than this make no sense."""
MAX_LAYERS = 128
"""More layers than this make no sense, and listing their tensors would take long."""


class ConfigReader:
    """One configuration file; every value is checked when it is taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = read_json(path)

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """A value of a kind; raises ``SourceCorrupt`` for another kind or none."""
        value = self.data.get(key, default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            # An integer beyond a double's range is as little a finite number as infinity.
            value = float(value) if abs(value) < 1 << 1023 else math.inf
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            stated = "is missing" if key not in self.data else f"is {value!r}"
            raise SourceCorrupt(f"{self.path}: {key} {stated}, not a {kind.__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise SourceCorrupt(f"{self.path}: {key} {value} is not a finite number")
        return value

    def epsilon(self, key: str, default: float) -> float:
        """What a normalisation adds to a variance, so that its root is never of zero."""
        value = self.get(key, float, default)
        if not 0 < value < 1:
            raise SourceCorrupt(f"{self.path}: {key} {value} is not between 0 and 1")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A number of channels, rows or layers."""
        return self.check_size(key, self.get(key, int, default))

    def check_size(self, key: str, value: object) -> int:
        """The same of a value taken already."""
        limit = MAX_LAYERS if "layers" in key else MAX_SIZE
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            raise SourceCorrupt(f"{self.path}: {key} {value!r} is not between 1 and {limit}")
        return value

    def sizes(self, key: str, count: int | None = None, default: object = None) -> tuple[int, ...]:
        """A list of sizes, or one size repeated ``count`` times."""
        value = self.data.get(key)
        value = default if value is None else value
        if isinstance(value, int) and count is not None:
            value = [value] * count
        if not isinstance(value, list) or not 1 <= len(value) <= 16:
            raise SourceCorrupt(f"{self.path}: {key} {value!r} is not a list of sizes")
        if count is not None and len(value) != count:
            raise SourceCorrupt(f"{self.path}: {key} has {len(value)} entries, {count} expected")
        return tuple(self.check_size(key, item) for item in value)

    def names(self, key: str, count: int) -> list[str]:
        """A list of ``count`` names."""
        value = self.data.get(key)
        if not isinstance(value, list) or len(value) != count:
            raise SourceCorrupt(f"{self.path}: {key} is {value!r}, {count} names expected")
        return [str(item) for item in value]

    def refuse(self, fixed: Mapping[str, tuple[Any, ...]], known: frozenset[str] | None) -> None:
        """Refuse features the family does not have, and any this reader has never heard of."""
        odd = [
            f"{key} = {self.data[key]!r}"
            for key, allowed in fixed.items()
            if key in self.data and self.data[key] not in allowed
        ]
        if known is not None:
            odd += [
                f"{key} = {value!r}"
                for key, value in self.data.items()
                if key not in fixed
                and key not in known
                and not key.startswith("_")
                and value not in (None, False)
            ]
        if odd:
            raise UnknownFamily(
                f"{self.path}: {', '.join(odd[:4])} is no part of {SUPPORTED}; "
                "this model family is not supported"
            )
