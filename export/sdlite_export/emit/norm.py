"""Group normalisation for ONNX Runtime, which takes its own operation apart when it opens it."""

from __future__ import annotations

import numpy as np

from sdlite_export.emit.recorder import FLOAT, Recorder
from sdlite_export.ops import Value


def instance_norm(
    recorder: Recorder, x: Value, name: str, groups: int, eps: float, scale: str, shift: str
) -> Value:
    """Group normalisation of small maps: two fast kernels."""
    channels = x.channels
    y = _normed(recorder, x, name, groups, eps)
    # Batch normalisation with mean 0 and variance 1 scales and shifts channels in one pass.
    mean = recorder.constant(f"zeros_{channels}", np.zeros(channels, np.float32))
    variance = recorder.constant(f"ones_{channels}", np.ones(channels, np.float32))
    return recorder.graph.node(
        "BatchNormalization",
        [y.name, scale, shift, mean, variance],
        f"{name}/norm",
        x.shape,
        epsilon=0.0,
    )


def half_norm(
    recorder: Recorder, x: Value, name: str, groups: int, eps: float, scale: str, shift: str
) -> Value:
    """The same in operations that GPUs' kernels have for float16."""
    y = _normed(recorder, x, name, groups, eps)
    for op, part, vector in (("Mul", "scaled", scale), ("Add", "norm", shift)):
        axes, shape = recorder.int64([1, 2]), (x.channels, 1, 1)
        row = recorder.graph.node("Unsqueeze", [vector, axes], f"{name}/{part}_by", shape)
        y = recorder.graph.node(op, [y.name, row.name], f"{name}/{part}", x.shape)
    return y


def _normed(recorder: Recorder, x: Value, name: str, groups: int, eps: float) -> Value:
    rows = recorder.int64([0, groups, -1])
    batch, _, height, width = x.shape
    row = f"{x.channels // groups}*{height}*{width}"
    y = recorder.graph.node("Reshape", [x.name, rows], f"{name}/groups", (batch, groups, row))
    ones = recorder.number(f"ones_{groups}", np.ones(groups, np.float32))
    zeros = recorder.number(f"zeros_{groups}", np.zeros(groups, np.float32))
    y = recorder.graph.node(
        "InstanceNormalization",
        [y.name, ones, zeros],
        f"{name}/normed",
        y.shape,
        epsilon=eps,
    )
    shape = recorder.shape_of(x, 0, 4)
    return recorder.graph.node("Reshape", [y.name, shape], f"{name}/map", x.shape)


def reduced_norm(
    recorder: Recorder, x: Value, name: str, groups: int, eps: float, scale: str, shift: str
) -> Value:
    """Group normalisation with sums taken row by row, then over rows.

    Short sums keep float32 exact enough for whole pictures. One batch normalisation over
    batch times channels then does the rest in one pass, without a second copy.
    """
    batch, channels = x.shape[0], x.channels
    group = (batch, groups, 1)
    rows, row_axis, last = recorder.int64([0, groups, -1]), recorder.int64([2]), recorder.int64([3])

    def mean_of_rows(op: str, part: str) -> Value:
        y = recorder.graph.node(op, [x.name, last], f"{name}/{part}_rows", x.shape[:3], keepdims=0)
        y = recorder.graph.node("Reshape", [y.name, rows], f"{name}/{part}_groups", y.shape)
        return recorder.graph.node("ReduceMean", [y.name, row_axis], f"{name}/{part}", group)

    mean = mean_of_rows("ReduceMean", "mean")
    total = mean_of_rows("ReduceSumSquare", "square")
    width = recorder.shape_of(x, 3, 4)
    width = recorder.graph.node("Cast", [width], f"{name}/width", (1,), to=FLOAT).name
    square = recorder.graph.node("Div", [total.name, width], f"{name}/mean_square", group)
    squared = recorder.graph.node("Mul", [mean.name, mean.name], f"{name}/squared_mean", group)
    variance = recorder.graph.node("Sub", [square.name, squared.name], f"{name}/spread", group)
    zero = recorder.constant("zero", np.zeros(1, np.float32))
    variance = recorder.graph.node("Max", [variance.name, zero], f"{name}/variance", group)
    each = recorder.int64([1, 1, channels // groups])
    pairs = recorder.shape_of(x, 0, 2)
    numbers = [
        _flat(recorder, recorder.graph.node("Expand", [value, shape], f"{name}/{part}", group))
        for part, value, shape in (
            ("scales", scale, pairs),
            ("shifts", shift, pairs),
            ("means", mean.name, each),
            ("variances", variance.name, each),
        )
    ]
    plane = recorder.shape_of(x, 2, 4)
    shape = recorder.graph.node(
        "Concat", [recorder.int64([1, -1]), plane], f"{name}/one", (4,), "int64", axis=0
    )
    y = recorder.graph.node("Reshape", [x.name, shape.name], f"{name}/joined", x.shape)
    y = recorder.graph.node(
        "BatchNormalization", [y.name, *numbers], f"{name}/normed", x.shape, epsilon=eps
    )
    whole = recorder.shape_of(x, 0, 4)
    return recorder.graph.node("Reshape", [y.name, whole], f"{name}/norm", x.shape)


def given_norm(
    recorder: Recorder,
    x: Value,
    name: str,
    eps: float,
    scale: str,
    shift: str,
    mean: Value,
    variance: Value,
) -> Value:
    """Group normalisation by statistics ``(groups,)`` that are computed elsewhere."""
    groups = mean.shape[0]
    if not isinstance(groups, int):
        raise TypeError(f"{mean.name} has no fixed number of groups")
    column, row = recorder.int64([groups, 1]), recorder.int64([1, x.channels // groups])
    numbers = []
    for value in (mean, variance):
        y = recorder.graph.node(
            "Reshape", [value.name, column], f"{value.name}/column", (groups, 1)
        )
        shape = (groups, x.channels // groups)
        y = recorder.graph.node("Expand", [y.name, row], f"{value.name}/channels", shape)
        numbers.append(_flat(recorder, y))
    return recorder.graph.node(
        "BatchNormalization",
        [x.name, scale, shift, *numbers],
        f"{name}/norm",
        x.shape,
        epsilon=eps,
    )


def _flat(recorder: Recorder, x: Value) -> str:
    return recorder.graph.node(
        "Reshape", [x.name, recorder.int64([-1])], f"{x.name}/flat", x.shape
    ).name
