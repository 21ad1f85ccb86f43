"""Another autoencoder at run time gives the pictures of a model exported with it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdlite_export.export import export_package
from sdlite_export.source.layout import vae_slots

import sdlite
from sdlite.errors import SourceCorrupt
from sdlite.tensors.safetensors import open_safetensors
from tests.tiny import VAE, Tiny, make_tiny_checkpoint, random_tensors, write_safetensors

pytest.importorskip("onnxruntime")

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A package, the folder of another model, and the first one's package with its autoencoder."""
    folder = tmp_path_factory.mktemp("vae")
    first = make_tiny_checkpoint(folder / "first", Tiny(seed=1))
    second = make_tiny_checkpoint(folder / "second", Tiny(seed=2))
    export_package(first, folder / "package", name="model")
    shutil.copy(second / "vae" / WEIGHTS, first / "vae" / WEIGHTS)
    export_package(first, folder / "expected", name="model")
    return folder / "package", second / "vae", folder / "expected"


def draw(package: Path, **options: Any) -> sdlite.Result:
    with sdlite.load(package, runtime="onnxruntime", **options) as pipe:
        return pipe.generate("a red circle", steps=2, seed=3)


def pixels(result: sdlite.Result) -> np.ndarray:
    return np.asarray(result.images[0])


def ldm(folder: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The autoencoder with the names and shapes of LDM."""
    file = open_safetensors(folder / WEIGHTS)
    tensors = {}
    for slot in vae_slots(VAE):
        array = file.read(slot.name)
        if ".attn_1." in slot.ldm and array.ndim == 2:
            array = array[:, :, None, None]
        tensors[prefix + slot.ldm] = array
    return tensors


@pytest.mark.parametrize("kind", ["folder", "file", "ldm", "checkpoint", "old names"])
def test_pictures_are_those_of_the_other_autoencoder(
    made: tuple[Path, Path, Path], tmp_path: Path, kind: str
) -> None:
    package, vae, expected = made
    path = tmp_path / "other.safetensors"
    if kind == "folder":
        path = vae
    elif kind == "file":
        shutil.copy(vae / WEIGHTS, path)
    elif kind == "old names":
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        tensors = {}
        for slot in vae_slots(VAE):
            name = slot.name
            for new, former in old.items():
                name = name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
            tensors[name] = open_safetensors(vae / WEIGHTS).read(slot.name)
        write_safetensors(path, tensors)
    else:
        prefix = "first_stage_model." if kind == "checkpoint" else ""
        more = {"model.diffusion_model.out.0.bias": np.zeros(3, np.float32)} if prefix else {}
        write_safetensors(path, {**ldm(vae, prefix), **more})
    own, result = draw(package), draw(package, vae=path)
    assert (pixels(result) == pixels(draw(expected))).all()
    assert (pixels(result) != pixels(own)).any()
    assert f"VAE: {path.stem}" in result.infotexts[0] and "VAE hash: " in result.infotexts[0]
    assert "VAE" not in own.infotexts[0]


def test_in_mapped_mode_it_counts_as_memory(made: tuple[Path, Path, Path]) -> None:
    package, vae, expected = made
    mapped = draw(package, vae=vae, memory_mode="mapped")
    assert (pixels(mapped) == pixels(draw(expected, memory_mode="mapped"))).all()
    own = draw(package, memory_mode="mapped")
    size = (expected / "vae_decoder" / "weights.bin").stat().st_size
    more = mapped.plan.placement("vae_decoder").private_bytes
    assert more - own.plan.placement("vae_decoder").private_bytes == size


def test_what_is_no_autoencoder_of_this_kind_is_told(
    made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    package, vae, _ = made
    path = tmp_path / "v.safetensors"
    other = replace(VAE, block_channels=(4, 4, 8, 16))
    rng = np.random.default_rng(0)
    write_safetensors(path, random_tensors(vae_slots(other), rng, "float32"))
    with pytest.raises(sdlite.RequestError, match=r"has shape \[.*\], \[.*\] was expected"):
        sdlite.load(package, vae=path)
    write_safetensors(path, {"lora_unet_a.lora_up.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(sdlite.RequestError, match=r"like that of model: it lacks \d+ of \d+"):
        sdlite.load(package, vae=path)
    path.write_bytes((vae / WEIGHTS).read_bytes()[:-50])
    with pytest.raises(SourceCorrupt, match="truncated"):
        sdlite.load(package, vae=path)
    with pytest.raises(sdlite.SourceError, match="does not exist; give a VAE's file or folder"):
        sdlite.load(package, vae=tmp_path / "none.safetensors")
    with pytest.raises(sdlite.SourceError, match=r"holds no diffusion_pytorch_model\.safetensors"):
        sdlite.load(package, vae=tmp_path)
    (tmp_path / "v.txt").write_text("")
    with pytest.raises(sdlite.SourceError, match=r"unknown kind of file; a VAE is one of \.safe"):
        sdlite.load(package, vae=tmp_path / "v.txt")


def test_values_beyond_float16_are_told(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    package, vae, _ = made
    tensors = ldm(vae)
    tensors["decoder.conv_in.weight"] = tensors["decoder.conv_in.weight"] * 1e7
    write_safetensors(tmp_path / "v.safetensors", tensors)
    with pytest.raises(sdlite.SourceError, match="beyond float16, which the package's graphs take"):
        draw(package, vae=tmp_path / "v.safetensors")
