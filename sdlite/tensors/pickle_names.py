"""The globals a checkpoint's pickle may mention. None of them is ever imported or called."""

from __future__ import annotations

REBUILD = frozenset(
    {
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.nn.parameter.Parameter",
    }
)
"""Functions that stand for a tensor; they become records."""

STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.DoubleStorage": "float64",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
"""Element type of each storage class."""

DICTIONARIES = frozenset({"collections.OrderedDict", "torch.nn.modules.container.ParameterDict"})
"""What holds tensors by name; the second is what textual inversion was first saved as."""

TYPES = DICTIONARIES | frozenset(
    {
        "collections.defaultdict",
        "collections.Counter",
        "collections.deque",
        "torch.Size",
        "torch.device",
        "datetime.datetime",
        "datetime.timedelta",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib.PurePosixPath",
        "pathlib.PureWindowsPath",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "argparse.Namespace",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "_codecs.encode",
        "typing.Any",
    }
)
"""Plain data that training programs store beside the weights; it becomes an opaque value."""

BUILTINS = frozenset(
    [
        "bool",
        "bytearray",
        "bytes",
        "complex",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "range",
        "set",
        "slice",
        "str",
        "tuple",
    ]
)
"""Built-in types that hold data; of all other built-ins none has a place in a checkpoint."""

DTYPES = frozenset(
    [
        "float16",
        "float32",
        "float64",
        "bfloat16",
        "half",
        "float",
        "double",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "bool",
    ]
)

TRAINERS = ("pytorch_lightning", "lightning", "lightning_fabric", "omegaconf")
"""Packages whose objects lie in real Stable Diffusion checkpoints as training state."""


def is_inert(module: str, name: str) -> bool:
    """Whether a global stands for plain data or training state.

    ``module`` and ``name`` must be dotted identifiers: a name such as ``os.system`` inside an
    allowed module would otherwise hide behind it.
    """
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        return False
    if module in ("builtins", "__builtin__"):
        return name in BUILTINS
    if module == "torch":
        return f"torch.{name}" in TYPES or name in DTYPES
    return f"{module}.{name}" in TYPES or module.split(".")[0] in TRAINERS
