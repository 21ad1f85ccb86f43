"""Upscalers that come as ONNX files of other programs."""

from __future__ import annotations

from pathlib import Path

import onnx

from sdlite.errors import SourceCorrupt, SourceError, UnknownFamily
from sdlite.onnxfile import read_onnx
from sdlite_export.upscaler.config import MOST_REACH

MAX_BYTES = 2 << 30
"""More does not fit an ONNX file with its weights inside."""
TYPES = {1: "float32", 10: "float16"}
BYTES_PER_PIXEL = 16384
"""Memory of activations is not known; that of ESRGAN with scale 4 is taken."""


def adopt(path: Path) -> tuple[onnx.ModelProto, dict[str, object]]:
    """Read a file and find what is to be noted in it: 1 or 3 channels in and as many out.

    Raises:
        UnknownFamily: it is an ONNX file, but of something else; says what was seen.
        SourceError: it cannot be read.
    """
    try:
        found = read_onnx(path)
        if path.stat().st_size > MAX_BYTES:
            raise SourceError(f"{path.name}: larger than {MAX_BYTES >> 30} GiB; no upscaler is")
        if found.locations:
            others = ", ".join(sorted(found.locations))
            raise SourceError(f"{path.name}: has its weights in {others}; save it as one file")
        model = onnx.load(str(path), load_external_data=False)
        # Names and sizes that a graph may leave open are worked out from its operations.
        model = onnx.shape_inference.infer_shapes(model)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except SourceError:
        raise
    except Exception as error:
        raise SourceCorrupt(f"{path.name}: {' '.join(str(error).split())[:200]}") from error
    seen = [
        f"{spec.name} {spec.dtype}{list(spec.shape)}" for spec in (*found.inputs, *found.outputs)
    ]
    what = f"{path.name}: takes and gives {', '.join(seen[:6])}"
    if len(found.inputs) != 1 or len(found.outputs) != 1:
        raise UnknownFamily(f"{what}; an upscaler has one picture in and one out")
    takes = _shape(model.graph.input, found.inputs[0].name)
    gives = _shape(model.graph.output, found.outputs[0].name)
    if len(takes) != 4 or takes[1] not in (1, 3) or found.inputs[0].dtype not in TYPES.values():
        raise UnknownFamily(f"{what}; an upscaler takes (1, 3, height, width) of floats")
    if len(gives) != 4 or gives[1] not in (None, takes[1]):
        raise UnknownFamily(f"{what}; an upscaler gives as many channels as it takes")
    if takes[0] not in (None, 1):
        raise UnknownFamily(f"{what}; it takes {takes[0]} pictures at once, not one")
    facts: dict[str, object] = {
        "kind": "ONNX",
        "scale": _scale(model, takes, what),
        "channels": takes[1],
        "multiple": 1,
        "reach": MOST_REACH,
        "bytes_per_pixel": BYTES_PER_PIXEL,
    }
    if takes[2] is not None and takes[3] is not None:
        facts["tile"] = [takes[2], takes[3]]
    del model.metadata_props[:]
    return model, facts


def _scale(model: onnx.ModelProto, takes: list[int | None], what: str) -> int:
    """Output size divided by input size, from the shapes the operations give."""
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    side = 64
    for value in trial.graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4:
            for dim, size in zip(
                dims, (1, takes[1], takes[2] or side, takes[3] or side), strict=True
            ):
                dim.dim_value = size or 1
    for value in trial.graph.output:
        value.type.tensor_type.ClearField("shape")
    del trial.graph.value_info[:]
    try:
        trial = onnx.shape_inference.infer_shapes(trial, data_prop=True)
    except Exception as error:
        raise SourceCorrupt(f"{what}: {' '.join(str(error).split())[:200]}") from error
    gives = _shape(trial.graph.output, trial.graph.output[0].name)
    if len(gives) != 4 or not gives[2] or not gives[3]:
        raise UnknownFamily(f"{what}; how much it enlarges does not follow from its operations")
    down, across = gives[2] / (takes[2] or side), gives[3] / (takes[3] or side)
    if down != across or down != int(down) or not 1 <= down <= 8:
        raise UnknownFamily(f"{what}; it enlarges {down:g} times down and {across:g} across")
    return int(down)


def _shape(values: object, name: str) -> list[int | None]:
    """Extents of an input or output; None where they are open."""
    for value in values:  # type: ignore[attr-defined]
        if value.name == name:
            dims = value.type.tensor_type.shape.dim
            return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    return []
