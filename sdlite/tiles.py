"""Run an autoencoder tile by tile, with the answer of the whole.

Tiles are bands of rows. The graphs of the variant ``tiles`` are a chain cut before every group
normalisation; what each gives is put together to a whole map, kept in float16, before the next
begins. So every normalisation has the statistics of the whole map, which is what tiles that are
decoded apart lack (their pictures differ by 34 to 59 dB from the whole one's, and have seams), and
attention, which comes where maps are small, sees everything. A graph looks at one row beyond its
band, so that nothing overlaps and nothing has to be blended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sdlite.engine import Artifact, Session, TensorSpec, nothing
from sdlite.memory import release_free_memory
from sdlite.types import Array, Float32

TILED = "tiles"
"""The variant of such graphs."""
AUTOENCODER = ("vae_encoder", "vae_decoder")
"""Components that have it."""
MEAN, VARIANCE = "/mean", "/variance"
"""End the names of inputs that are statistics of the map before the slash, one value a group."""
LEAST_ROWS = 8
"""Fewer rows in a band would be mostly what it looks at beyond its own."""
Open = Callable[[Artifact, Mapping[str, int]], Session]
"""Opens a graph with sizes to make static, by name; they are not used where sizes may be free."""


@dataclass(frozen=True)
class Band:
    """A band of rows of a map."""

    window: slice
    """Rows that are read, of the map that goes in."""
    keep: slice
    """Rows of the answer that count."""
    target: slice
    """Where they go, in the map that comes out."""


class FeatureMap:
    """A whole map ``(channels, height, width)`` in float16, every row with its own scale."""

    def __init__(self, values: npt.NDArray[np.float16]) -> None:
        self._values = values
        self._scales = np.ones(values.shape[1], np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return self._values.shape

    @property
    def buffer(self) -> npt.NDArray[np.float16]:
        """Its memory, for another map of the same shape."""
        return self._values

    def read(self, rows: slice) -> Float32:
        """Rows as float32 ``(1, channels, rows, width)``."""
        values = self._values[:, rows].astype(np.float32)
        scales = self._scales[rows]
        if (scales != 1).any():
            values *= scales[:, None]
        return values[None]

    def write(self, rows: slice, values: Float32) -> None:
        """Put rows ``(channels, rows, width)`` in. Values beyond float16 are scaled down."""
        highest = np.maximum(values.max(axis=(0, 2)), -values.min(axis=(0, 2)))
        with np.errstate(divide="ignore", invalid="ignore"):
            # Powers of two, so that scaling rounds nothing.
            scales = np.exp2(np.ceil(np.log2(highest / np.float32(32768)))).astype(np.float32)
        scales[~(scales > 1) | ~np.isfinite(scales)] = 1
        self._scales[rows] = scales
        if (scales != 1).any():
            values = values / scales[:, None]
        self._values[:, rows] = values


class Statistics:
    """Mean and variance of a map by groups of channels, gathered band by band."""

    def __init__(self, groups: int) -> None:
        self._count = 0
        self._mean = np.zeros(groups)
        self._spread = np.zeros(groups)

    def add(self, values: Float32) -> None:
        """Take ``(channels, rows, width)`` in (Chan, Golub and LeVeque 1979)."""
        groups = values.reshape(len(self._mean), -1, *values.shape[1:])
        count = groups[0].size
        # Sums of single rows keep float32 exact enough.
        mean = np.einsum("gcrw->gcr", groups).sum(axis=(1, 2), dtype=np.float64) / count
        square = np.einsum("gcrw,gcrw->gcr", groups, groups).sum(axis=(1, 2), dtype=np.float64)
        spread = np.maximum(square - count * mean**2, 0)
        total = self._count + count
        apart = mean - self._mean
        self._spread += spread + apart**2 * (self._count * count / total)
        self._mean += apart * (count / total)
        self._count = total

    @property
    def mean(self) -> Float32:
        """``(groups,)``."""
        return self._mean.astype(np.float32)

    @property
    def variance(self) -> Float32:
        """``(groups,)``, of all values, not of a sample."""
        return (self._spread / max(self._count, 1)).astype(np.float32)


def bands(rows: int, count: int, scale: float) -> Iterator[Band]:
    """Cut ``rows`` into at most ``count`` bands whose windows are all equally high.

    Args:
        rows: of the map that goes in.
        count: bands wanted; fewer when each would be too low.
        scale: rows that come out for one that goes in: 0.5, 1 or 2.
    """
    # Halving needs even rows; and one row beyond a band at either side, which makes two.
    step = 2 if scale < 1 else 1
    count = max(1, min(count, rows // LEAST_ROWS))
    edges = [rows * index // count // step * step for index in range(count)] + [rows]
    highest = max(b - a for a, b in pairwise(edges))
    window = min(rows, highest + 2 * step)
    for start, stop in pairwise(edges):
        first = min(max(start - step, 0), rows - window)
        keep = slice(int((start - first) * scale), int((stop - first) * scale))
        target = slice(int(start * scale), int(stop * scale))
        yield Band(slice(first, first + window), keep, target)


def band_count(artifact: Artifact, tiles: int, most: int) -> int:
    """Bands of one graph of a chain whose neediest, with activations of ``most`` bytes, has
    ``tiles``."""
    return max(1, -(-tiles * artifact.activation_bytes // max(most, 1)))


def tiled_bytes(
    artifacts: Sequence[Artifact],
    tiles: int,
    size: tuple[int, int],
    factor: int,
    growth: float,
    mapped: bool,
) -> int:
    """Private memory of a chain while it runs in bands, without its weights.

    Args:
        artifacts: the chain in order.
        tiles: bands of the graph that needs most.
        size: width and height of the picture.
        factor: pixels for one latent cell.
        growth: area of the picture as a multiple of the one the activations are stated for.
        mapped: whether narrow weights are widened in every call.
    """
    last = {spec.name: i for i, part in enumerate(artifacts) for spec in part.inputs}
    most = max(part.activation_bytes for part in artifacts)
    kept: dict[str, int] = {}
    highest = 0
    for index, part in enumerate(artifacts):
        if index == 0:
            kept = {spec.name: 2 * _kept(spec, size, factor) for spec in part.inputs}
        (output,) = part.outputs
        done = [name for name in kept if last[name] == index]
        mine = _kept(output, size, factor) * (2 if index == len(artifacts) - 1 else 1)
        # It may go over a map of its size that is not needed any more.
        over = index > 0 and any(kept[name] == mine for name in done)
        count = 1 if _whole(part) else band_count(part, tiles, most)
        # The next band is read before this one's answer is put away.
        now = int(2 * part.activation_bytes * growth / count)
        now += part.widened_bytes if mapped else 0
        highest = max(highest, now + sum(kept.values()) + (0 if over else mine))
        for name in done:
            del kept[name]
        kept[output.name] = mine
    return highest


def _kept(spec: TensorSpec, size: tuple[int, int], factor: int) -> int:
    """Bytes of a map in float16."""
    if len(spec.shape) != 4 or not isinstance(spec.shape[1], int):
        return 0
    pixels = 1.0
    for dim, length in zip(spec.shape[2:], (size[1], size[0]), strict=True):
        name = str(dim)
        divisor = factor if name in ("height", "width") else _divisor(name)
        pixels *= length / divisor
    return int(2 * spec.shape[1] * pixels)


class TiledSession:
    """A chain of the variant ``tiles`` behind the interface of one session.

    Args:
        artifacts: the chain in order.
        opens: opens one of its graphs.
        tiles: into how many bands the graph that needs most is cut; others in proportion.
        keep: whether graphs stay open after their part. Otherwise one is open at a time.
    """

    def __init__(self, artifacts: Sequence[Artifact], opens: Open, tiles: int, keep: bool) -> None:
        self._artifacts = tuple(artifacts)
        self._opens = opens
        self._tiles = tiles
        self._keep = keep
        self._sessions: dict[int, tuple[Mapping[str, int], Session]] = {}
        self._lock = threading.Lock()
        made = {spec.name for artifact in artifacts for spec in artifact.outputs}
        self._inputs = tuple(
            spec
            for artifact in artifacts
            for spec in artifact.inputs
            if spec.name not in made and len(spec.shape) == 4
        )
        self._outputs = artifacts[-1].outputs
        self._groups = {
            spec.name.removesuffix(MEAN): int(spec.shape[0])
            for artifact in artifacts
            for spec in artifact.inputs
            if spec.name.endswith(MEAN)
        }
        self._last = {
            spec.name: index for index, artifact in enumerate(artifacts) for spec in artifact.inputs
        }

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the chain takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the last graph gives."""
        return self._outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run picture by picture; ``(batch, channels, height, width)`` in and out."""
        return self.run_in_parts(inputs, nothing)

    def run_in_parts(
        self, inputs: Mapping[str, Array], between: Callable[[], object]
    ) -> dict[str, Array]:
        """The same; ``between`` is called before each band and may raise."""
        (given,) = (np.asarray(inputs[spec.name], np.float32) for spec in self._inputs)
        with self._lock:
            results = [self._one(given[index], between) for index in range(len(given))]
        return {self._outputs[0].name: np.stack(results)}

    def close(self) -> None:
        """Close every graph that is open."""
        with self._lock:
            for _, session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def _one(self, given: Float32, between: Callable[[], object]) -> Float32:
        name = self._inputs[0].name
        maps: dict[str, FeatureMap | Float32] = {name: given}
        statistics: dict[str, Statistics] = {}
        most = max(artifact.activation_bytes for artifact in self._artifacts)
        for index, artifact in enumerate(self._artifacts):
            count = band_count(artifact, self._tiles, most)
            for spec in artifact.outputs:
                if spec.name in self._groups:
                    statistics[spec.name] = Statistics(self._groups[spec.name])
            self._part(index, count, maps, statistics, between)
            for spec in artifact.inputs:
                if self._last[spec.name] == index:
                    maps.pop(spec.name, None)
                    statistics.pop(spec.name.removesuffix(MEAN), None)
            if not self._keep:
                release_free_memory()
        result = maps[self._outputs[0].name]
        return result if isinstance(result, np.ndarray) else result.read(slice(None))[0]

    def _part(
        self,
        index: int,
        count: int,
        maps: dict[str, FeatureMap | Float32],
        statistics: Mapping[str, Statistics],
        between: Callable[[], object],
    ) -> None:
        """Run one graph over all bands and put its answer among the maps."""
        artifact = self._artifacts[index]
        (output,) = artifact.outputs
        taken = {spec.name: maps[spec.name] for spec in artifact.inputs if len(spec.shape) == 4}
        numbers: dict[str, Array] = {}
        for spec in artifact.inputs:
            if spec.name.endswith(MEAN):
                numbers[spec.name] = statistics[spec.name.removesuffix(MEAN)].mean
            elif spec.name.endswith(VARIANCE):
                numbers[spec.name] = statistics[spec.name.removesuffix(VARIANCE)].variance
        leader = next(spec for spec in artifact.inputs if len(spec.shape) == 4)
        _, rows, columns = taken[leader.name].shape
        scale = _scale(leader, output)
        pieces = list(bands(rows, 1 if _whole(artifact) else count, scale))
        high = pieces[0].window.stop
        fixed = {"batch": 1, str(leader.shape[2]): high, str(leader.shape[3]): columns}
        session = self._session(index, fixed)
        statistic = statistics.get(output.name)
        result: FeatureMap | Float32 | None = None
        window = _read(taken, pieces[0].window)
        for number, piece in enumerate(pieces):
            between()
            values = session.run({**window, **numbers})[output.name][0, :, piece.keep]
            if number + 1 < len(pieces):
                # Before the answer may overwrite rows that the next band looks back at.
                window = _read(taken, pieces[number + 1].window)
            if result is None:
                shape = (values.shape[0], int(rows * scale), values.shape[2])
                result = self._made(index, shape, taken)
            if isinstance(result, FeatureMap):
                result.write(piece.target, values)
            else:
                result[:, piece.target] = values
            if statistic is not None:
                statistic.add(values)
            del values
            if not self._keep:
                # glibc finds no place for aligned blocks in the holes that bands leave: without
                # this each band would add to the peak, 120 MB in all for SD1.5.
                release_free_memory()
        if result is None:
            raise AssertionError("a map has at least one row")
        maps[output.name] = result
        if not self._keep:
            self._sessions.pop(index)[1].close()

    def _made(
        self, index: int, shape: tuple[int, ...], taken: Mapping[str, FeatureMap | Float32]
    ) -> FeatureMap | Float32:
        """Where a graph's answer goes: over a map of that shape that nothing needs any more."""
        if index == len(self._artifacts) - 1:
            return np.empty(shape, np.float32)
        for name, value in taken.items():
            done = self._last[name] == index and value.shape == shape
            if done and isinstance(value, FeatureMap):
                return FeatureMap(value.buffer)
        return FeatureMap(np.empty(shape, np.float16))

    def _session(self, index: int, fixed: Mapping[str, int]) -> Session:
        known = self._sessions.get(index)
        if known is not None and known[0] == fixed:
            return known[1]
        if known is not None:
            known[1].close()
            del self._sessions[index]
        session = self._opens(self._artifacts[index], fixed)
        self._sessions[index] = fixed, session
        return session


def _read(maps: Mapping[str, FeatureMap | Float32], rows: slice) -> dict[str, Array]:
    return {
        name: value.read(rows)
        if isinstance(value, FeatureMap)
        else np.ascontiguousarray(value[None, :, rows])
        for name, value in maps.items()
    }


def _scale(taken: TensorSpec, given: TensorSpec) -> float:
    """Rows that come out for one that goes in, from the names of free dimensions.

    ``image_height`` is the picture's, ``image_height_4`` a quarter of it, ``height`` the latents'.
    """
    before, after = _divisor(taken.shape[2]), _divisor(given.shape[2])
    return 1.0 if before == after else 2.0 if before > after else 0.5


def _divisor(name: int | str) -> float:
    text = str(name)
    if text in ("height", "width"):
        return float("inf")
    return float(text.rpartition("_")[2]) if text[-1].isdigit() else 1.0


def _whole(artifact: Artifact) -> bool:
    """Whether a graph needs the whole map: those that work at the size of the latents do."""
    leader = next(spec for spec in artifact.inputs if len(spec.shape) == 4)
    return leader.shape[2] == artifact.outputs[0].shape[2] == "height"
