"""``inspect_path`` says what lies at a path."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from sdlite_export.inspect import inspect_path

from sdlite.errors import PackageCorrupt, PackageMissing, SourceError, UnknownFamily
from sdlite.package import Package, hash_file
from tests.export.makers import TorchFile, ldm_model, safetensors_bytes
from tests.null.test_foreign import make_folder


def test_a_package(tiny_package: Package) -> None:
    found = inspect_path(tiny_package.root)
    assert json.loads(json.dumps(asdict(found)))["kind"] == "package"
    assert (found.family, found.prediction, found.verified) == ("sd1", "epsilon", None)
    assert found.size == tiny_package.size()
    assert found.image_size == (32, 32)
    assert found.sha256 == tiny_package.manifest.source.sha256
    assert found.source == "diffusers: checkpoint"
    parts = {part.name: part for part in found.components}
    assert list(parts) == ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    unet = parts["unet"]
    assert unet.precision == "fp16"
    assert unet.sha256 == hash_file(tiny_package.path("unet/weights.bin"))
    assert unet.tensors == len(tiny_package.weight_file("unet").tensors)
    assert any(line.startswith("segment x") for line in unet.graphs)
    assert any(line.startswith("plain (onnx, fp16, ") for line in unet.graphs)
    assert {file.path for file in found.files} >= {"unet/weights.bin", "unet/plain.onnx"}


def test_verify_checks_every_file_of_a_package(tiny_package: Package, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    shutil.copytree(tiny_package.root, folder)
    read: list[int] = []
    assert inspect_path(folder, verify=True, progress=read.append).verified is True
    assert sum(read) == tiny_package.size()
    path = folder / "vae_decoder" / "weights.bin"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(PackageCorrupt, match=r"weights\.bin does not have the hash"):
        inspect_path(folder, verify=True)
    path.unlink()
    with pytest.raises(PackageMissing, match=r"weights\.bin is missing"):
        inspect_path(folder)


def test_a_diffusers_folder(tiny_checkpoint: Path) -> None:
    found = inspect_path(tiny_checkpoint, verify=True)
    assert (found.kind, found.family, found.licence) == ("diffusers", "sd1", "unknown")
    assert [part.name for part in found.components] == ["text_encoder", "unet", "vae"]
    assert all(part.precision == "fp32" for part in found.components)
    assert sum(part.size for part in found.components) < found.size
    assert found.sha256 is not None and len(found.sha256) == 64
    assert found.verified is None


def test_a_single_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    metadata = {"modelspec.license": "mit", "modelspec.title": "A <b>model</b>"}
    path.write_bytes(safetensors_bytes(ldm_model(), metadata))
    found = inspect_path(path)
    assert (found.kind, found.family, found.licence) == ("single-file", "sd1", "mit")
    assert found.metadata == metadata
    assert found.size == path.stat().st_size
    assert found.sha256 is None
    assert inspect_path(path, verify=True).sha256 == hash_file(path)


def test_a_file_of_another_family_is_described_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    tensors = {
        "lora_unet_a.lora_up.weight": np.zeros((4, 2), np.float16),
        "lora_unet_a.lora_down.weight": np.zeros((2, 4), np.float16),
        "lora_unet_a.alpha": np.zeros((), np.float32),
    }
    path.write_bytes(safetensors_bytes(tensors, {"license": "cc0-1.0"}))
    found = inspect_path(path, verify=True)
    assert found.family is None and found.problem is not None
    assert "looks like a LoRA" in found.problem
    (part,) = found.components
    assert (part.name, part.tensors, part.parameters) == ("tensors", 3, 17)
    assert (part.precision, part.size) == ("fp16 + fp32", 36)
    assert (found.licence, found.sha256) == ("cc0-1.0", hash_file(path))
    file = TorchFile()
    state = {name: file.tensor(array) for name, array in tensors.items()}
    ckpt = inspect_path(file.write(tmp_path / "lora.pt", state))
    assert (ckpt.kind, ckpt.components) == ("ckpt", found.components)


def test_an_onnx_folder_of_another_tool(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    found = inspect_path(folder, verify=True)
    assert (found.kind, found.family, found.licence) == ("onnx", "sd1", "unknown")
    assert (found.sha256, found.exporter, found.verified) == (None, None, None)
    parts = {part.name: part for part in found.components}
    assert list(parts) == ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    assert parts["unet"].size == 64 and parts["unet"].sha256 is None
    (folder / "unet" / "model.onnx").rename(folder / "unet" / "unet.onnx")
    assert inspect_path(folder).kind == "onnx"
    (folder / "unet" / "weights.pb").unlink()
    with pytest.raises(PackageMissing, match=r"weights\.pb"):
        inspect_path(folder)


def test_what_cannot_be_read_is_an_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        inspect_path(tmp_path / "none")
    folder = tmp_path / "sd3"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    with pytest.raises(UnknownFamily, match="StableDiffusion3Pipeline"):
        inspect_path(folder)
