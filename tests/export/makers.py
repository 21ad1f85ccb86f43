"""Checkpoint files made by hand: safetensors, torch archives, pickles, small LDM models."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sdlite_export.configs import ClipTextConfig, UnetConfig, VaeConfig
from sdlite_export.source.layout import text_slots, unet_slots, vae_slots

Array = np.ndarray[Any, np.dtype[Any]]

TYPES = {
    "float32": "F32",
    "float16": "F16",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}


def bf16_words(values: Array) -> Array:
    """Float32 values cut to bfloat16, as 16-bit words."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def safetensors_bytes(
    tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None, bf16: bool = False
) -> bytes:
    """A file as the format says; with ``bf16`` float tensors are stored as bfloat16."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    pieces: list[bytes] = []
    end = 0
    for name, array in tensors.items():
        kind = TYPES[array.dtype.name]
        stored = array
        if bf16 and array.dtype.kind == "f":
            kind, stored = "BF16", bf16_words(array)
        raw = stored.tobytes()
        offsets = [end, end + len(raw)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        pieces.append(raw)
        end += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *pieces])


def raw_safetensors(header: object, data: bytes = b"") -> bytes:
    """A file with any header: an object to encode, or its bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


class Global:
    """Pickles as a reference to a global that need not exist here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        """Only callables may be what ``__reduce__`` gives."""


class Call:
    """Pickles as the call of a global."""

    def __init__(
        self, module: str, name: str, *arguments: Any, state: Any = None, items: Any = None
    ) -> None:
        self.function = Global(module, name)
        self.arguments, self.state, self.items = arguments, state, items

    def __reduce__(self) -> Any:
        items = None if self.items is None else iter(self.items)
        return (self.function, self.arguments, self.state, None, items)


class Stored:
    """Pickles as the reference to a storage."""

    def __init__(self, kind: str, key: str, count: int) -> None:
        self.persistent = ("storage", Global("torch", kind), key, "cpu", count)


class TorchPickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes what torch writes, without torch: the pure-Python pickler with our own globals."""

    def persistent_id(self, thing: object) -> Any:
        return thing.persistent if isinstance(thing, Stored) else None

    def save(self, thing: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(thing, Global):
            if self.proto >= 4:
                super().save(thing.module)
                super().save(thing.name)
                self.write(pickle.STACK_GLOBAL)
            else:
                self.write(b"c" + f"{thing.module}\n{thing.name}\n".encode())
            return
        super().save(thing, *arguments, **options)


def dump(value: object, protocol: int = 2) -> bytes:
    """Pickle a value with ``Call``, ``Global`` and ``Stored`` in it."""
    stream = io.BytesIO()
    TorchPickler(stream, protocol).dump(value)
    return stream.getvalue()


STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "bfloat16": "BFloat16Storage",
}


class TorchFile:
    """Collects storages while values are built, then writes the archive."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.items: dict[str, int] = {}

    def storage(self, array: Array, dtype: str | None = None) -> Stored:
        key = str(len(self.data))
        self.data[key] = array.tobytes()
        self.items[key] = array.itemsize
        return Stored(STORAGES[dtype or array.dtype.name], key, array.size)

    def tensor(self, array: Array, dtype: str | None = None) -> Call:
        """A contiguous tensor with a storage of its own."""
        strides = tuple(step // array.itemsize for step in array.strides)
        return self.view(self.storage(array, dtype), 0, array.shape, strides)

    def view(self, storage: Stored, offset: Any, shape: Any, strides: Any) -> Call:
        hooks = Call("collections", "OrderedDict")
        return Call(
            "torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, hooks
        )

    def write(self, path: Path, value: object, protocol: int = 2, root: str = "archive") -> Path:
        return write_archive(path, dump(value, protocol), self.data, root)

    def write_row(self, path: Path, value: object, facts: object = None) -> Path:
        """The format before torch 1.6: pickles and storages in a row."""
        facts = {"protocol_version": 1001, "little_endian": True} if facts is None else facts
        heads = (0x1950A86A20F9469CFC6C, 1001, facts, value, list(self.data))
        row = [dump(head) for head in heads]
        for key, piece in self.data.items():
            count = len(piece) // self.items[key]
            row += [count.to_bytes(8, "little"), piece]
        path.write_bytes(b"".join(row))
        return path


def write_archive(
    path: Path, program: bytes, data: Mapping[str, bytes] | None = None, root: str = "archive"
) -> Path:
    """An archive with a pickle and storages."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{root}/data.pkl", program)
        archive.writestr(f"{root}/byteorder", b"little")
        for key, piece in (data or {}).items():
            archive.writestr(f"{root}/data/{key}", piece)
        archive.writestr(f"{root}/version", b"3\n")
    return path


UNET = UnetConfig(
    in_channels=4,
    out_channels=4,
    block_channels=(32, 64, 64),
    layers_per_block=1,
    down_attention=(True, True, False),
    up_attention=(False, True, True),
    heads=(8, 8, 8),
    transformer_depth=(1, 1, 1),
    cross_dim=64,
)
VAE = VaeConfig(3, 3, 4, (32, 32, 64, 64), 1)
TEXT = ClipTextConfig(49408, 64, 128, 2, 1)


def ldm_model(seed: int = 0) -> dict[str, Array]:
    """A small model in LDM layout, with the buffers that real files carry; float16."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    for prefix, slots in (
        ("model.diffusion_model.", unet_slots(UNET)),
        ("first_stage_model.", vae_slots(VAE)),
        ("cond_stage_model.transformer.", text_slots(TEXT)),
    ):
        for slot in slots:
            shape = slot.shape
            if ".attn_1." in slot.ldm and len(shape) == 2:
                shape = (*shape, 1, 1)  # 1x1 convolutions in LDM
            values = rng.standard_normal(shape, np.float32) * 0.05
            tensors[prefix + slot.ldm] = values.astype(np.float16)
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    tensors[ids] = np.arange(77, dtype=np.int64)[None]
    roots = np.linspace(0.00085**0.5, 0.012**0.5, 1000)
    tensors["alphas_cumprod"] = np.cumprod(1 - roots**2).astype(np.float32)
    tensors["betas"] = (roots**2).astype(np.float32)
    return tensors
