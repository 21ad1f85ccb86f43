"""Run a saved Core ML package with numpy alone, operation by operation.

It reads what is on disk, the program in ``model.mlmodel`` and the numbers in ``weight.bin``, and
knows nothing of what wrote them; coremltools gives it the protobuf classes only. What each
operation means is taken from Apple's specification of MIL, and an operation, argument or type it
does not know is an error. Sums are float32; every result is rounded to the type the program says.
"""

from __future__ import annotations

import inspect
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
MODEL = Path("Data", "com.apple.CoreML", "model.mlmodel")
WEIGHTS = Path("Data", "com.apple.CoreML", "weights")
SENTINEL = 0xDEADBEEF
BLOBS = {1: np.float16, 2: np.float32, 3: np.uint8, 4: np.int8}
# MIL.proto's DataType.
TYPES: dict[int, type] = {
    1: np.bool_,
    2: np.str_,
    10: np.float16,
    11: np.float32,
    23: np.int32,
    31: np.uint8,
    33: np.uint32,
}
DTYPES = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}


class Program:
    """A package: ``run`` takes and gives arrays by name."""

    def __init__(self, package: Path) -> None:
        from coremltools.proto import Model_pb2

        self.spec = Model_pb2.Model()
        self.spec.ParseFromString((package / MODEL).read_bytes())
        assert self.spec.WhichOneof("Type") == "mlProgram"
        (self.function,) = self.spec.mlProgram.functions.values()
        (self.block,) = self.function.block_specializations.values()
        self.folder = package / WEIGHTS
        self.blobs: dict[str, bytes] = {}
        self.ops = {operation.type for operation in self.block.operations}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name."""
        values: dict[str, Any] = {}
        for port in self.function.inputs:
            dtype, shape = _type(port.type)
            values[port.name] = np.asarray(inputs[port.name])
            assert (values[port.name].dtype, values[port.name].shape) == (dtype, shape), port.name
        assert inputs.keys() == values.keys()
        left = _last_uses(self.block)
        for index, operation in enumerate(self.block.operations):
            results = self._operation(operation, values)
            assert len(results) == len(operation.outputs), operation.type
            for port, result in zip(operation.outputs, results, strict=True):
                assert port.name not in values, f"{port.name} is there twice"
                values[port.name] = _as_declared(port, result)
            for name in left.get(index, ()):
                del values[name]
        declared = [port.name for port in self.spec.description.output]
        assert declared == list(self.block.outputs)
        return {name: values[name] for name in declared}

    def _operation(self, operation: Any, values: Mapping[str, Any]) -> list[Any]:
        arguments: dict[str, Any] = {}
        for name, argument in operation.inputs.items():
            found = [
                values[item.name]
                if item.WhichOneof("binding") == "name"
                else self._value(item.value)
                for item in argument.arguments
            ]
            arguments[name] = found if name == "values" else found[0]
        for name, value in operation.attributes.items():
            if name != "name":
                arguments[name] = self._value(value)
        function = OPERATIONS.get(operation.type)
        if function is None:
            raise NotImplementedError(f"the interpreter does not know {operation.type}")
        unknown = arguments.keys() - inspect.signature(function).parameters.keys()
        if unknown:
            raise NotImplementedError(f"{operation.type} has {sorted(unknown)}")
        result = function(**arguments)
        return result if isinstance(result, list) else [result]

    def _value(self, value: Any) -> Any:
        dtype, shape = _type(value.type)
        if value.WhichOneof("value") == "blobFileValue":
            return self._blob(value.blobFileValue, dtype, shape)
        tensor = value.immediateValue.tensor
        kind = tensor.WhichOneof("value")
        if kind == "bytes":
            return np.frombuffer(tensor.bytes.values, dtype).reshape(shape)
        found = list(getattr(tensor, kind).values)
        if dtype == np.str_:
            return found[0]
        array = np.array(found, dtype).reshape(shape)
        return array if shape else array[()]

    def _blob(self, blob: Any, dtype: type, shape: tuple[int, ...]) -> Array:
        name = Path(blob.fileName).name
        assert blob.fileName == f"@model_path/weights/{name}"
        if name not in self.blobs:
            self.blobs[name] = (self.folder / name).read_bytes()
        data = self.blobs[name]
        sentinel, kind, size, start = struct.unpack_from("<IIQQ", data, blob.offset)
        assert sentinel == SENTINEL and BLOBS[kind] == dtype
        assert size == math.prod(shape) * np.dtype(dtype).itemsize
        return np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)


def _type(kind: Any) -> tuple[type, tuple[int, ...]]:
    tensor = kind.tensorType
    return TYPES[tensor.dataType], tuple(item.constant.size for item in tensor.dimensions)


def _as_declared(port: Any, result: Any) -> Any:
    dtype, shape = _type(port.type)
    if dtype == np.str_:
        return result
    array = np.asarray(result)
    assert array.shape == shape, f"{port.name} is {array.shape}, the program says {shape}"
    floats = (np.float16, np.float32)
    assert array.dtype == dtype or (dtype in floats and array.dtype in floats), port.name
    return array.astype(dtype, copy=False)


def _last_uses(block: Any) -> dict[int, list[str]]:
    """Names to forget after each operation."""
    last: dict[str, int] = {}
    for index, operation in enumerate(block.operations):
        for port in operation.outputs:
            last[port.name] = index
        for argument in operation.inputs.values():
            last |= {item.name: index for item in argument.arguments if item.name}
    found: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in block.outputs:
            found.setdefault(index, []).append(name)
    return found


def _wide(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _conv(
    x: Array,
    weight: Array,
    strides: Array,
    pad_type: str,
    pad: Array,
    dilations: Array,
    groups: int,
    bias: Array | None = None,
) -> Array:
    assert groups == 1 and list(dilations) == [1, 1]
    assert pad_type == "custom"
    top, bottom, left, right = map(int, pad)
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    windows = windows[:, :, :: int(strides[0]), :: int(strides[1])]
    batch, _, height, width = windows.shape[:4]
    rows = _wide(windows.transpose(0, 2, 3, 1, 4, 5).reshape(batch * height * width, -1))
    y = rows @ _wide(weight.reshape(len(weight), -1)).T
    if bias is not None:
        y += _wide(bias)
    return y.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)


def _matmul(x: Array, y: Array, transpose_x: bool, transpose_y: bool) -> Array:
    a, b = _wide(x), _wide(y)
    return (a.swapaxes(-1, -2) if transpose_x else a) @ (b.swapaxes(-1, -2) if transpose_y else b)


def _einsum(values: list[Array], equation: str) -> Array:
    # The one equation MIL has for rank 4: out[n,c,h,u] = sum over w of a[n,c,h,w] b[n,w,h,u].
    assert equation == "nchw,nwhu->nchu"
    a, b = map(_wide, values)
    y = a.transpose(0, 2, 1, 3) @ b.transpose(0, 2, 1, 3)
    return y.transpose(0, 2, 1, 3)


def _softmax(x: Array, axis: int) -> Array:
    shares = np.exp(_wide(x) - _wide(x.max(axis=axis, keepdims=True)))
    return shares / shares.sum(axis=axis, keepdims=True)


def _instance_norm(x: Array, epsilon: float) -> Array:
    wide = _wide(x)
    centred = wide - wide.mean(axis=(2, 3), keepdims=True)
    variance = np.square(centred).mean(axis=(2, 3), keepdims=True)
    return centred / np.sqrt(variance + np.float32(epsilon))


def _layer_norm(x: Array, axes: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    over = tuple(map(int, axes))
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    wide = _wide(x)
    centred = wide - wide.mean(axis=over, keepdims=True)
    variance = (centred**2).mean(axis=over, keepdims=True)
    normed = centred / np.sqrt(variance + np.float32(epsilon))
    return normed * _wide(gamma).reshape(shape) + _wide(beta).reshape(shape)


_ERF = np.frompyfunc(math.erf, 1, 1)
"""Too slow for maps; a table of float16's values is not."""


def _erf(x: Array) -> Array:
    values, places = np.unique(x, return_inverse=True)
    return _ERF(values.astype(np.float64)).astype(np.float32)[places].reshape(x.shape)


def _gelu(x: Array, mode: str) -> Array:
    assert mode == "EXACT"
    wide = _wide(x)
    return wide * (1 + _erf(wide / np.float32(math.sqrt(2)))) / 2


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-_wide(x)))


def _reduce(function: Callable[..., Array]) -> Callable[..., Array]:
    def reduced(x: Array, axes: Array, keep_dims: bool) -> Array:
        return function(_wide(x), axis=tuple(map(int, axes)), keepdims=bool(keep_dims))

    return reduced


def _binary(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    def both(x: Array, y: Array) -> Array:
        assert x.dtype == y.dtype
        return function(_wide(x), _wide(y))

    return both


def _cast(x: Array, dtype: str) -> Array:
    return x.astype(DTYPES[dtype])


def _reshape(x: Array, shape: Array) -> Array:
    assert min(shape) > 0
    return x.reshape([int(size) for size in shape])


def _split(x: Array, num_splits: int, axis: int) -> list[Array]:
    return np.split(x, int(num_splits), axis=int(axis))


def _concat(values: list[Array], axis: int, interleave: bool) -> Array:
    assert not interleave
    return np.concatenate(values, axis=int(axis))


def _gather(x: Array, indices: Array, axis: int, batch_dims: int = 0) -> Array:
    assert batch_dims == 0
    return np.take(x, indices, axis=int(axis))


def _slice(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    assert stride is None or set(map(int, stride)) == {1}
    assert not any(
        np.any(mask) for mask in (begin_mask, end_mask, squeeze_mask) if mask is not None
    )
    return x[tuple(slice(int(a), int(b)) for a, b in zip(begin, end, strict=True))]


def _upsample(x: Array, scale_factor_height: float, scale_factor_width: float) -> Array:
    assert scale_factor_height == scale_factor_width == 2
    return x.repeat(2, axis=2).repeat(2, axis=3)


def _expand_dims(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(map(int, axes)))


def _palette(indices: Array, lut: Array, shape: Array) -> Array:
    bits = len(lut).bit_length() - 1
    count = math.prod(map(int, shape))
    assert len(lut) == 1 << bits and len(indices) == -(-count * bits // 8)
    # Independent of how they were packed: each index is read from the bits it starts at.
    starts = np.arange(count, dtype=np.int64) * bits
    padded = np.concatenate([indices, np.zeros(1, np.uint8)]).astype(np.uint32)
    pairs = padded[starts // 8] | padded[starts // 8 + 1] << 8
    return lut[pairs >> (starts % 8) & ((1 << bits) - 1)].reshape([int(size) for size in shape])


OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": _binary(np.add),
    "cast": _cast,
    "concat": _concat,
    "const": lambda val: val,
    "constexpr_lut_to_dense": _palette,
    "conv": _conv,
    "cos": lambda x: np.cos(_wide(x)),
    "einsum": _einsum,
    "equal": lambda x, y: np.equal(x, y),
    "expand_dims": _expand_dims,
    "gather": _gather,
    "gelu": _gelu,
    "identity": lambda x: x,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "matmul": _matmul,
    "mul": _binary(np.multiply),
    "reduce_max": _reduce(np.max),
    "reduce_sum": _reduce(np.sum),
    "reshape": _reshape,
    "sigmoid": _sigmoid,
    "silu": lambda x: _wide(x) * _sigmoid(x),
    "sin": lambda x: np.sin(_wide(x)),
    "slice_by_index": _slice,
    "softmax": _softmax,
    "split": _split,
    "transpose": lambda x, perm: x.transpose([int(axis) for axis in perm]),
    "upsample_nearest_neighbor": _upsample,
}
