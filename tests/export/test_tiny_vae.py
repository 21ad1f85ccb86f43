"""Tiny autoencoders: every layout they come in, what is refused, and drawing with them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sdlite_export.architectures.tiny_vae import tiny_decoder, tiny_encoder
from sdlite_export.configs import TinyVaeConfig
from sdlite_export.emit.onnx import OnnxOps
from sdlite_export.emit.targets import PLAIN
from sdlite_export.export import export_package
from sdlite_export.source.tiny import is_tiny, open_tiny
from sdlite_export.tinyvae import add_tiny_vae

import sdlite
from sdlite.errors import RequestError, SourceCorrupt, SourceError, UnknownFamily, UnknownName
from sdlite.metadata import parse
from sdlite.package import Package
from sdlite.types import Request
from tests.tiny import make_tiny_checkpoint, write_safetensors

CONFIG = TinyVaeConfig(latent_channels=4, channels=8, blocks=(2, 1, 2, 1))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-vae")
    export_package(make_tiny_checkpoint(folder / "model"), folder / "model-package")
    return folder / "model-package"


@pytest.fixture
def package(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "package")


def tensors(config: TinyVaeConfig = CONFIG) -> dict[str, np.ndarray]:
    """Random weights by diffusers' names."""
    rng = np.random.default_rng(3)
    found = {}
    for build in (tiny_encoder, tiny_decoder):
        ops = OnnxOps(PLAIN, "fp32")
        build(ops, config)
        for name, need in ops.finish().weights.items():
            spread = np.sqrt(2 / np.prod(need.shape[1:])) if len(need.shape) > 1 else 0.1
            found[name] = (rng.standard_normal(need.shape) * spread).astype(np.float32)
    return found


def own(found: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """One half under the names of TAESD's files."""
    start, shift = f"{part}.layers.", part == "decoder"
    names = {}
    for name, value in found.items():
        if name.startswith(start):
            index, _, rest = name.removeprefix(start).partition(".")
            names[f"{int(index) + shift}.{rest}"] = value
    return names


def diffusers(folder: Path, **settings: object) -> Path:
    folder.mkdir()
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", tensors())
    config = {"_class_name": "AutoencoderTiny", "act_fn": "relu", "scaling_factor": 1.0} | settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def taesd(folder: Path, config: TinyVaeConfig = CONFIG) -> Path:
    folder.mkdir()
    for part in ("encoder", "decoder"):
        write_safetensors(folder / f"taesd_{part}.safetensors", own(tensors(config), part))
    return folder


def test_all_layouts_give_the_same_files(package: Path, tmp_path: Path) -> None:
    sources = [diffusers(tmp_path / "diffusers"), taesd(tmp_path / "taesd")]
    made = []
    for number, source in enumerate(sources):
        assert is_tiny(source)
        report = add_tiny_vae(source, package, tmp_path / f"copy-{number}")
        assert report.parts == ("tiny_encoder", "tiny_decoder")
        made.append(tmp_path / f"copy-{number}")
    halves = shutil.copytree(package, tmp_path / "halves")
    for part in ("encoder", "decoder"):
        file = sources[1] / f"taesd_{part}.safetensors"
        assert is_tiny(file)
        assert add_tiny_vae(file, halves).parts == (f"tiny_{part}",)
    for name in ("tiny_encoder", "tiny_decoder"):
        for file in ("weights.bin", "plain.onnx", "fused.onnx"):
            contents = {(folder / name / file).read_bytes() for folder in (*made, halves)}
            assert len(contents) == 1
    assert open_tiny(sources[0]).configs["decoder"] == CONFIG
    Package.open(halves).verify()


def test_other_files_are_none(base: Path, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"model.weight": np.zeros((2, 2), np.float32)})
    (tmp_path / "text.safetensors").write_text("no tensors")
    for path in (base, tmp_path, tmp_path / "a.safetensors", tmp_path / "text.safetensors"):
        assert not is_tiny(path)
    assert not is_tiny(tmp_path / "none.safetensors")
    with pytest.raises(UnknownFamily, match=r"a\.safetensors is no tiny autoencoder"):
        open_tiny(tmp_path / "a.safetensors")
    with pytest.raises(SourceError, match=r"text\.safetensors"):
        open_tiny(tmp_path / "text.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(CONFIG, latent_channels=16), "decoder is for latents of 16 channels and 8 pixels"),
        (replace(CONFIG, blocks=(1, 1, 1)), "for latents of 4 channels and 4 pixels a cell"),
    ],
)
def test_of_another_family(package: Path, tmp_path: Path, config, message: str) -> None:
    before = (package / "sdlite.json").read_bytes()
    source = taesd(tmp_path / "other", config) / "taesd_decoder.safetensors"
    with pytest.raises(RequestError, match=message):
        add_tiny_vae(source, package)
    assert (package / "sdlite.json").read_bytes() == before


def test_variants_and_damage(package: Path, tmp_path: Path) -> None:
    source = diffusers(tmp_path / "silu", act_fn="silu")
    with pytest.raises(UnknownFamily, match="act_fn 'silu'; known is 'relu'"):
        add_tiny_vae(source, package)
    found = own(tensors(), "decoder")
    file = tmp_path / "decoder.safetensors"
    write_safetensors(file, {k: v for k, v in found.items() if k != "4.conv.2.weight"})
    with pytest.raises(SourceCorrupt, match=r"decoder\.layers\.3\.conv\.2\.weight"):
        add_tiny_vae(file, package)
    write_safetensors(file, found | {"1.weight": np.full((8, 4, 3, 3), np.nan, np.float32)})
    with pytest.raises(SourceError, match="no finite numbers"):
        add_tiny_vae(file, package)
    with pytest.raises(UnknownName, match="precision"):
        add_tiny_vae(file, package, precision="fp8")
    assert "tiny_decoder" not in Package.open(package).manifest.weights


def test_there_is_one(package: Path, tmp_path: Path) -> None:
    source = taesd(tmp_path / "taesd")
    add_tiny_vae(source, package)
    with pytest.raises(RequestError, match="a tiny_encoder and a tiny_decoder already; --force"):
        add_tiny_vae(source, package)
    add_tiny_vae(source, package, force=True)
    assert len(Package.open(package).find("tiny_decoder", "plain")) == 1


def test_drawing(package: Path, tmp_path: Path) -> None:
    request = Request("a", seed=1, steps=2)
    with sdlite.load(package) as pipe:
        full = pipe.generate(request)
        assert not pipe.previews
        with pytest.raises(RequestError, match="no tiny decoder; add TAESD's with sdlite export"):
            pipe.generate(replace(request, decoder="tiny"))
        # Without one a draft is drawn with the model's own.
        assert pipe.generate(replace(request, profile="draft")).request.decoder == "full"
    add_tiny_vae(taesd(tmp_path / "taesd"), package)
    with sdlite.load(package) as pipe:
        again = pipe.generate(request)
        assert again.images[0].tobytes() == full.images[0].tobytes()
        tiny = pipe.generate(replace(request, decoder="Tiny"))
        assert tiny.images[0].size == full.images[0].size
        assert tiny.images[0].tobytes() != full.images[0].tobytes()
        assert parse(tiny.infotexts[0]).fields["VAE Decoder"] == "TAESD"
        assert tiny.plan.decoder == "tiny_decoder"
        steps = list(pipe.steps(request))
        assert pipe.preview(steps[-1].x).tobytes() == tiny.images[0].tobytes()
        assert pipe.decode(steps[-1].x)[0].tobytes() == full.images[0].tobytes()
        draft = pipe.generate(replace(request, profile="draft"))
        assert draft.request.decoder == "tiny"
        asked = pipe.generate(replace(request, profile="draft", decoder="tiny"))
        assert draft.images[0].tobytes() == asked.images[0].tobytes()
        with pytest.raises(UnknownName, match="decoder 'small'"):
            pipe.generate(replace(request, decoder="small"))
