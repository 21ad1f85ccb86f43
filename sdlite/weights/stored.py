"""Tensors between the numbers of a state dict and what a package stores of them.

A package may store a tensor transposed, in fewer bits, with a step for each output channel, and
multiplied by factors of its channels. What is stored is ``rows * tensor * columns / step``.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from sdlite.errors import PackageCorrupt, SourceError
from sdlite.manifest import TensorEntry
from sdlite.package import Package
from sdlite.tensors.eightbit import LIMIT, from_int8, steps_of, to_int8
from sdlite.types import Array, Float32


def source_shape(entry: TensorEntry) -> tuple[int, ...]:
    """Shape in the state dict."""
    return entry.shape[::-1] if entry.layout == "transposed" else entry.shape


def stored_names(name: str, entry: TensorEntry) -> tuple[str, ...]:
    """The tensors of the file that change with one of the state dict: itself, and its steps."""
    return (name,) if entry.scale is None else (name, entry.scale)


def read_stored(package: Package, component: str, name: str) -> Array:
    """One tensor of a package as it is stored: a view of the file, not to be written to.

    Raises ``PackageCorrupt`` when the file ends before it.
    """
    weights = package.manifest.weights[component]
    entry = weights.tensors[name]
    path = package.path(weights.file.path)
    if path.stat().st_size < entry.offset + entry.size:
        raise PackageCorrupt(f"{path} ends inside tensor {name}; export the package again")
    count = math.prod(entry.shape)
    flat = np.memmap(path, entry.dtype, "r", entry.offset, (count,))
    return np.asarray(flat).reshape(entry.shape)


def read_tensor(package: Package, component: str, name: str) -> Float32:
    """One tensor as the state dict has it, as float32."""
    entry = package.manifest.weights[component].tensors[name]
    stored = read_stored(package, component, name)
    turned = stored.T if entry.layout == "transposed" else stored
    if entry.scale is not None:
        value = from_int8(turned, _vector(package, component, entry.scale))
    else:
        value = turned.astype(np.float32)
    factors = _factors(package, component, entry, value.ndim)
    if factors is not None:
        value /= factors
    return value


def store_tensor(
    package: Package, component: str, name: str, value: Float32, *, change: bool = True
) -> dict[str, Array]:
    """A tensor of the state dict as a package stores it: itself, and its steps where it has some.

    Args:
        package: the package.
        component: whose tensor.
        name: of the tensor.
        value: its numbers.
        change: whether they are the package's own, changed a little. In 8 bits they are then
            rounded up or down at random, each with the chance that makes the mean right: small
            changes of many weights, as a LoRA makes them, would otherwise round to nothing. The
            chances depend on the name alone. Steps of channels that outgrow theirs are widened.

    Raises ``SourceError`` for numbers beyond what the package stores.
    """
    entry = package.manifest.weights[component].tensors[name]
    factors = _factors(package, component, entry, value.ndim)
    whole = np.array(value, np.float32) if factors is None else value * factors
    found: dict[str, Array] = {}
    if entry.scale is not None:
        if not _finite(whole):
            raise _beyond(name, "float32")
        steps = steps_of(whole)
        if change:
            steps = np.maximum(_vector(package, component, entry.scale), steps)
        found[entry.scale] = steps
        stored: Array = _rounded_at_random(whole, steps, name) if change else to_int8(whole, steps)
    else:
        with np.errstate(over="ignore"):
            stored = whole.astype(entry.dtype, copy=False)
        if not _finite(stored):
            raise _beyond(name, entry.dtype)
    found[name] = np.ascontiguousarray(stored.T if entry.layout == "transposed" else stored)
    return found


def _rounded_at_random(value: Float32, steps: Float32, name: str) -> Array:
    levels = value / steps.reshape(-1, *(1,) * (value.ndim - 1))
    levels += np.random.default_rng(zlib.crc32(name.encode())).random(value.shape, np.float32)
    np.floor(levels, out=levels)
    return np.clip(levels, -LIMIT, LIMIT, out=levels).astype(np.int8)


def _vector(package: Package, component: str, name: str) -> Float32:
    return read_stored(package, component, name).astype(np.float32, copy=False)


def _factors(package: Package, component: str, entry: TensorEntry, rank: int) -> Float32 | None:
    """What a tensor of the state dict is multiplied by before it is stored."""
    found: Float32 | None = None
    if entry.rows is not None:
        found = _vector(package, component, entry.rows).reshape(-1, *(1,) * (rank - 1))
    if entry.columns is not None:
        columns = _vector(package, component, entry.columns).reshape(-1, *(1,) * (rank - 2))
        found = columns if found is None else found * columns
    return found


def _beyond(name: str, dtype: str) -> SourceError:
    return SourceError(
        f"the weight {name} is beyond {dtype}; lower the strength, or use a package exported "
        "with precision fp32"
    )


def _finite(value: Array) -> bool:
    if value.dtype == np.float16:
        # Thirty times as fast: in what is not finite all bits of the exponent are set.
        return int((value.view(np.uint16) & np.uint16(0x7FFF)).max()) < 0x7C00
    return bool(np.isfinite(value).all())
