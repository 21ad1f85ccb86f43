"""Weight files: every tensor where the manifest says, as it says; defects named."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sdlite_export.emit.graph import WeightNeed
from sdlite_export.export import export_package
from sdlite_export.source import TensorInfo, open_source
from sdlite_export.weights import check_weights, convert, plan_weights, write_weights

from sdlite.errors import OutputError, SourceCorrupt, SourceError
from sdlite.package import Package
from sdlite.types import Array
from tests.tiny import Tiny, make_tiny_checkpoint


@dataclass
class Memory:
    """Tensors that are held in memory."""

    tensors: Mapping[str, Array]
    reads: list[str] = field(default_factory=list)

    def infos(self) -> Mapping[str, TensorInfo]:
        return {
            name: TensorInfo(array.shape, array.dtype.name) for name, array in self.tensors.items()
        }

    def read(self, name: str) -> Array:
        self.reads.append(name)
        return self.tensors[name]


NEEDS = {
    "conv.weight": WeightNeed((2, 3, 3, 3)),
    "conv.bias": WeightNeed((2,)),
    "linear.weight": WeightNeed((5, 700), "transposed"),
}


def tensors() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(need.shape, dtype=np.float32) for name, need in NEEDS.items()}


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_layout(tmp_path: Path, precision: str) -> None:
    entries = plan_weights(NEEDS, precision)
    source = Memory(tensors())
    written: list[int] = []
    path = tmp_path / "weights.bin"
    entry = write_weights(path, NEEDS, entries, source, "unet/weights.bin", written.append)
    data = path.read_bytes()
    assert entry.path == "unet/weights.bin"
    assert entry.size == len(data) == sum(written)
    assert entry.sha256 == hashlib.sha256(data).hexdigest()
    assert source.reads == list(NEEDS)
    end = 0
    for name, place in entries.items():
        assert place.offset % 4096 == 0
        assert not any(data[end : place.offset])
        end = place.offset + place.size
        stored = np.frombuffer(data[place.offset : end], place.dtype).reshape(place.shape)
        original = source.tensors[name]
        expected = original.T if place.layout == "transposed" else original
        np.testing.assert_array_equal(stored, expected.astype(place.dtype))
    assert end == len(data)
    assert entries["conv.bias"].dtype == "float32"
    assert entries["linear.weight"].shape == (700, 5)
    wide = "float16" if precision == "fp16" else "float32"
    assert entries["conv.weight"].dtype == entries["linear.weight"].dtype == wide


def test_package_holds_the_source(tiny_package: Package, tiny_checkpoint: Path) -> None:
    checkpoint = open_source(tiny_checkpoint)
    seen = set()
    for component, weights in tiny_package.manifest.weights.items():
        data = tiny_package.path(weights.file.path).read_bytes()
        source = checkpoint.tensors["vae" if component.startswith("vae") else component]
        for name, entry in weights.tensors.items():
            seen.add(name)
            raw = data[entry.offset : entry.offset + entry.size]
            stored = np.frombuffer(raw, entry.dtype).reshape(entry.shape)
            original = source.read(name).astype(entry.dtype)
            expected = original.T if entry.layout == "transposed" else original
            np.testing.assert_array_equal(stored, expected)
    everything = {name for part in checkpoint.tensors.values() for name in part.infos()}
    assert seen == everything


def test_order_of_use(tiny_package: Package) -> None:
    """The file is read front to back when the graph runs."""
    for weights in tiny_package.manifest.weights.values():
        offsets = [entry.offset for entry in weights.tensors.values()]
        assert offsets == sorted(offsets)


def infos() -> dict[str, TensorInfo]:
    return dict(Memory(tensors()).infos())


def test_missing_tensor_is_named() -> None:
    have = infos()
    del have["conv.bias"]
    with pytest.raises(SourceCorrupt, match=r"model\.ckpt: tensor conv\.bias .*is missing"):
        check_weights(NEEDS, have, "model.ckpt")


def test_wrong_shape_is_named() -> None:
    have = infos() | {"linear.weight": TensorInfo((700, 5), "float32")}
    with pytest.raises(SourceCorrupt, match=r"linear\.weight has shape \(700, 5\).*\(5, 700\)"):
        check_weights(NEEDS, have, "model.ckpt")


def test_wrong_dtype_is_named() -> None:
    have = infos() | {"conv.bias": TensorInfo((2,), "int8")}
    with pytest.raises(SourceCorrupt, match=r"conv\.bias is int8; weights are float32"):
        check_weights(NEEDS, have, "model.ckpt")


def test_tensor_without_a_place_is_named() -> None:
    have = infos() | {"extra.lora.weight": TensorInfo((2,), "float32")}
    with pytest.raises(SourceError, match=r"tensor extra\.lora\.weight belongs to no part"):
        check_weights(NEEDS, have, "model.ckpt")


def test_harmless_buffers_are_ignored() -> None:
    have = infos() | {"text_model.embeddings.position_ids": TensorInfo((1, 77), "int64")}
    check_weights(NEEDS, have, "model.ckpt")


def test_overflow_of_half_precision_is_an_error() -> None:
    array = np.array([[1.0, 70000.0]], np.float32)
    with pytest.raises(SourceError, match=r"big\.weight has values beyond float16.*fp32"):
        convert("big.weight", array, WeightNeed((1, 2)), "float16")


def test_read_with_another_shape_is_an_error() -> None:
    with pytest.raises(SourceCorrupt, match=r"was read with shape \(2,\), not \(3,\)"):
        convert("a.bias", np.zeros(2, np.float32), WeightNeed((3,)), "float32")


def test_failing_read_ends_the_writer(tmp_path: Path) -> None:
    broken = Memory({"conv.weight": tensors()["conv.weight"]})
    with pytest.raises(KeyError):
        write_weights(tmp_path / "w", NEEDS, plan_weights(NEEDS, "fp16"), broken, "w")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_is_an_output_error() -> None:
    entries = plan_weights(NEEDS, "fp16")
    with pytest.raises(OutputError, match="cannot write /dev/full"):
        write_weights(Path("/dev/full"), NEEDS, entries, Memory(tensors()), "w")


def test_full_disk_during_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_tiny_checkpoint(tmp_path / "source")

    def full(*_: object) -> None:
        raise OutputError("cannot write: no space left")

    monkeypatch.setattr("sdlite_export.export.write_weights", full)
    with pytest.raises(OutputError):
        export_package(source, tmp_path / "package")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_half_precision_source_is_kept(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source", Tiny(dtype="float16"))
    export_package(source, tmp_path / "package")
    package = Package.open(tmp_path / "package")
    entry = package.weight_file("unet").tensors["conv_in.weight"]
    data = np.fromfile(
        package.path("unet/weights.bin"), "float16", entry.size // 2, offset=entry.offset
    )
    original = open_source(source).tensors["unet"].read("conv_in.weight")
    assert original.dtype == np.float16
    np.testing.assert_array_equal(data, original.reshape(-1))
