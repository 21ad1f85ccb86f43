"""Memory estimates and cuts, on graphs small enough to count by hand."""

from __future__ import annotations

from sdlite_export.emit.estimate import activation_bytes, merge_segments, widened_bytes
from sdlite_export.emit.onnx import OnnxOps
from sdlite_export.emit.targets import FUSED
from sdlite_export.ops import Value

SIZES = {"batch": 1, "height": 10, "width": 10}
PLANE = 400
"""Bytes of one channel."""
SMALL = {"batch": 1, "height": 2, "width": 2}
"""Sizes at which weights outweigh what flows between operations."""


def start(channels: int, precision: str = "fp32") -> tuple[OnnxOps, Value]:
    ops = OnnxOps(FUSED, precision)
    return ops, ops.input("x", ("batch", channels, "height", "width"))


def test_convolution_holds_input_and_output() -> None:
    ops, x = start(2)
    ops.output("y", ops.conv(x, "c", 3))
    graph = ops.finish()
    # The output is there a second time when it is handed over.
    assert activation_bytes(graph, graph.nodes, SIZES) == (2 + 3 + 3) * PLANE


def test_values_nobody_needs_any_more_are_gone() -> None:
    ops, x = start(2)
    y = ops.silu(ops.silu(ops.silu(ops.conv(x, "c", 3))))
    ops.output("y", y)
    graph = ops.finish()
    # The input, and two of the three maps at a time.
    assert activation_bytes(graph, graph.nodes, SIZES) == (2 + 3 + 3) * PLANE


def test_what_is_needed_later_stays() -> None:
    ops, x = start(1)
    a = ops.conv(x, "a", 10)
    b = ops.conv(a, "b", 1)
    c = ops.conv(b, "c", 1)
    ops.output("y", ops.concat(a, c))
    graph = ops.finish()
    # At the last operation: the input, a, c and the joined map.
    assert activation_bytes(graph, graph.nodes, SIZES) == (1 + 10 + 1 + 11) * PLANE


def test_widened_weights_count() -> None:
    ops, x = start(2, "fp16")
    ops.output("y", ops.conv(x, "c", 3))
    graph = ops.finish()
    assert widened_bytes(graph, graph.nodes, SIZES) == 3 * 2 * 9 * 4
    assert activation_bytes(graph, graph.nodes, SIZES) == (2 + 3 + 3) * PLANE


def chain(precision: str = "fp16") -> OnnxOps:
    ops, x = start(1, precision)
    skip = ops.conv(x, "first", 7)
    ops.cut()
    y = skip
    for index in range(20):
        y = ops.conv(y, f"c{index}", 7)
        ops.cut()
    ops.output("y", ops.concat(skip, y))
    return ops


def test_tensors_that_wait_count() -> None:
    graph = chain().finish()
    middle = graph.segments()[5]
    # The skip, this segment's input, and its output twice.
    assert activation_bytes(graph, middle, SIZES) == 28 * PLANE
    assert {value.name for value in graph.live_before(middle)} == {
        "first/conv",
        "c3/conv",
    }


def test_segments_are_joined_up_to_the_limit() -> None:
    graph = chain().finish()
    finest = graph.segments()
    assert len(finest) == 22
    assert merge_segments(graph, SMALL, 1) == finest
    merged = merge_segments(graph, SMALL, 1 << 30)
    assert 8 <= len(merged) < 22
    assert [node for run in merged for node in run] == graph.nodes


def test_cuts_do_not_depend_on_stored_precision() -> None:
    counts = [
        len(merge_segments(chain(precision).finish(), SMALL, 1 << 30))
        for precision in ("fp16", "fp32")
    ]
    assert counts[0] == counts[1]
