"""What layers take in, boiled down while the model runs: ranges and a few samples."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sdlite.errors import CalibrationFailed
from sdlite.types import Array, Float32
from sdlite_export.emit.graph import Graph, LayerUse

ROWS = 512
"""Places kept of each value."""
PATCHES = 128
"""Windows kept for each convolution wider than one place."""
WIDE = 30_000.0
"""Values beyond this are kept as float32: float16 ends at 65504."""


@dataclass
class Record:
    """What is known of one value that layers take in."""

    layers: tuple[LayerUse, ...]
    """Layers that take it."""
    low: Float32
    """Least number of each channel so far."""
    high: Float32
    """Largest number of each channel so far."""
    rows: list[Array] = field(default_factory=list)
    """Places, each a number a channel."""
    patches: dict[str, list[Array]] = field(default_factory=dict)
    """By convolution, windows it saw: (windows, channels * kernel * kernel)."""
    calls: int = 0
    """Times it was seen."""

    def sampled(self) -> Float32:
        """The places kept, (places, channels)."""
        return np.concatenate(self.rows).astype(np.float32)

    def windows(self, layer: str) -> Float32:
        """What a layer multiplies its weights with, (windows, numbers)."""
        if layer in self.patches:
            return np.concatenate(self.patches[layer]).astype(np.float32)
        return self.sampled()


class Statistics:
    """Records of all watched values of some components."""

    def __init__(self, graphs: Mapping[str, Graph], calls: Mapping[str, int]) -> None:
        """Prepare.

        Args:
            graphs: by component, the graph whose layers are meant.
            calls: by component, how many items will be seen; samples are spread over them.
        """
        self._calls = calls
        self._users: dict[tuple[str, str], tuple[LayerUse, ...]] = {}
        for component, graph in graphs.items():
            for use in graph.layers.values():
                key = (component, use.input)
                self._users[key] = (*self._users.get(key, ()), use)
        self.records: dict[tuple[str, str], Record] = {}
        """By component and name of the value."""

    def watch(self, component: str, name: str, value: Array) -> None:
        """Take one item's value in; raises ``CalibrationFailed`` where it is not finite."""
        rows = _rows(value)
        low, high = rows.min(axis=0), rows.max(axis=0)
        key = (component, name)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise CalibrationFailed(
                f"{component}: layer {self._users[key][0].name} took in numbers that are not "
                "finite while its range was measured; export with --precision fp16 or fp32, or "
                "calibrate with other prompts (--calibration)"
            )
        record = self.records.get(key)
        if record is None:
            record = self.records[key] = Record(self._users[key], low, high)
        record.low = np.minimum(record.low, low)
        record.high = np.maximum(record.high, high)
        rng = np.random.default_rng([zlib.crc32(name.encode()), record.calls])
        record.calls += 1
        calls = max(1, self._calls.get(component, 1))
        wide = bool(max(-low.min(), high.max()) > WIDE)
        kept = np.float32 if wide else np.float16
        places = rng.integers(0, len(rows), -(-ROWS // calls))
        # The places of the largest numbers are rare, and what 8 bits do to them shows.
        extremes = [rows[:, high.argmax()].argmax(), rows[:, low.argmin()].argmin()]
        record.rows.append(rows[[*places, *extremes]].astype(kept))
        for use in record.layers:
            if len(use.shape) == 4 and use.shape[2] > 1:
                patches = _patches(value, use, -(-PATCHES // calls), rng)
                record.patches.setdefault(use.name, []).append(patches.astype(kept))


class Samples:
    """A few whole inputs of each component, spread evenly over what it is asked."""

    def __init__(self, calls: Mapping[str, int], count: int) -> None:
        """Prepare.

        Args:
            calls: by component, how many items will be seen.
            count: how many of them to keep, at most.
        """
        self._wanted = {
            name: {(2 * index + 1) * total // (2 * count) for index in range(count)}
            for name, total in calls.items()
        }
        self._seen = dict.fromkeys(calls, 0)
        self.kept: dict[str, list[Mapping[str, Array]]] = {name: [] for name in calls}
        """By component."""

    def take(self, component: str, values: Mapping[str, Array]) -> None:
        """Look at one item."""
        if self._seen[component] in self._wanted[component]:
            self.kept[component].append({name: value.copy() for name, value in values.items()})
        self._seen[component] += 1


def _rows(value: Array) -> Array:
    """One item's value as (places, channels)."""
    rows: Array = value.reshape(-1, value.shape[-1])
    if value.ndim == 4:
        rows = value[0].reshape(value.shape[1], -1).T
    return rows


def _patches(value: Array, use: LayerUse, count: int, rng: np.random.Generator) -> Array:
    """Some windows a convolution sees, flattened as its weights are."""
    top, left, bottom, right = use.pads
    image = value[0]
    kernel = use.shape[2]
    height, width = image.shape[1:]
    tall = (height + top + bottom - kernel) // use.stride + 1
    across = (width + left + right - kernel) // use.stride + 1
    found = np.zeros((count, image.shape[0], kernel, kernel), np.float32)
    for index in range(count):
        y = int(rng.integers(tall)) * use.stride - top
        x = int(rng.integers(across)) * use.stride - left
        ys, xs = slice(max(y, 0), min(y + kernel, height)), slice(max(x, 0), min(x + kernel, width))
        into = slice(ys.start - y, ys.stop - y), slice(xs.start - x, xs.stop - x)
        found[(index, slice(None), *into)] = image[:, ys, xs]
    return found.reshape(count, -1)
