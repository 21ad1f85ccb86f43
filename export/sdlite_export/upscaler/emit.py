"""Upscalers' operations as ONNX nodes, of an opset that every engine reads.

The public methods are documented by ``UpscalerOps``.
"""
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdlite_export.emit.graph import WeightNeed
from sdlite_export.emit.onnx import OnnxOps
from sdlite_export.emit.recorder import FLOAT
from sdlite_export.emit.targets import Target
from sdlite_export.ops import Dim, Value

TARGET = Target(20, 9, (), "Attention", "GroupNormalization", "Mul")
APART = -100.0
"""Added to the logits of tokens that the roll brought together."""


class OnnxUpscalerOps(OnnxOps):
    """``UpscalerOps`` that records ONNX nodes."""

    def __init__(self, precision: str) -> None:
        super().__init__(TARGET, precision)

    def leaky_relu(self, x: Value, slope: float) -> Value:
        return self.graph.node("LeakyRelu", [x.name], f"{x.name}/leaky", x.shape, alpha=slope)

    def prelu(self, x: Value, name: str) -> Value:
        slopes = self.weight(f"{name}.weight", (x.channels,))
        shape = (x.channels, 1, 1)
        wide = self.graph.node("Reshape", [slopes, self.int64(list(shape))], f"{name}/wide", shape)
        return self.graph.node("PRelu", [x.name, wide.name], f"{name}/prelu", x.shape)

    def scaled(self, x: Value, factor: float) -> Value:
        number = self.constant(f"factor_{factor:g}", np.array(factor, np.float32))
        return self.graph.node("Mul", [x.name, number], f"{x.name}/scaled", x.shape)

    def shifted(self, x: Value, offsets: Sequence[float]) -> Value:
        values = np.array(offsets, np.float32).reshape(1, -1, 1, 1)
        number = self.constant(f"offsets_{offsets[0]:g}", values)
        return self.graph.node("Add", [x.name, number], f"{x.name}/shifted", x.shape)

    def pixel_shuffle(self, x: Value, factor: int, size: tuple[Dim, Dim]) -> Value:
        return self.graph.node(
            "DepthToSpace",
            [x.name],
            f"{x.name}/shuffled",
            (x.shape[0], x.channels // factor**2, *size),
            blocksize=factor,
            mode="CRD",
        )

    def pixel_unshuffle(self, x: Value, factor: int, size: tuple[Dim, Dim]) -> Value:
        # A convolution that picks single pixels: OpenVINO gave other numbers for SpaceToDepth.
        channels = x.channels * factor**2
        kernel = np.zeros((x.channels, factor, factor, x.channels, factor, factor), np.float32)
        for channel, down, across in np.ndindex(x.channels, factor, factor):
            kernel[channel, down, across, channel, down, across] = 1
        weight = self.constant(
            f"unshuffle_{factor}", kernel.reshape(channels, x.channels, factor, factor)
        )
        return self.graph.node(
            "Conv",
            [x.name, weight],
            f"{x.name}/folded",
            (x.shape[0], channels, *size),
            kernel_shape=[factor, factor],
            strides=[factor, factor],
        )

    def enlarge(self, x: Value, factor: int, size: tuple[Dim, Dim]) -> Value:
        scales = self.constant(f"times_{factor}", np.array([1, 1, factor, factor], np.float32))
        return self.graph.node(
            "Resize",
            [x.name, "", scales],
            f"{x.name}/enlarged",
            (*x.shape[:2], *size),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def to_grid(self, x: Value) -> Value:
        _, channels, height, width = x.shape
        y = self.graph.node(
            "Squeeze", [x.name, self.int64([0])], f"{x.name}/one", (channels, height, width)
        )
        return self.graph.node(
            "Transpose", [y.name], f"{x.name}/grid", (height, width, channels), perm=[1, 2, 0]
        )

    def from_grid(self, x: Value) -> Value:
        height, width, channels = x.shape
        y = self.graph.node(
            "Transpose", [x.name], f"{x.name}/channels", (channels, height, width), perm=[2, 0, 1]
        )
        return self.graph.node(
            "Unsqueeze", [y.name, self.int64([0])], f"{x.name}/map", (1, channels, height, width)
        )

    def windows(self, x: Value, window: int, shift: int) -> Value:
        height, width, channels = x.shape
        x = self._rolled(x, shift)
        shape = self._window_shape(x, window)
        parts = (f"{height}/{window}", window, f"{width}/{window}", window, channels)
        y = self.graph.node("Reshape", [x.name, shape], f"{x.name}/parts", parts)
        swapped = (parts[0], parts[2], window, window, channels)
        y = self.graph.node(
            "Transpose", [y.name], f"{x.name}/swapped", swapped, perm=[0, 2, 1, 3, 4]
        )
        flat = self.int64([-1, window * window, x.channels])
        return self.graph.node(
            "Reshape", [y.name, flat], f"{x.name}/windows", ("windows", window * window, channels)
        )

    def from_windows(self, x: Value, window: int, shift: int, like: Value) -> Value:
        height, width, channels = like.shape
        key = (self.graph.segment, f"window counts {window} of {like.shape}")
        if key not in self.memo:
            counts = self._counts(like, window)
            inner = self.int64([window, window, x.channels])
            self.memo[key] = self.graph.node(
                "Concat", [*counts, inner], f"{x.name}/counts", (5,), "int64", axis=0
            ).name
        parts = (f"{height}/{window}", f"{width}/{window}", window, window, channels)
        y = self.graph.node("Reshape", [x.name, self.memo[key]], f"{x.name}/parts", parts)
        swapped = (parts[0], window, parts[1], window, channels)
        y = self.graph.node(
            "Transpose", [y.name], f"{x.name}/swapped", swapped, perm=[0, 2, 1, 3, 4]
        )
        y = self.graph.node(
            "Reshape", [y.name, self._grid_shape(like)], f"{x.name}/grid", like.shape
        )
        return self._rolled(y, -shift)

    def window_attention(
        self, x: Value, name: str, heads: int, window: int, shift: int, grid: Value
    ) -> Value:
        tokens, channels = window * window, x.channels
        depth = channels // heads
        both = self.linear(x, f"{name}.qkv", 3 * channels)
        q, k, v = (self._head(both, f"{name}/{part}", i, heads) for i, part in enumerate("qkv"))
        q = self.scaled(q, depth**-0.5)
        k = self.graph.node(
            "Transpose",
            [k.name],
            f"{name}/turned",
            ("windows", heads, depth, tokens),
            perm=[0, 1, 3, 2],
        )
        shape = ("windows", heads, tokens, tokens)
        logits = self.graph.node("MatMul", [q.name, k.name], f"{name}/logits", shape)
        bias = self._bias(f"{name}.relative_position_bias_table", heads, window)
        logits = self.graph.node("Add", [logits.name, bias.name], f"{name}/biased", shape)
        if shift:
            mask = self._mask(grid, window, shift)
            logits = self.graph.node("Add", [logits.name, mask], f"{name}/masked", shape)
        weights = self.graph.node("Softmax", [logits.name], f"{name}/softmax", shape, axis=-1)
        y = self.graph.node(
            "MatMul", [weights.name, v.name], f"{name}/mixed", ("windows", heads, tokens, depth)
        )
        y = self.graph.node(
            "Transpose",
            [y.name],
            f"{name}/back",
            ("windows", tokens, heads, depth),
            perm=[0, 2, 1, 3],
        )
        flat = self.int64([-1, tokens, channels])
        y = self.graph.node("Reshape", [y.name, flat], f"{name}/joined", x.shape)
        return self.linear(y, f"{name}.proj", channels)

    def _head(self, both: Value, name: str, index: int, heads: int) -> Value:
        """Queries, keys or values of every head, ``(windows, heads, tokens, depth)``."""
        windows, tokens, _ = both.shape
        channels = both.channels // 3
        bounds = [self.int64([n]) for n in (index * channels, (index + 1) * channels, -1)]
        y = self.graph.node("Slice", [both.name, *bounds], name, (windows, tokens, channels))
        depth = channels // heads
        shape = self.int64([0, 0, heads, depth])
        y = self.graph.node(
            "Reshape", [y.name, shape], f"{name}/heads", (windows, tokens, heads, depth)
        )
        return self.graph.node(
            "Transpose",
            [y.name],
            f"{name}/first",
            (windows, heads, tokens, depth),
            perm=[0, 2, 1, 3],
        )

    def _bias(self, key: str, heads: int, window: int) -> Value:
        """The table's rows for every pair of places in a window, ``(heads, tokens, tokens)``."""
        side = 2 * window - 1
        self.ask(key, WeightNeed((side * side, heads)))
        places = np.stack(np.meshgrid(range(window), range(window), indexing="ij")).reshape(2, -1)
        apart = places[:, :, None] - places[:, None, :] + window - 1
        rows = self.constant(f"pairs_{window}", (apart[0] * side + apart[1]).astype(np.int64))
        tokens = window * window
        y = self.graph.node("Gather", [key, rows], f"{key}/rows", (tokens, tokens, heads), axis=0)
        if self.precision == "fp16":
            y = self.graph.node("Cast", [y.name], f"{key}/float32", y.shape, to=FLOAT)
        return self.graph.node(
            "Transpose", [y.name], f"{key}/bias", (heads, tokens, tokens), perm=[2, 0, 1]
        )

    def _mask(self, grid: Value, window: int, shift: int) -> str:
        """0 for tokens from one side of the roll, ``APART`` otherwise, ``(windows, 1, n, n)``."""
        key = (self.graph.segment, f"mask {window} {shift}")
        if key in self.memo:
            return self.memo[key]
        ids = []
        for axis, what in enumerate(("rows", "columns")):
            # 0 within whole windows, 1 in the last one, 2 for what came from the other edge.
            size = self.shape_of(grid, axis, axis + 1)
            dim = grid.shape[axis]
            number = self.graph.node(
                "Squeeze", [size, self.int64([0])], f"{what}/size", (), "int64"
            )
            zero = self.constant("zero_int", np.array(0, np.int64))
            one = self.constant("one_int", np.array(1, np.int64))
            place = self.graph.node(
                "Range", [zero, number.name, one], f"{what}/range", (dim,), "int64"
            )
            part = None
            for back in (window, shift):
                start = self.graph.node(
                    "Sub", [size, self.int64([back])], f"{what}/start", (1,), "int64"
                )
                later = self.graph.node(
                    "GreaterOrEqual", [place.name, start.name], f"{what}/later", (dim,), "int64"
                )
                later = self.graph.node("Cast", [later.name], f"{what}/part", (dim,), to=FLOAT)
                part = later if part is None else self.add(part, later)
            assert part is not None
            ids.append(part)
        column = self.graph.node(
            "Unsqueeze", [ids[0].name, self.int64([1])], "rows/column", (grid.shape[0], 1)
        )
        both = self.graph.node(
            "Add", [self.scaled(column, 3.0).name, ids[1].name], "regions", grid.shape[:2]
        )
        one_channel = self.graph.node(
            "Unsqueeze", [both.name, self.int64([2])], "regions/grid", (*grid.shape[:2], 1)
        )
        cut = self.windows(one_channel, window, 0)
        tokens = window * window
        turned = self.graph.node(
            "Transpose", [cut.name], "regions/turned", ("windows", 1, tokens), perm=[0, 2, 1]
        )
        square = ("windows", tokens, tokens)
        same = self.graph.node("Equal", [cut.name, turned.name], "regions/same", square, "int64")
        numbers = [self.constant(f"mask_{n:g}", np.array(n, np.float32)) for n in (0.0, APART)]
        mask = self.graph.node("Where", [same.name, *numbers], "regions/mask", square)
        wide = self.graph.node(
            "Unsqueeze", [mask.name, self.int64([1])], "mask", ("windows", 1, tokens, tokens)
        )
        self.memo[key] = wide.name
        return wide.name

    def _rolled(self, x: Value, shift: int) -> Value:
        """Moved up and left by ``shift``, around the edges."""
        for axis in (0, 1) if shift else ():
            bounds = [self.int64([n]) for n in (shift, np.iinfo(np.int64).max, 0, axis)]
            shape = x.shape
            later = self.graph.node(
                "Slice", [x.name, bounds[0], bounds[1], bounds[3]], f"{x.name}/later", shape
            )
            sooner = self.graph.node(
                "Slice", [x.name, bounds[2], bounds[0], bounds[3]], f"{x.name}/sooner", shape
            )
            x = self.graph.node(
                "Concat", [later.name, sooner.name], f"{x.name}/rolled", shape, axis=axis
            )
        return x

    def _counts(self, grid: Value, window: int) -> list[str]:
        """How many windows there are down and across, each ``(1,)``."""
        found = []
        for axis in (0, 1):
            key = (self.graph.segment, f"windows of {window} along {grid.shape[axis]}")
            if key not in self.memo:
                size = self.shape_of(grid, axis, axis + 1)
                self.memo[key] = self.graph.node(
                    "Div", [size, self.int64([window])], f"count_{axis}", (1,), "int64"
                ).name
            found.append(self.memo[key])
        return found

    def _window_shape(self, grid: Value, window: int) -> str:
        key = (self.graph.segment, f"window shape {window} of {grid.shape}")
        if key not in self.memo:
            down, across = self._counts(grid, window)
            side, channels = self.int64([window]), self.int64([grid.channels])
            self.memo[key] = self.graph.node(
                "Concat",
                [down, side, across, side, channels],
                "window_shape",
                (5,),
                "int64",
                axis=0,
            ).name
        return self.memo[key]

    def _grid_shape(self, grid: Value) -> str:
        key = (self.graph.segment, f"grid shape {grid.shape}")
        if key not in self.memo:
            self.memo[key] = self.shape_of(grid, 0, 3)
        return self.memo[key]
