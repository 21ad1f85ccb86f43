"""Merge checkpoints into one file, tensor by tensor: weighted sums and differences of weights."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from sdlite import memory
from sdlite.destination import check_space
from sdlite.errors import OutputError, RequestError, SourceError, UnknownName
from sdlite.tensors.base import FLOATS, ITEM_BYTES, TensorInfo, Tensors
from sdlite.tensors.safetensors import DTYPES
from sdlite.types import Array
from sdlite_export.source.ldm import EMA, open_tensors

CODES = {name: code for code, name in DTYPES.items()}
PRECISIONS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
"""What weights may be written as."""
PIECE = 4 << 20
"""Elements that are computed with at once: 16 MB in float32 for each operand."""
LATENT = 4
"""Latent channels; U-Nets for inpainting and editing take these first, then others."""


@dataclass(frozen=True)
class MergeReport:
    """What a merge made and what it cost."""

    path: Path
    """The file."""
    size: int
    """Its bytes."""
    merged: int
    """Tensors that were computed."""
    kept: int
    """Tensors taken from the first checkpoint as they are."""
    seconds: float
    """Wall-clock time."""
    peak_bytes: int | None
    """Largest resident memory of this process so far; None where the system does not say."""
    notes: tuple[str, ...]
    """What the user should know."""


def merge_checkpoints(
    first: Path,
    second: Path,
    dest: Path,
    *,
    minus: Path | None = None,
    multiplier: float = 0.5,
    precision: str | None = None,
    force: bool = False,
    progress: Callable[[str, int, int], object] | None = None,
) -> MergeReport:
    """Merge two or three single-file checkpoints of one layout into a ``.safetensors`` file.

    Without ``minus`` each weight is ``first * (1 - multiplier) + second * multiplier``, A1111's
    "weighted sum"; with it ``first + (second - minus) * multiplier``, its "add difference".
    Sums are taken in float32. The file is complete or not there.

    Args:
        first: the checkpoint whose names, further tensors and dtypes the result has.
        second: the other one.
        dest: a new ``.safetensors`` file.
        minus: what ``second`` was trained from.
        multiplier: 0 to 1; with ``minus`` -2 to 2.
        precision: ``fp16``, ``bf16`` or ``fp32``; None keeps each tensor's own.
        force: whether a file that is there may be replaced.
        progress: told a label, bytes done, bytes in all; may raise to stop.

    Raises:
        RequestError: a multiplier out of range, or a destination of another kind.
        UnknownName: no such precision.
        SourceError: a checkpoint cannot be read, or its tensors do not fit the first one's.
        OutputError: ``dest`` is there or cannot be written.
    """
    started = time.monotonic()
    _check(dest, multiplier, minus is not None, precision, force)
    sources = [_open(path) for path in (first, second, *((minus,) if minus else ()))]
    names, skipped = _names(sources[0])
    merged = _merged(names, sources, (first, second, *((minus,) if minus else ())))
    infos = {name: _result(name, sources[0], merged, precision) for name in names}
    recipe = {
        "type": "sdlite",
        "primary_model": first.name,
        "secondary_model": second.name,
        "tertiary_model": minus.name if minus else None,
        "interp_method": "Add difference" if minus else "Weighted sum",
        "multiplier": multiplier,
    }
    metadata = {"format": "pt", "sd_merge_recipe": json.dumps(recipe)}
    total = sum(info.count * ITEM_BYTES[info.dtype] for info in infos.values())
    with _new_file(dest, total) as stream:
        stream.write(_header(infos, metadata))
        done = 0
        for name, info in infos.items():
            if name in merged:
                arrays = [source.read(name) for source in sources]
                pieces = _combine(name, arrays, multiplier, info.dtype)
            else:
                pieces = iter((_stored(name, sources[0].read(name), info.dtype),))
            for piece in pieces:
                stream.write(piece.data)
                done += piece.nbytes
            if progress is not None:
                progress("merge", done, total)
    notes = [f"{skipped} tensors of moving averages (EMA) are left out"] if skipped else []
    alone = sum(info.dtype in FLOATS for info in infos.values()) - len(merged)
    if alone:
        notes.append(f"{alone} weights that {second.name} does not have are {first.name}'s")
    return MergeReport(
        path=dest,
        size=dest.stat().st_size,
        merged=len(merged),
        kept=len(infos) - len(merged),
        seconds=time.monotonic() - started,
        peak_bytes=memory.high_water(),
        notes=tuple(notes),
    )


def _check(
    dest: Path, multiplier: float, difference: bool, precision: str | None, force: bool
) -> None:
    low, high = (-2.0, 2.0) if difference else (0.0, 1.0)
    if not low <= multiplier <= high:
        raise RequestError(f"multiplier {multiplier} is not between {low:g} and {high:g}")
    if precision is not None and precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    if dest.suffix.lower() != ".safetensors":
        raise RequestError(f"{dest} does not end in .safetensors, which is what is written")
    if dest.exists() and not (force and dest.is_file()):
        raise OutputError(f"{dest} exists; give another name, or --force to replace it")


def _open(path: Path) -> Tensors:
    if not path.is_file():
        raise SourceError(
            f"{path} is no file; merge takes single files (.safetensors, .ckpt, .gguf), not folders"
        )
    return open_tensors(path)[0]


def _names(first: Tensors) -> tuple[list[str], int]:
    """Tensors of the result; a moving average of one model is none of the merged one."""
    names = list(first.infos())
    kept = [name for name in names if not name.startswith(EMA)]
    # A file that holds nothing but averages keeps them.
    return (
        (kept, len(names) - len(kept)) if any("diffusion_model." in n for n in kept) else (names, 0)
    )


def _merged(names: list[str], sources: list[Tensors], paths: tuple[Path, ...]) -> set[str]:
    """Weights that all checkpoints have; raises ``SourceError`` where their shapes do not fit."""
    first = sources[0].infos()
    merged = set()
    for name in names:
        if first[name].dtype not in FLOATS:
            continue
        there = [source.infos().get(name) for source in sources[1:]]
        if any(info is None or info.dtype not in FLOATS for info in there):
            continue
        shape = first[name].shape
        for info, path in zip(there, paths[1:], strict=True):
            if info is not None and info.shape != shape and not _fits(shape, info.shape):
                raise SourceError(
                    f"{path.name}: tensor {name} has shape {list(info.shape)}, {list(shape)} in "
                    f"{paths[0].name}; only models of one family can be merged"
                    + ("; put the inpainting model first" if _fits(info.shape, shape) else "")
                )
        merged.add(name)
    weights = sum(first[name].dtype in FLOATS for name in names)
    if 2 * len(merged) < weights:
        raise SourceError(
            f"{', '.join(path.name for path in paths)} have {len(merged)} weights of {weights} in "
            "common; only models of one family and one layout of names can be merged"
        )
    return merged


def _fits(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether ``other`` is the first convolution of a plain U-Net and ``shape`` of one that takes
    more channels."""
    plain = len(shape) == len(other) == 4 and other[1] == LATENT < shape[1]
    return plain and (shape[0], *shape[2:]) == (other[0], *other[2:])


def _result(name: str, first: Tensors, merged: set[str], precision: str | None) -> TensorInfo:
    info = first.infos()[name]
    dtype = info.dtype
    if dtype in FLOATS:
        dtype = PRECISIONS[precision] if precision else dtype
        dtype = "float32" if dtype == "float64" else dtype
    return TensorInfo(info.shape, dtype)


def _combine(name: str, arrays: list[Array], multiplier: float, dtype: str) -> Iterator[Array]:
    """The merged tensor in pieces, as stored."""
    factor = np.float32(multiplier)
    if any(array.shape != arrays[0].shape for array in arrays[1:]):
        # The further channels of an inpainting model's first convolution stay as they are.
        whole = arrays[0].astype(np.float32)
        whole[:, :LATENT] = _mixed([array[:, :LATENT] for array in arrays], factor)
        yield _stored(name, whole, dtype)
        return
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, PIECE):
        pieces = [array[start : start + PIECE] for array in flat]
        yield _stored(name, _mixed(pieces, factor), dtype)


def _mixed(arrays: list[Array], factor: np.float32) -> Array:
    first, second, *minus = (array.astype(np.float32) for array in arrays)
    if minus:
        added: Array = first + (second - minus[0]) * factor
        return added
    mixed: Array = first * (np.float32(1) - factor) + second * factor
    return mixed


def _stored(name: str, array: Array, dtype: str) -> Array:
    """Bytes of a tensor in a file; bfloat16 is rounded to nearest, ties to even."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        if not np.isfinite(array).all():
            raise SourceError(f"tensor {name} has values that are not finite")
        upper = (bits >> np.uint32(16)) & np.uint32(1)
        rounded: Array = ((bits + np.uint32(0x7FFF) + upper) >> np.uint32(16)).astype(np.uint16)
        return rounded.reshape(-1).view(np.uint8)
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array).astype(np.dtype(dtype).newbyteorder("<"), copy=False)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise SourceError(
            f"tensor {name} has values beyond {dtype}; choose --precision fp32 or bf16"
        )
    return stored.reshape(-1).view(np.uint8)


def _header(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, info in infos.items():
        start, end = end, end + info.count * ITEM_BYTES[info.dtype]
        header[name] = {
            "dtype": CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def _new_file(dest: Path, size: int) -> Iterator[IO[bytes]]:
    """A file beside ``dest`` that takes its place when the body is done; else nothing is left."""
    part = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}.part")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        check_space(dest.parent, size)
        with part.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(dest)
    except OSError as error:
        raise OutputError(f"cannot write {dest}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
