"""Write upscalers: one ONNX file each, with its weights and a note of what it is inside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from sdlite import __version__
from sdlite.destination import check_space
from sdlite.errors import CalibrationFailed, OutputError, SourceCorrupt
from sdlite.onnxfile import UPSCALER
from sdlite_export.emit.estimate import activation_bytes
from sdlite_export.emit.graph import Graph
from sdlite_export.emit.proto import model_proto
from sdlite_export.upscaler.config import KINDS, SwinIrConfig, UpscalerConfig
from sdlite_export.upscaler.eightbit import in_eight_bits
from sdlite_export.upscaler.emit import TARGET, OnnxUpscalerOps
from sdlite_export.upscaler.foreign import adopt
from sdlite_export.upscaler.networks import upscaler
from sdlite_export.upscaler.source import UpscalerSource, open_upscaler
from sdlite_export.weights import check_weights, convert, plan_weights

SIDE = 64
"""Side of the tile that memory is estimated for."""


@dataclass(frozen=True)
class UpscalerReport:
    """What came of an export."""

    path: Path
    """The file written."""
    name: str
    """What it is called."""
    kind: str
    """``ESRGAN``, ``compact``, ``SwinIR`` or ``ONNX``."""
    scale: int
    """Pixels out for one pixel in, along a side."""
    size: int
    """Bytes."""
    seconds: float
    """Time it took."""
    likeness: float | None = None
    """With int8: how like the network itself it is, in dB."""


def export_upscaler(
    source: Path,
    dest: Path,
    *,
    precision: str = "fp16",
    name: str | None = None,
    force: bool = False,
    calibration: Path | None = None,
) -> UpscalerReport:
    """Write the upscaler in ``source`` to the file ``dest``, whole or not at all.

    Args:
        source: ``.pth``, ``.safetensors`` or the like, read and never executed, or ``.onnx``.
        dest: a new file ending in ``.onnx``.
        precision: how weights are stored, ``fp16`` or ``fp32``, or ``int8``, which also computes
            ESRGAN and compact networks in 8 bits; an ``.onnx`` file keeps its own.
        name: what it is called; None is the name of ``dest``.
        force: replace ``dest``.
        calibration: for ``int8``: a picture or a folder of them; None measures on drawn ones.

    Raises:
        UnknownFamily: no upscaler this knows; says what was seen.
        SourceError: the file cannot be read or is damaged.
        CalibrationFailed: it cannot be brought to 8 bits, or would not be the same network.
        OutputError: ``dest`` is there already, or cannot be written.
    """
    started = time.monotonic()
    if dest.suffix.lower() != ".onnx":
        raise OutputError(f"{dest} does not end in .onnx, which upscalers are stored as")
    if dest.exists() and not force:
        raise OutputError(f"{dest} is there already; --force replaces it")
    name = name or dest.stem
    likeness = None
    if source.suffix.lower() == ".onnx":
        if precision == "int8":
            raise CalibrationFailed(
                f"{source.name} keeps its own precision; leave --precision int8"
            )
        model, facts = adopt(source)
    else:
        opened = open_upscaler(source)
        model, facts = upscaler_model(opened, "fp32" if precision == "int8" else precision)
        if precision == "int8":
            if isinstance(opened.config, SwinIrConfig):
                raise CalibrationFailed(
                    f"{source.name} is SwinIR, which hardly has convolutions; leave "
                    "--precision int8"
                )
            model, likeness = in_eight_bits(model, source.name, calibration)
            facts |= {"precision": precision, "likeness": likeness}
    facts |= {"name": name, "exporter": __version__, "source_sha256": _sha256(source)}
    model.metadata_props.add(key=UPSCALER, value=json.dumps(facts))
    data = model.SerializeToString(deterministic=True)
    with _replacing(dest, len(data)) as stream:
        stream.write_bytes(data)
    return UpscalerReport(
        path=dest,
        name=name,
        kind=str(facts["kind"]),
        scale=int(str(facts["scale"])),
        size=len(data),
        seconds=time.monotonic() - started,
        likeness=likeness,
    )


def upscaler_model(
    source: UpscalerSource, precision: str
) -> tuple[onnx.ModelProto, dict[str, object]]:
    """The ONNX model of a recognised file, and what to note in it."""
    ops = OnnxUpscalerOps(precision)
    upscaler(ops, source.config)
    graph = ops.finish()
    check_weights(graph.weights, source.tensors.infos(), source.path.name)
    entries = plan_weights(graph.weights, precision)
    model, _, _ = model_proto(graph, graph.nodes, TARGET, entries, "", source.path.stem)
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            key = tensor.name
            array = source.tensors.read(key)
            if not np.isfinite(array).all():
                raise SourceCorrupt(
                    f"{source.path.name}: tensor {key} holds numbers that are not finite; the "
                    "file is damaged"
                )
            stored = convert(key, array, graph.weights[key], entries[key].dtype)
            del tensor.external_data[:]
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes()
    config = source.config
    return model, {
        "kind": KINDS[type(config)],
        "scale": config.scale,
        "channels": config.channels,
        "multiple": config.multiple,
        "reach": config.reach,
        "bytes_per_pixel": _bytes_per_pixel(graph, config),
    }


def _bytes_per_pixel(graph: Graph, config: UpscalerConfig) -> int:
    """Memory of activations for each pixel of a tile."""
    folded = getattr(config, "unshuffle", 1)
    window = getattr(config, "window", 1)
    sizes = {"windows": (SIDE // window) ** 2}
    for axis in ("height", "width"):
        sizes |= {axis: SIDE, f"folded_{axis}": SIDE // folded}
        sizes |= {f"upscaled_{axis}": SIDE * config.scale, f"{axis}/{window}": SIDE // window}
        for index in range(1, 4):
            sizes[f"{axis}_{index}"] = SIDE // folded * 2**index
    return activation_bytes(graph, graph.nodes, sizes) // SIDE**2


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _replacing(dest: Path, needed: int) -> Iterator[Path]:
    """A file beside ``dest`` that becomes it when the body is done; else nothing stays."""
    partial = dest.with_name(f".{dest.name}.{os.getpid()}.part")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        check_space(dest.parent, needed)
        yield partial
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        partial.replace(dest)
    except OSError as error:
        raise OutputError(f"cannot write {dest}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
