"""Upscalers in 8 bits: ranges are measured on pictures, and so is what it costs.

Convolutions multiply integers, but for the first and the last, which see and make pixels: weights
have a step for each output channel, inputs one step and one zero, from the range seen on half of
the pictures. The other half gives the receipt: how alike the enlarged pictures are. Engines compute
the pairs of operations in integers (Jacob et al. 2018) or, where they cannot, as they are written.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import ImageOps

from sdlite import registry
from sdlite.engine import Artifact, LoadOptions, Session
from sdlite.errors import CalibrationFailed, RuntimeUnavailable
from sdlite.image.source import flatten, open_picture
from sdlite.onnxfile import read_onnx
from sdlite.tensors.eightbit import steps_of, to_int8
from sdlite.types import Float32

RUNTIME = "onnxruntime"
LEAST_DB = 40.0
"""Least likeness to the network itself: below, people see it."""
SIDE = 64
"""Side of the pictures measured on."""
COUNT = 16
"""Pictures drawn where none are given; of given ones, four times as many crops at most."""
LEVELS = 255
RANGE = "range of "


def in_eight_bits(
    model: onnx.ModelProto, name: str, calibration: Path | None
) -> tuple[onnx.ModelProto, float]:
    """A network with float32 weights inside, and the same in 8 bits.

    Args:
        model: ESRGAN or a compact network, as ``upscaler_model`` gives it.
        name: what errors call it.
        calibration: a picture, or a folder of them; None measures on drawn ones.

    Returns:
        The network, and its likeness to ``model`` on pictures no range is from, in dB.

    Raises:
        CalibrationFailed: no engine can run it here, or pictures would not be alike enough.
        RequestError: a picture cannot be read.
    """
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    pictures = samples(calibration, channels)
    layers = _layers(model)
    if not layers:
        raise CalibrationFailed(f"{name} has no convolutions between its first and its last")
    ranges = _ranges(model, layers, pictures[::2])
    narrow = _rewritten(model, layers, ranges)
    kept, made = (_outputs(each, pictures[1::2]) for each in (model, narrow))
    error = float(np.mean([np.square(a - b).mean() for a, b in zip(kept, made, strict=True)]))
    likeness = round(10 * math.log10(1 / max(error, 1e-10)), 1)
    if likeness < LEAST_DB:
        raise CalibrationFailed(
            f"{name} in 8 bits is only {likeness} dB like itself, at least {LEAST_DB:g} are asked "
            "for; leave --precision int8, or give pictures like yours with --calibration"
        )
    return narrow, likeness


def samples(calibration: Path | None, channels: int) -> list[Float32]:
    """Pictures ``(1, channels, SIDE, SIDE)``, 0 to 1: crops of given ones, or drawn; at least 2."""
    rng = np.random.default_rng(0)
    if calibration is None:
        return [_drawn(rng, channels) for _ in range(COUNT)]
    if not calibration.exists():
        raise CalibrationFailed(f"no picture or folder {calibration} to measure ranges on")
    files = sorted(calibration.iterdir()) if calibration.is_dir() else [calibration]
    files = [file for file in files if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise CalibrationFailed(f"{calibration} holds no pictures to measure ranges on")
    found: list[Float32] = []
    each = max(2, 4 * COUNT // len(files))
    for file in files[: 4 * COUNT]:
        image = flatten(open_picture(file)).convert("RGB" if channels == 3 else "L")
        if min(image.size) < SIDE:
            image = ImageOps.cover(image, (SIDE, SIDE))
        for _ in range(each):
            left, top = (int(rng.integers(side - SIDE + 1)) for side in image.size)
            part = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)), np.float32) / 255
            found.append(
                np.ascontiguousarray(part.reshape(SIDE, SIDE, -1).transpose(2, 0, 1)[None])
            )
    return found


def _drawn(rng: np.random.Generator, channels: int) -> Float32:
    """Clouds of every size, an edge across them, and grain: what is in photographs."""
    picture = np.full((channels, SIDE, SIDE), rng.random(), np.float32)
    for size in (2, 4, 8, 16, 32, 64):
        cells = rng.standard_normal((channels, size, size)).astype(np.float32)
        picture += cells.repeat(SIDE // size, 1).repeat(SIDE // size, 2) * np.float32(0.6 / size)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    angle = rng.random() * 2 * math.pi
    side = x * math.cos(angle) + y * math.sin(angle) > rng.random() * 0.4
    picture += side * rng.uniform(-0.7, 0.7, (channels, 1, 1)).astype(np.float32)
    return np.clip(picture, 0, 1)[None].astype(np.float32)


def _layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Convolutions with weights of the file, but for the first and the last."""
    own = {item.name for item in model.graph.initializer if not item.name.startswith("const/")}
    found = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in own]
    return found[1:-1]


def _ranges(
    model: onnx.ModelProto, layers: Sequence[onnx.NodeProto], pictures: Sequence[Float32]
) -> dict[str, tuple[float, float]]:
    """Least and largest number of each layer's input, found by the graph itself."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = list(dict.fromkeys(node.input[0] for node in layers))
    for name in names:
        for kind in ("ReduceMin", "ReduceMax"):
            told = f"{RANGE}{name} {kind}"
            watched.graph.node.append(helper.make_node(kind, [name], [told], keepdims=0))
            watched.graph.output.append(helper.make_tensor_value_info(told, TensorProto.FLOAT, []))
    seen = _run(watched, pictures)
    return {
        name: (
            min(0.0, *(float(found[f"{RANGE}{name} ReduceMin"]) for found in seen)),
            max(0.0, *(float(found[f"{RANGE}{name} ReduceMax"]) for found in seen)),
        )
        for name in names
    }


def _rewritten(
    model: onnx.ModelProto,
    layers: Sequence[onnx.NodeProto],
    ranges: dict[str, tuple[float, float]],
) -> onnx.ModelProto:
    """The graph with inputs and weights of the layers in 8 bits."""
    outputs = {node.output[0] for node in layers}
    weights = {node.input[1] for node in layers}
    kept = [item for item in model.graph.initializer if item.name not in weights]
    added: list[onnx.TensorProto] = []
    for item in model.graph.initializer:
        if item.name in weights:
            value = numpy_helper.to_array(item).astype(np.float32)
            steps = steps_of(value)
            added.append(numpy_helper.from_array(to_int8(value, steps), item.name))
            added.append(numpy_helper.from_array(steps, f"{item.name}/step"))
    nodes: list[onnx.NodeProto] = []
    rounded: set[str] = set()
    for old in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(old)
        if node.output[0] in outputs:
            name, weight = node.input[0], node.input[1]
            if name not in rounded:
                rounded.add(name)
                low, high = ranges[name]
                step = np.float32(max(high - low, 1e-6) / LEVELS)
                zero = np.array(np.clip(np.rint(-low / step), 0, LEVELS), np.uint8)
                added.append(numpy_helper.from_array(np.array(step), f"{name}/step"))
                added.append(numpy_helper.from_array(zero, f"{name}/zero"))
                known = [f"{name}/step", f"{name}/zero"]
                narrow, wide = f"{name}/uint8", f"{name}/rounded"
                nodes.append(helper.make_node("QuantizeLinear", [name, *known], [narrow]))
                nodes.append(helper.make_node("DequantizeLinear", [narrow, *known], [wide]))
            loose = f"{weight}/wide"
            taken = [weight, f"{weight}/step"]
            nodes.append(helper.make_node("DequantizeLinear", taken, [loose], axis=0))
            node.input[0], node.input[1] = f"{name}/rounded", loose
        nodes.append(node)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    del made.graph.initializer[:]
    made.graph.initializer.extend([*kept, *added])
    return made


def _outputs(model: onnx.ModelProto, pictures: Sequence[Float32]) -> list[Float32]:
    name = model.graph.output[0].name
    return [np.clip(found[name], 0, 1) for found in _run(model, pictures)]


def _run(model: onnx.ModelProto, pictures: Sequence[Float32]) -> list[dict[str, Float32]]:
    """Every output for every picture."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "measured.onnx"
        path.write_bytes(model.SerializeToString())
        session = _opened(path)
        try:
            return [dict(session.run({model.graph.input[0].name: each})) for each in pictures]
        finally:
            session.close()


def _opened(path: Path) -> Session:
    try:
        device = registry.probe(RUNTIME)[0]
        runtime = registry.get(RUNTIME)
    except RuntimeUnavailable as error:
        raise CalibrationFailed(f"ranges are measured with ONNX Runtime: {error}") from error
    found = read_onnx(path)
    artifact = Artifact(
        component="upscaler",
        format="onnx",
        variant="plain",
        precision="fp32",
        graph=path.name,
        graph_size=path.stat().st_size,
        graph_sha256="",
        inputs=tuple(found.inputs),
        outputs=tuple(found.outputs),
        opset=found.opsets.get("", 0),
    )
    return runtime.load(artifact, path.parent, device, LoadOptions())
