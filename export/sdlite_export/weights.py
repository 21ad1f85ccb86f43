"""Weights on their way from a checkpoint to the package: planned, then streamed one by one."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from sdlite.engine import FileEntry
from sdlite.errors import OutputError, SourceCorrupt, SourceError
from sdlite.manifest import TensorEntry
from sdlite.tensors.base import TensorInfo, Tensors
from sdlite.tensors.eightbit import steps_of, to_int8
from sdlite.types import Array
from sdlite_export.emit.graph import WeightNeed, stored_dtype
from sdlite_export.emit.recorder import scale_name
from sdlite_export.recipe import Recipe

PAGE = 4096
IGNORED = ("position_ids", "logit_scale")
"""Ends of names that some checkpoints carry and no graph needs."""
ITEM_BYTES = {"float32": 4, "float16": 2, "int8": 1}
PIECE = 8 << 20
PLAIN = Recipe()
"""Nothing in 8 bits."""


def plan_weights(
    needs: Mapping[str, WeightNeed], precision: str, recipe: Recipe = PLAIN
) -> dict[str, TensorEntry]:
    """Place every weight in the file, page-aligned, in the order the graph asks for them.

    ``precision`` is that of what is not in 8 bits.
    """
    entries = {}
    offset = 0
    for key, need in needs.items():
        dtype = {"int8": "int8", "given": "float32"}.get(need.kind)
        dtype = dtype or stored_dtype(need.shape, precision)
        size = int(np.prod(need.shape)) * ITEM_BYTES[dtype]
        entries[key] = TensorEntry(
            dtype,
            need.stored_shape,
            offset,
            size,
            need.layout,
            scale_name(key) if dtype == "int8" else None,
            recipe.rows.get(key),
            recipe.columns.get(key),
        )
        offset = -(-(offset + size) // PAGE) * PAGE
    return entries


def check_weights(
    needs: Mapping[str, WeightNeed], infos: Mapping[str, TensorInfo], where: str
) -> None:
    """Compare what the architecture asks for with what the checkpoint has.

    Raises ``SourceCorrupt`` naming the first tensor that is missing or has another shape, and
    ``SourceError`` for one the architecture has no place for.
    """
    for key, need in needs.items():
        if need.kind == "given":
            continue
        if key not in infos:
            raise SourceCorrupt(
                f"{where}: tensor {key} of shape {need.shape} is missing; the file is incomplete "
                "or its configuration does not describe it"
            )
        if tuple(infos[key].shape) != need.shape:
            raise SourceCorrupt(
                f"{where}: tensor {key} has shape {tuple(infos[key].shape)}, the configuration "
                f"says {need.shape}"
            )
        if infos[key].dtype not in ("float32", "float16", "bfloat16", "float64"):
            raise SourceCorrupt(
                f"{where}: tensor {key} is {infos[key].dtype}; weights are float32, float16 or "
                "bfloat16"
            )
    for key in infos:
        if key not in needs and not key.endswith(IGNORED):
            raise SourceError(
                f"{where}: tensor {key} belongs to no part of the model its configuration "
                "describes; this variant cannot be exported"
            )


def convert(key: str, array: Array, need: WeightNeed, dtype: str) -> Array:
    """One tensor as it is stored: contiguous, cast, transposed where the layout says so.

    Raises ``SourceError`` when a value does not fit float16.
    """
    _check_shape(key, array, need)
    if array.dtype != dtype:
        try:
            with np.errstate(over="raise"):
                array = array.astype(dtype)
        except FloatingPointError as error:
            raise SourceError(
                f"tensor {key} has values beyond float16; export with precision fp32"
            ) from error
    return np.ascontiguousarray(array.T if need.layout == "transposed" else array)


def _check_shape(key: str, array: Array, need: WeightNeed) -> None:
    if array.shape != need.shape:
        raise SourceCorrupt(f"tensor {key} was read with shape {array.shape}, not {need.shape}")


class Tensorwise:
    """Makes what is stored of each weight, in the order of the file."""

    def __init__(self, needs: Mapping[str, WeightNeed], tensors: Tensors, recipe: Recipe) -> None:
        self.needs = needs
        self.tensors = tensors
        self.recipe = recipe
        self.given: dict[str, Array] = dict(recipe.factors)

    def make(self, key: str, dtype: str) -> Array:
        """One tensor as it is stored; steps of an 8-bit weight come after the weight itself."""
        need = self.needs[key]
        if need.kind == "given":
            return self.given.pop(key)
        array = self.tensors.read(key)
        _check_shape(key, array, need)
        if need.kind == "int8" or self.recipe.touches(key):
            array = self.recipe.changed(key, array)
        if need.kind != "int8":
            return convert(key, array, need, dtype)
        steps = steps_of(array)
        self.given[scale_name(key)] = steps
        stored = to_int8(array, steps)
        return np.ascontiguousarray(stored.T if need.layout == "transposed" else stored)


def write_weights(
    path: Path,
    needs: Mapping[str, WeightNeed],
    entries: Mapping[str, TensorEntry],
    tensors: Tensors,
    relative: str,
    progress: Callable[[int], object] | None = None,
    recipe: Recipe = PLAIN,
) -> FileEntry:
    """Stream all tensors into the weight file; ``progress`` gets the bytes just written.

    Reading and converting run in this thread, hashing and writing in another, so at most three
    tensors are in memory. Raises ``SourceError`` and, for a full disk, ``OutputError``.
    """
    writer = _Writer(path)
    source = Tensorwise(needs, tensors, recipe)
    reported = 0

    def report() -> None:
        nonlocal reported
        position = writer.position
        if progress is not None and position > reported:
            progress(position - reported)
        reported = position

    try:
        for key, entry in entries.items():
            writer.put(entry.offset, source.make(key, entry.dtype))
            report()
    except BaseException:
        writer.stop()
        raise
    size, digest = writer.finish()
    report()
    return FileEntry(relative, size, digest)


class _Writer:
    """A file written and hashed by its own thread, in the order of ``put``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.queue: queue.Queue[tuple[int, Array] | None] = queue.Queue(maxsize=1)
        self.digest = hashlib.sha256()
        self.position = 0
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="weights", daemon=True)
        self.thread.start()

    def put(self, offset: int, array: Array) -> None:
        if self.error is None:
            self.queue.put((offset, array))
        else:
            self.finish()

    def stop(self) -> None:
        self.queue.put(None)
        self.thread.join()

    def finish(self) -> tuple[int, str]:
        self.stop()
        if isinstance(self.error, OSError):
            raise OutputError(f"cannot write {self.path}: {self.error.strerror}") from self.error
        if self.error is not None:
            raise self.error
        return self.position, self.digest.hexdigest()

    def _run(self) -> None:
        try:
            with self.path.open("wb", buffering=0) as stream:
                for offset, array in iter(self.queue.get, None):
                    self._write(stream, [bytes(offset - self.position)])
                    self._write(stream, _pieces(array))
        except Exception as error:
            self.error = error
            # Whoever puts must not wait for a thread that has given up.
            for _ in iter(self.queue.get, None):
                pass

    def _write(self, stream: IO[bytes], pieces: Iterable[bytes | memoryview]) -> None:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[stream.write(view) :]
            self.digest.update(piece)
            self.position += len(piece)


def _pieces(array: Array) -> Iterable[memoryview]:
    data: memoryview = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]
