"""Tiny autoencoders against diffusers' AutoencoderTiny, in every layout their weights come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from sdlite_export.export import export_package
from sdlite_export.tinyvae import add_tiny_vae

from sdlite import registry
from sdlite.engine import LoadOptions
from sdlite.package import Package
from tests.tiny import make_tiny_checkpoint, write_safetensors

MOST = 2e-5
"""Largest difference, in units of the reference's standard deviation."""
SIZES = {"small": (8, (1, 2, 1, 2)), "full": (64, (1, 3, 3, 3))}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-vae")
    export_package(make_tiny_checkpoint(folder / "model"), folder / "package", precision="fp32")
    return folder / "package"


def reference(size: str) -> AutoencoderTiny:
    width, blocks = SIZES[size]
    torch.manual_seed(5)
    model = AutoencoderTiny(
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=blocks,
        num_decoder_blocks=tuple(reversed(blocks)),
    )
    return model.eval()


def own_files(model: AutoencoderTiny, folder: Path) -> Path:
    """The same weights named as in TAESD's files."""
    folder.mkdir()
    for part, shift in (("encoder", 0), ("decoder", 1)):
        found = {}
        for name, tensor in getattr(model, part).layers.state_dict().items():
            index, _, rest = name.partition(".")
            found[f"{int(index) + shift}.{rest}"] = tensor.numpy()
        write_safetensors(folder / f"taesd_{part}.safetensors", found)
    return folder


def run(package: Package, component: str, variant: str, value: np.ndarray) -> np.ndarray:
    runtime = registry.get("onnxruntime")
    (device,) = (item for item in runtime.probe() if item.name == "cpu")
    (artifact,) = package.find(component, variant)
    session = runtime.load(artifact, package.root, device, LoadOptions(threads=1))
    try:
        (found,) = session.run({artifact.inputs[0].name: value}).values()
        return found
    finally:
        session.close()


@pytest.mark.parametrize("layout", ["diffusers", "own"])
@pytest.mark.parametrize("size", SIZES)
def test_as_in_diffusers(base: Path, tmp_path: Path, size: str, layout: str) -> None:
    model = reference(size)
    if layout == "diffusers":
        source = tmp_path / "taesd"
        model.save_pretrained(source)
    else:
        source = own_files(model, tmp_path / "own")
    add_tiny_vae(source, base, tmp_path / "package", precision="fp32")
    package = Package.open(tmp_path / "package")
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((2, 4, 6, 9), np.float32) * 4
    picture = rng.uniform(-1, 1, (2, 3, 48, 72)).astype(np.float32)
    with torch.no_grad():
        decoded = model.decode(torch.from_numpy(latents)).sample.numpy()
        encoded = model.encode(torch.from_numpy(picture)).latents.numpy()
    for variant in ("plain", "fused"):
        close(run(package, "tiny_decoder", variant, latents), decoded)
        close(run(package, "tiny_encoder", variant, picture), encoded)


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= MOST * wanted.std()
