"""The GGUF reader: what ggml writes, and one clear error for every kind of bad file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sdlite_export.export import export_package
from sdlite_export.inspect import inspect_path
from sdlite_export.source import open_source

from sdlite.errors import SourceCorrupt, SourceError
from sdlite.tensors.base import TensorInfo
from sdlite.tensors.ggml import BLOCKS
from sdlite.tensors.gguf import open_gguf
from tests.export.makers import ldm_model, safetensors_bytes

FIXTURES = Path(__file__).parent / "fixtures"
FORMATS = {found.name: (number, found) for number, found in BLOCKS.items()}
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)

F32, F16, Q8_0 = 0, 1, 8
KINDS = {"float32": F32, "float16": F16, "int64": 27}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def entry(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    extents = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return text(name) + extents + struct.pack("<IQ", kind, offset)


def gguf_bytes(
    tensors: list[bytes],
    data: bytes,
    entries: list[bytes] = [],  # noqa: B006
    version: int = 3,
    align: int = 32,
    counts: tuple[int, int] | None = None,
) -> bytes:
    n, m = counts or (len(tensors), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, n, m) + b"".join(entries) + b"".join(tensors)
    return head + b"\0" * (-len(head) % align) + data


def put(folder: Path, data: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_are_widened_as_ggml_widens_them(name: str) -> None:
    with np.load(FIXTURES / "ggml.npz") as stored:
        blocks, expected = stored[f"{name}_blocks"], stored[f"{name}_values"]
    found = FORMATS[name][1]
    assert blocks.shape == (5, found.size)
    values = found.read(blocks.reshape(-1))
    assert values.dtype == np.float32 and values.shape == (5 * found.count,)
    assert np.allclose(values, expected.reshape(-1), rtol=1e-6, atol=1e-7)
    many = np.concatenate([blocks] * 1000)  # more than one slab
    assert np.array_equal(found.read(many.reshape(-1)), np.tile(values, 1000))


def test_a_file_of_the_reference_writer() -> None:
    file = open_gguf(FIXTURES / "ggml.gguf")
    assert file.metadata["general.architecture"] == "diffusion"
    assert file.metadata["modelspec.license"] == "mit"
    assert "some.list" not in file.metadata
    assert dict(file.infos()) == {
        "plain": TensorInfo((2, 5), "float32"),
        "half": TensorInfo((3, 64), "float16"),
        "packed": TensorInfo((2, 3, 64), "float32", "q8_0", 12 * 34),
    }
    values = (np.arange(6 * 64, dtype=np.float32) / 64 - 3).reshape(2, 3, 64)
    assert np.array_equal(file.read("plain"), values[0, :2, :5])
    assert np.array_equal(file.read("half"), values[0].astype(np.float16))
    assert np.abs(file.read("packed") - values).max() < 3 / 127
    with pytest.raises(SourceCorrupt, match="no tensor 'other'"):
        file.read("other")


def q8_0(array: Any) -> bytes:
    groups = array.astype(np.float32).reshape(-1, 32)
    scale = (np.abs(groups).max(1, keepdims=True) / 127).astype("<f2")
    steps = np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0)
    quants = np.clip(np.round(steps), -127, 127).astype(np.int8)
    return np.concatenate([scale.view(np.uint8), quants.view(np.uint8)], 1).tobytes()


def write_model(path: Path, model: dict[str, Any]) -> int:
    """A checkpoint as stable-diffusion.cpp's convert writes it; tensors stored in blocks."""
    tensors, data, packed = [], b"", 0
    for name, array in model.items():
        blocks = array.ndim > 1 and array.shape[-1] % 32 == 0 and "embedding" not in name
        plain = (KINDS[array.dtype.name], array.tobytes())
        kind, raw = (Q8_0, q8_0(array)) if blocks else plain
        packed += blocks
        tensors.append(tensor(name, array.shape, kind, len(data)))
        data += raw + b"\0" * (-len(raw) % 32)
    path.write_bytes(gguf_bytes(tensors, data))
    return packed


def test_a_checkpoint_is_exported_as_its_widened_weights(tmp_path: Path) -> None:
    model = ldm_model()
    assert write_model(tmp_path / "model.gguf", model) > 50
    file = open_gguf(tmp_path / "model.gguf")
    plain = {name: file.read(name) for name in file.infos()}
    for name, array in model.items():
        assert np.abs(plain[name] - array).max() <= np.abs(array).max() / 200, name
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "model.safetensors").write_bytes(safetensors_bytes(plain))
    packages = []
    for source in (tmp_path / "model.gguf", tmp_path / "plain" / "model.safetensors"):
        dest = tmp_path / f"package-{source.suffix[1:]}"
        report = export_package(source, dest)
        packages.append(
            [(dest / f"{name}/weights.bin").read_bytes() for name in ("unet", "vae_decoder")]
        )
        blocks = source.suffix == ".gguf"
        assert any("q8_0 blocks" in note for note in report.notes) == blocks
    assert packages[0] == packages[1]
    seen = inspect_path(tmp_path / "model.gguf")
    unet = next(item for item in seen.components if item.name == "unet")
    assert (seen.kind, seen.family) == ("single-file", "sd1")
    assert "q8_0" in unet.precision and unet.size < 4 * unet.parameters


def test_other_models_are_named(tmp_path: Path) -> None:
    flux = tensor("double_blocks.0.img_attn.qkv.weight", (1, 32), Q8_0, 0)
    with pytest.raises(SourceError, match="this looks like FLUX"):
        open_source(put(tmp_path, gguf_bytes([flux], bytes(34))))


ONE = tensor("a", (2, 2), F32, 0)
ALIGN = "general.alignment"
DEFECTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "starts with b''"),
    "short": (b"GGUF\3\0", "starts with"),
    "other file": (b"PK\3\4" + bytes(100), "instead of b'GGUF'"),
    "version 1": (gguf_bytes([], b"", version=1), "GGUF version 1; versions 2 and 3"),
    "big-endian": (gguf_bytes([], b"", version=3 << 24), "big-endian"),
    "no counts": (b"GGUF\3\0\0\0", "ends inside a number"),
    "many tensors": (gguf_bytes([], b"", counts=(1 << 40, 0)), "claims 1099511627776 tensors"),
    "many entries": (gguf_bytes([], b"", counts=(0, 1 << 63)), "metadata entries, at most"),
    "more tensors than there are": (gguf_bytes([ONE], bytes(16), counts=(2, 0)), "damaged"),
    "long name": (gguf_bytes([text(b"n" * 70_000)], b"", counts=(1, 0)), "is 70000 bytes long"),
    "name beyond the end": (
        gguf_bytes([struct.pack("<Q", 60_000)], b"", counts=(1, 0)),
        "ends inside name of a tensor",
    ),
    "name not utf-8": (gguf_bytes([text(b"\xff\xfe")], b"", counts=(1, 0)), "not UTF-8"),
    "name twice": (
        gguf_bytes([ONE, tensor("a", (2, 2), F32, 32)], bytes(64)),
        "tensor 'a' is there twice",
    ),
    "entry twice": (
        gguf_bytes([], b"", [entry("k", 7, b"\1"), entry("k", 7, b"\1")]),
        "entry 'k' is there twice",
    ),
    "entry of unknown type": (gguf_bytes([], b"", [entry("k", 13, b"")]), "unknown type 13"),
    "list of lists": (
        gguf_bytes([], b"", [entry("k", 9, struct.pack("<IQ", 9, 1))]),
        "unknown type 9",
    ),
    "endless list": (
        gguf_bytes([], b"", [entry("k", 9, struct.pack("<IQ", 8, 1 << 60))]),
        "ends inside",
    ),
    "long list": (
        gguf_bytes([], b"", [entry("k", 9, struct.pack("<IQ", 10, 1 << 62))]),
        "ends inside metadata entry 'k'",
    ),
    "endless text": (
        gguf_bytes([], b"", [entry("k", 8, struct.pack("<Q", 1 << 63))]),
        "ends inside metadata entry 'k'",
    ),
    "alignment of 0": (
        gguf_bytes([], b"", [entry(ALIGN, 4, bytes(4))]),
        "no power of two",
    ),
    "alignment of 48": (
        gguf_bytes([], b"", [entry(ALIGN, 4, struct.pack("<I", 48))]),
        "no power of two",
    ),
    "alignment as text": (gguf_bytes([], b"", [entry(ALIGN, 8, text("32"))]), "no power of two"),
    "five dimensions": (
        gguf_bytes([tensor("a", (1, 1, 1, 1, 1), F32, 0)], bytes(4)),
        "5 dimensions, the format allows 4",
    ),
    "negative extent": (gguf_bytes([tensor("a", (1 << 63,), F32, 0)], b""), "has shape"),
    "huge extents": (gguf_bytes([tensor("a", (1 << 40, 1 << 40), F32, 0)], b""), "is truncated"),
    "unknown type": (gguf_bytes([tensor("a", (32,), 16, 0)], bytes(64)), "ggml's type 16; read"),
    "part of a block": (gguf_bytes([tensor("a", (3, 33), Q8_0, 0)], bytes(200)), "no whole q8_0"),
    "block without shape": (gguf_bytes([tensor("a", (), Q8_0, 0)], bytes(34)), "no whole q8_0"),
    "truncated": (gguf_bytes([ONE], bytes(15)), "the file is truncated"),
    "not aligned": (gguf_bytes([tensor("a", (1,), F32, 4)], bytes(8)), "not aligned to 32"),
    "overlap": (
        gguf_bytes([tensor("a", (16,), F32, 0), tensor("b", (1,), F32, 32)], bytes(64)),
        "'b' overlaps",
    ),
    "gap": (gguf_bytes([tensor("a", (1,), F32, 64)], bytes(68)), "64 unused bytes before"),
    "more data": (gguf_bytes([ONE], bytes(16 + 32)), "32 bytes after the last tensor"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_has_its_message(tmp_path: Path, defect: str) -> None:
    data, words = DEFECTS[defect]
    with pytest.raises(SourceError) as caught:
        open_gguf(put(tmp_path, data))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value) and "model.gguf" in str(caught.value)


def test_files_that_are_not_there_or_shrink(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        open_gguf(tmp_path / "none.gguf")
    path = put(tmp_path, gguf_bytes([ONE], bytes(16)))
    file = open_gguf(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SourceCorrupt, match="inside tensor a"):
        file.read("a")


GOOD = gguf_bytes(
    [
        tensor("a", (2, 3), F16, 0),
        tensor("b", (2, 32), Q8_0, 32),
        tensor("c", (256,), 14, 128),
    ],
    bytes(12 + 20) + bytes(range(68)) + bytes(28) + bytes(210),
    [entry("general.license", 8, text("mit")), entry("k", 9, struct.pack("<IQ2H", 2, 2, 1, 2))],
)


def read_all(path: Path) -> None:
    file = open_gguf(path)
    for name in file.infos():
        file.read(name)


def test_the_good_file_is_good(tmp_path: Path) -> None:
    read_all(put(tmp_path, GOOD))


@quick
@given(st.data())
def test_no_corruption_gives_anything_but_a_source_error(tmp_path: Path, data: Any) -> None:
    broken = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(broken) - 1))
        if data.draw(st.booleans()):
            broken[place] = data.draw(st.integers(0, 255))
        else:
            del broken[place : place + data.draw(st.integers(1, 40))]
        if not broken:
            break
    try:
        read_all(put(tmp_path, bytes(broken)))
    except SourceError as error:
        assert "\n" not in str(error)


@quick
@given(st.binary(max_size=200), st.integers(0, 5), st.integers(0, 5))
def test_no_bytes_give_anything_but_a_source_error(
    tmp_path: Path, data: bytes, tensors: int, entries: int
) -> None:
    start = b"GGUF" + struct.pack("<IQQ", 3, tensors, entries)
    for whole in (data, start + data):
        try:
            read_all(put(tmp_path, whole))
        except SourceError as error:
            assert "\n" not in str(error)
