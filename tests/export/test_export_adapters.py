"""Adding a ControlNet to a package: layouts, what does not fit, and that nothing is half there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from sdlite_export import adapters
from sdlite_export.adapters import add_adapter
from sdlite_export.configs import ControlNetConfig, T2IAdapterConfig
from sdlite_export.export import export_package
from sdlite_export.source.layout import controlnet_slots, t2i_slots

from sdlite.errors import OutputError, PackageInvalid, RequestError, SourceError
from sdlite.manifest import least_reader, read_manifest
from sdlite.package import Package
from sdlite.tensors.safetensors import open_safetensors
from tests.families import FAMILIES
from tests.tiny import (
    UNET,
    Tiny,
    make_tiny_checkpoint,
    make_tiny_controlnet,
    make_tiny_t2i,
    random_tensors,
    write_safetensors,
)

WIDE = replace(UNET, block_channels=(32, 64), heads=(8, 8), norm_groups=32)
"""A single file says nothing of groups and heads: those of Stable Diffusion 1 are taken."""
CONFIG = ControlNetConfig(WIDE, (4, 4, 8, 8))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    source = make_tiny_checkpoint(folder / "source", Tiny(unet=WIDE))
    export_package(source, folder / "package")
    return folder / "package"


@pytest.fixture
def package(model: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(model, tmp_path / "package"))


def original_layout(folder: Path, target: Path) -> Path:
    """The weights of a diffusers folder as the original files have them."""
    source = open_safetensors(folder / "diffusion_pytorch_model.safetensors")
    tensors = {f"control_model.{s.ldm}": source.read(s.name) for s in controlnet_slots(CONFIG)}
    write_safetensors(target, tensors)
    return target


def test_all_layouts_give_the_same_files(package: Path, tmp_path: Path) -> None:
    folder = make_tiny_controlnet(tmp_path / "canny", CONFIG)
    single = tmp_path / "single.safetensors"
    single.write_bytes((folder / "diffusion_pytorch_model.safetensors").read_bytes())
    original = original_layout(folder, tmp_path / "original.safetensors")
    for source in (folder, single, original):
        report = add_adapter(source, package)
        assert (report.kind, report.precision) == ("controlnet", "fp16")
    manifest = Package.open(package).manifest
    assert [entry.name for entry in manifest.adapters] == ["canny", "single", "original"]
    hashes = {manifest.weights[e.component].file.sha256 for e in manifest.adapters}
    assert len(hashes) == 1
    opened = Package(package, manifest)
    for variant in ("plain", "fused"):
        nodes = {
            str(onnx.load(str(opened.path(artifact.graph)), load_external_data=False).graph.node)
            for entry in manifest.adapters
            for artifact in opened.find(entry.component, variant)
        }
        assert len(nodes) == 1


def test_the_package_gets_what_it_lacks_and_keeps_the_rest(package: Path, tmp_path: Path) -> None:
    before = read_manifest(package)
    add_adapter(make_tiny_controlnet(tmp_path / "canny", CONFIG), package)
    after = Package.open(package).manifest
    assert after.artifacts[: len(before.artifacts)] == before.artifacts
    assert (before.reader, after.reader, least_reader(after)) == (1, 3, 3)
    added = after.artifacts[len(before.artifacts) :]
    kinds = {(a.component, a.variant) for a in added}
    assert kinds == {
        *(("controlnet/canny", variant) for variant in ("plain", "fused", "segment")),
        *(("unet", f"{variant}+control") for variant in ("plain", "fused", "segment")),
    }
    (unet,) = Package.open(package).find("unet", "plain+control")
    names = [spec.name for spec in unet.inputs[3:]]
    assert sorted(names) == [
        *(f"adapter_feature_{n}" for n in range(3)),
        *(f"down_residual_{n}" for n in range(4)),
        "mid_residual",
    ]
    assert unet.weights == "unet/weights.bin", "the weights are shared"
    add_adapter(make_tiny_controlnet(tmp_path / "depth", CONFIG, seed=5), package)
    last = Package.open(package).manifest.artifacts[len(after.artifacts) :]
    assert {a.component for a in last} == {"controlnet/depth"}, "the U-Net has its graphs already"


def test_a_copy_may_have_it_instead(package: Path, tmp_path: Path) -> None:
    before = sorted(path.relative_to(package) for path in package.rglob("*"))
    network = make_tiny_controlnet(tmp_path / "canny", CONFIG)
    add_adapter(network, package, tmp_path / "copy", name="edges 1.0", precision="fp32")
    assert sorted(path.relative_to(package) for path in package.rglob("*")) == before
    copy = Package.open(tmp_path / "copy").manifest
    assert copy.adapters[0].name == "edges 1.0"
    assert copy.weights["controlnet/edges 1.0"].precision == "fp32"
    with pytest.raises(OutputError, match="--force replaces it"):
        add_adapter(network, package, tmp_path / "copy")


def test_a_name_is_taken_once_and_replaced_when_asked(package: Path, tmp_path: Path) -> None:
    add_adapter(make_tiny_controlnet(tmp_path / "canny", CONFIG), package)
    first = read_manifest(package)
    other = make_tiny_controlnet(tmp_path / "other", CONFIG, seed=9)
    with pytest.raises(RequestError, match="has an adapter 'canny' already; --force"):
        add_adapter(other, package, name="canny")
    assert read_manifest(package) == first
    add_adapter(other, package, name="canny", force=True)
    second = Package.open(package).manifest
    assert len(second.adapters) == 1
    assert len(second.artifacts) == len(first.artifacts)
    where = "controlnet/canny"
    assert second.weights[where].file.sha256 != first.weights[where].file.sha256


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "dot.", "x" * 81])
def test_a_name_is_a_plain_name(package: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="is no name for an adapter"):
        add_adapter(make_tiny_controlnet(tmp_path / "canny", CONFIG), package, name=name)


def test_a_network_of_another_family_or_width_is_refused(package: Path, tmp_path: Path) -> None:
    cases = {
        "text features 24 wide": replace(WIDE, cross_dim=24),
        "skips of 32, 32, 32, 32 channels": replace(WIDE, block_channels=(32, 32)),
        "skips of 32, 32, 32, 32, 64, 64 channels": replace(WIDE, layers_per_block=2),
        "pooled text and sizes 68 wide": replace(WIDE, label_dim=68, size_dim=8),
    }
    for number, (words, unet) in enumerate(cases.items()):
        folder = make_tiny_controlnet(tmp_path / f"net{number}", ControlNetConfig(unet, (4, 4)))
        with pytest.raises(RequestError, match=f"was made for {words}.*another model family"):
            add_adapter(folder, package)


def test_values_that_are_no_numbers_are_refused(package: Path, tmp_path: Path) -> None:
    before = read_manifest(package)
    tensors = random_tensors(controlnet_slots(CONFIG), np.random.default_rng(0), "float32")
    tensors["conv_in.weight"][0, 0, 0, 0] = np.nan
    write_safetensors(tmp_path / "nan.safetensors", tensors)
    with pytest.raises(SourceError, match=r"conv_in\.weight has values that are no finite numbers"):
        add_adapter(tmp_path / "nan.safetensors", package)
    assert Package.open(package).manifest == before
    assert not (package / "controlnet").exists()


def test_damaged_and_other_files_are_named(package: Path, tmp_path: Path) -> None:
    tensors = random_tensors(controlnet_slots(CONFIG), np.random.default_rng(0), "float32")
    short = {name: value for name, value in tensors.items() if "norm1" not in name}
    odd = {**tensors, "conv_out.weight": np.zeros((4, 32, 3, 3), np.float32)}
    others = {
        "lora": ({"lora_unet_x.lora_down.weight": tensors["conv_in.bias"]}, "this is a LoRA"),
        "word": ({"emb_params": tensors["conv_in.bias"]}, "this is a textual inversion"),
        "model": ({"model.diffusion_model.x": tensors["conv_in.bias"]}, "without --for"),
        "control-lora": ({"lora_controlnet": tensors["conv_in.bias"]}, "a Control-LoRA"),
        "strange": ({"foo.bar.baz": tensors["conv_in.bias"]}, r"start with foo\.bar\)"),
        "short": (short, "tensors are missing"),
        "odd": (odd, "that no model"),
    }
    for name, (held, words) in others.items():
        write_safetensors(tmp_path / f"{name}.safetensors", held)
        with pytest.raises(SourceError, match=words):
            add_adapter(tmp_path / f"{name}.safetensors", package)
    with pytest.raises(SourceError, match="does not exist"):
        add_adapter(tmp_path / "none.safetensors", package)
    whole = make_tiny_checkpoint(tmp_path / "whole")
    with pytest.raises(SourceError, match="is a whole model; export it without --for"):
        add_adapter(whole, package)


def test_configurations_beyond_what_is_known_are_refused(package: Path, tmp_path: Path) -> None:
    import json

    folder = make_tiny_controlnet(tmp_path / "canny", CONFIG)
    config = json.loads((folder / "config.json").read_text())
    for change, words in (
        ({"controlnet_conditioning_channel_order": "bgr"}, "'bgr'"),
        ({"_class_name": "ControlNetUnionModel"}, "'ControlNetUnionModel' cannot be added"),
        ({"num_control_type": 6}, "num_control_type = 6"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(SourceError, match=words):
            add_adapter(folder, package)


def test_what_is_interrupted_leaves_the_package_as_it_was(package: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_adapter(make_tiny_controlnet(tmp_path / "canny", CONFIG), package, progress=stop)
    assert {path: path.read_bytes() for path in package.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob(".package*"))


def test_a_package_whose_unet_is_strange_is_refused(package: Path, tmp_path: Path, monkeypatch):
    real = adapters.unet_places

    def fewer(weights):
        places = real(weights)
        return replace(places, skips=(*places.skips, places.skips[-1]))

    monkeypatch.setattr(adapters, "unet_places", fewer)
    monkeypatch.setattr(adapters, "check_fits", lambda *_: None)
    with pytest.raises(PackageInvalid, match="joins 4 skips where its weights say 5"):
        add_adapter(make_tiny_controlnet(tmp_path / "canny", CONFIG), package)


@pytest.mark.parametrize("family", ["sd2", "sdxl", "inpaint", "lcm"])
def test_every_family_takes_one(tmp_path: Path, family: str) -> None:
    tiny = FAMILIES[family]
    export_package(make_tiny_checkpoint(tmp_path / "source", tiny), tmp_path / "package")
    unet = replace(tiny.unet, in_channels=4, guidance_dim=None)
    network = make_tiny_controlnet(tmp_path / "canny", ControlNetConfig(unet, (4, 4, 8, 8)))
    add_adapter(network, tmp_path / "package")
    assert Package.open(tmp_path / "package").manifest.adapters


T2I = {
    "full": T2IAdapterConfig("full", (32, 64), 2),
    "grey": T2IAdapterConfig("full", (32, 64), 3, in_channels=1),
    "light": T2IAdapterConfig("light", (32, 64), 2),
}


@pytest.mark.parametrize("kind", T2I)
def test_a_t2i_adapter_is_added_from_every_layout(package, tmp_path, kind: str) -> None:
    config = T2I[kind]
    if kind == "light":  # its last block repeats the channels of the one before
        config = replace(config, channels=(32, 64, 64))
    folder = make_tiny_t2i(tmp_path / "sketch", config)
    held = open_safetensors(folder / "diffusion_pytorch_model.safetensors")
    single, original = tmp_path / "single.safetensors", tmp_path / "original.safetensors"
    write_safetensors(single, {name: held.read(name) for name in held.infos()})
    write_safetensors(original, {s.ldm: held.read(s.name) for s in t2i_slots(config)})
    if kind == "light":
        with pytest.raises(RequestError, match=r"features of 32 \(0\), 64 \(1\), 64 \(2\)"):
            add_adapter(folder, package)
        return
    for source in (folder, single, original):
        assert add_adapter(source, package).kind == "t2i-adapter"
    manifest = Package.open(package).manifest
    hashes = {manifest.weights[e.component].file.sha256 for e in manifest.adapters}
    assert len(hashes) == 1
    (unet,) = Package.open(package).find("unet", "fused+control")
    assert [s.name for s in unet.inputs if s.name.startswith("adapter_feature_")] == [
        f"adapter_feature_{n}" for n in range(3)
    ]


def test_t2i_adapters_that_are_strange_are_refused(package: Path, tmp_path: Path) -> None:
    import json

    folder = make_tiny_t2i(tmp_path / "sketch", T2I["full"])
    config = json.loads((folder / "config.json").read_text())
    for change, words in (
        ({"adapter_type": "other"}, "adapter_type 'other'; known: full_adapter"),
        ({"downscale_factor": 16}, "in cells of 16 pixels"),
        ({"in_channels": 4}, "pictures of 4 channels"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(SourceError, match=words):
            add_adapter(folder, package)
    tensors = random_tensors(t2i_slots(T2I["full"]), np.random.default_rng(0), "float32")
    tensors["adapter.conv_in.weight"] = np.zeros((32, 48, 3, 3), np.float32)
    write_safetensors(tmp_path / "odd.safetensors", tensors)
    with pytest.raises(SourceError, match="first convolution takes 48 channels"):
        add_adapter(tmp_path / "odd.safetensors", package)
