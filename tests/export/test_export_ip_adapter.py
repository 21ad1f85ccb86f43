"""Adding an IP-Adapter to a package: layouts, its image encoder, and what does not fit."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sdlite_export.adapters import add_adapter
from sdlite_export.export import export_package

from sdlite.errors import PackageInvalid, RequestError, SourceCorrupt, SourceError, UnknownFamily
from sdlite.manifest import check_manifest, least_reader, read_manifest
from sdlite.package import Package
from tests.families import FAMILIES
from tests.looking import (
    ENCODER,
    FULL,
    PLAIN,
    PLUS,
    ip_adapter_tensors,
    make_encoder,
    make_ip_adapter,
)
from tests.tiny import make_tiny_checkpoint, make_tiny_controlnet, write_safetensors


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    export_package(make_tiny_checkpoint(folder / "source"), folder / "package")
    return folder / "package"


@pytest.fixture
def package(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "package"))


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return make_encoder(tmp_path / "looks")


@pytest.mark.parametrize("config", [PLAIN, PLUS, FULL], ids=lambda config: config.kind)
def test_both_kinds_of_file_give_the_same(
    package: Path, encoder: Path, tmp_path: Path, config: Any
) -> None:
    for name in ("face.bin", "other.safetensors"):
        report = add_adapter(
            make_ip_adapter(tmp_path / name, config), package, image_encoder=encoder
        )
        assert (report.kind, report.precision) == ("ip-adapter", "fp16")
        assert report.encoder.startswith("image-encoder/")
    manifest = Package.open(package).manifest
    assert [entry.name for entry in manifest.adapters] == ["face", "other"]
    assert len({manifest.weights[e.component].file.sha256 for e in manifest.adapters}) == 1
    assert len({entry.encoder for entry in manifest.adapters}) == 1, "it is stored once"
    (graph,) = Package.open(package).find("ip-adapter/face", "plain")
    assert [spec.name for spec in graph.outputs] == ["image_keys", "image_values"]
    assert graph.outputs[0].shape[-1] == 8 + 16 + 8 + 8
    takes = ("image_embeds", (12,)) if config.kind == "plain" else ("hidden_states", ("states", 24))
    assert [(spec.name, spec.shape[1:]) for spec in graph.inputs] == [takes]


def test_the_package_gets_what_it_lacks_and_keeps_the_rest(
    package: Path, encoder: Path, tmp_path: Path
) -> None:
    before = read_manifest(package)
    add_adapter(make_ip_adapter(tmp_path / "face.bin"), package, image_encoder=encoder)
    after = Package.open(package).manifest
    assert after.artifacts[: len(before.artifacts)] == before.artifacts
    assert (before.reader, after.reader, least_reader(after)) == (1, 4, 4)
    look = after.adapters[0].encoder
    assert {(a.component, a.variant) for a in after.artifacts[len(before.artifacts) :]} == {
        ("ip-adapter/face", "plain"),
        *((look, variant) for variant in ("plain", "segment")),
        *(("unet", f"{variant}+image") for variant in ("plain", "fused", "segment")),
    }
    (unet,) = Package.open(package).find("unet", "plain+image")
    assert [spec.name for spec in unet.inputs[3:]] == ["image_keys", "image_values"]
    assert unet.weights == "unet/weights.bin", "the weights are shared"
    nodes = onnx.load(str(package / unet.graph), load_external_data=False).graph.node
    assert sum(node.op_type == "Attention" for node in nodes) == 4 * 3
    before_add = {a.component for a in after.artifacts}
    add_adapter(make_tiny_controlnet(tmp_path / "edges"), package)
    last = Package.open(package).manifest.artifacts[len(after.artifacts) :]
    endings = {a.variant.partition("+")[2] for a in last if a.component == "unet"}
    assert endings == {"control", "control+image"}
    assert {a.component for a in last} - before_add == {"controlnet/edges"}


def test_the_encoder_is_found_given_or_kept(package: Path, tmp_path: Path) -> None:
    beside = make_encoder(tmp_path / "files" / "image_encoder")
    file = make_ip_adapter(tmp_path / "files" / "one.safetensors")
    first = add_adapter(file, package).encoder
    away = make_ip_adapter(tmp_path / "two.safetensors", PLUS)
    assert add_adapter(away, package).encoder == first, "the package has one that fits"
    other = make_encoder(tmp_path / "other", seed=61)
    assert add_adapter(away, package, image_encoder=other, force=True).encoder != first
    components = set(Package.open(package).manifest.weights)
    assert {name for name in components if name.startswith("image-encoder/")} == {
        entry.encoder for entry in Package.open(package).manifest.adapters
    }
    add_adapter(file, package, image_encoder=other, force=True)
    assert first not in Package.open(package).manifest.weights, "nobody uses it any more"
    assert not (package / first).exists()
    assert beside.is_dir()


def test_without_an_encoder_that_fits_it_says_what_to_give(
    package: Path, encoder: Path, tmp_path: Path
) -> None:
    before = read_manifest(package)
    file = make_ip_adapter(tmp_path / "face.safetensors")
    with pytest.raises(
        RequestError, match=r"a pooled vector of 12 channels; give its folder with --image-encoder"
    ):
        add_adapter(file, package)
    wide = make_encoder(tmp_path / "wide", replace(ENCODER, projection=16))
    with pytest.raises(RequestError, match=r"a pooled vector of 12 channels, .*wide gives 16"):
        add_adapter(file, package, image_encoder=wide)
    published = replace(PLAIN, width=1024)
    big = make_ip_adapter(tmp_path / "big.safetensors", published)
    with pytest.raises(RequestError, match=r"models/image_encoder of h94/IP-Adapter \(ViT-H\)"):
        add_adapter(big, package, image_encoder=encoder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"is no image encoder: it has no config\.json"):
        add_adapter(file, package, image_encoder=tmp_path / "empty")
    tensors = {"vision_model.x": np.zeros((2, 2), np.float32)}
    write_safetensors(encoder / "model.safetensors", tensors)
    with pytest.raises(UnknownFamily, match=r"has no visual_projection\.weight"):
        add_adapter(file, package, image_encoder=encoder)
    add_adapter(file, package, image_encoder=make_encoder(tmp_path / "good"))
    with pytest.raises(RequestError, match=r"those of .* are of other widths; give its folder"):
        add_adapter(big, package)
    assert [e.name for e in read_manifest(package).adapters] == ["face"]
    assert not before.adapters


def test_an_encoder_is_for_ip_adapters_alone(package: Path, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="edges is a controlnet; leave --image-encoder out"):
        add_adapter(make_tiny_controlnet(tmp_path / "edges"), package, image_encoder=encoder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cross_dim": 24}, "text features 24 wide, .* has 16"),
        ({"crosses": (8, 8)}, "cross-attentions of 2 x 8 channels, .* has 3 x 8, 1 x 16"),
        ({"crosses": (8, 8, 16, 16)}, "cross-attentions of 2 x 8, 2 x 16 channels"),
    ],
)
def test_one_of_another_family_or_width_is_refused(
    package: Path, encoder: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    file = make_ip_adapter(tmp_path / "face.safetensors", replace(PLAIN, **change))
    with pytest.raises(RequestError, match=f"was made for {words}.*another model family"):
        add_adapter(file, package, image_encoder=encoder)


def test_damaged_and_other_files_are_named(package: Path, encoder: Path, tmp_path: Path) -> None:
    plain, plus = ip_adapter_tensors(PLAIN), ip_adapter_tensors(PLUS)

    def without(tensors: dict[str, Any], start: str) -> dict[str, Any]:
        return {name: value for name, value in tensors.items() if not name.startswith(start)}

    weight = plain["ip_adapter.1.to_k_ip.weight"]
    face = {**without(plain, "image_proj.proj"), "image_proj.proj.0.weight": weight}
    nan = {name: value.copy() for name, value in plain.items()}
    nan["ip_adapter.3.to_v_ip.weight"][0, 0] = np.inf
    bad = {
        "no layers": (without(plain, "ip_adapter."), "ip_adapter.1.to_k_ip.weight is missing"),
        "a layer lacks": (without(plain, "ip_adapter.3.to_v"), "tensors are missing"),
        "no projection": (without(plain, "image_proj."), "of an unknown kind; known: plain, plus"),
        "face": (face, "an IP-Adapter FaceID"),
        "more": ({**plain, "ip_adapter.0.to_q_lora.down.weight": weight}, "1 tensors that no"),
        "no tokens": (
            {**plain, "image_proj.proj.weight": np.zeros((65, 12), np.float32)},
            "gives 65 numbers, no whole tokens of 16",
        ),
        "heads": (
            {**plus, "image_proj.layers.0.0.to_q.weight": np.zeros((65, 32), np.float32)},
            "a resampler 65 wide",
        ),
        "shape": (
            {**plus, "image_proj.latents": np.zeros((5, 32), np.float32)},
            r"image_proj\.latents has shape \[5, 32\]",
        ),
        "nan": (nan, r"ip_adapter\.3\.to_v_ip\.weight has values that are no finite numbers"),
    }
    before = read_manifest(package)
    for name, (tensors, words) in bad.items():
        write_safetensors(tmp_path / f"{name}.safetensors", tensors)
        with pytest.raises(SourceError, match=words):
            add_adapter(tmp_path / f"{name}.safetensors", package, image_encoder=encoder)
    assert read_manifest(package) == before
    assert not (package / "ip-adapter").exists()


def test_a_file_that_would_run_code_is_refused(
    package: Path, encoder: Path, tmp_path: Path
) -> None:
    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("ran",)

    path = make_ip_adapter(tmp_path / "face.bin")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            evil = pickle.dumps({"image_proj": Bad()}, 2)
            archive.writestr(name, evil if name.endswith("data.pkl") else data)
    with pytest.raises(SourceError, match="print"):
        add_adapter(path, package, image_encoder=encoder)
    short = tmp_path / "short.safetensors"
    short.write_bytes(make_ip_adapter(tmp_path / "whole.safetensors").read_bytes()[:-100])
    with pytest.raises(SourceCorrupt):
        add_adapter(short, package, image_encoder=encoder)
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1 << 40}))
    with pytest.raises(SourceCorrupt, match="num_hidden_layers 1099511627776 is not between"):
        add_adapter(make_ip_adapter(tmp_path / "ok.safetensors"), package, image_encoder=encoder)


@pytest.mark.parametrize("family", ["sd2", "sdxl", "inpaint", "lcm", "pruned", "headless"])
def test_every_family_takes_one(tmp_path: Path, encoder: Path, family: str) -> None:
    from sdlite_export.emit.extend import unet_places

    export_package(
        make_tiny_checkpoint(tmp_path / "source", FAMILIES[family]), tmp_path / "package"
    )
    places = unet_places(Package.open(tmp_path / "package").weight_file("unet"))
    names = [name for name, _ in places.crosses]
    assert names == sorted(names, key=lambda name: "dmu".index(name[0]))
    order = places.file_order()
    crosses = [places.crosses[order.index(place)][1] for place in range(len(order))]
    config = replace(PLAIN, cross_dim=places.cross_dim, crosses=tuple(crosses))
    file = make_ip_adapter(tmp_path / "face.safetensors", config)
    add_adapter(file, tmp_path / "package", image_encoder=encoder)
    assert Package.open(tmp_path / "package").manifest.adapters


def test_a_manifest_whose_encoder_is_missing_is_refused(
    package: Path, encoder: Path, tmp_path: Path
) -> None:
    add_adapter(make_ip_adapter(tmp_path / "face.bin"), package, image_encoder=encoder)
    manifest = read_manifest(package)
    (entry,) = manifest.adapters
    for change, words in (
        ({"encoder": ""}, "is a ip-adapter without an image encoder"),
        ({"encoder": "image-encoder/none"}, "no image encoder under 'image-encoder/none'"),
        ({"encoder": "unet"}, "no image encoder under 'unet'"),
        ({"kind": "controlnet"}, "is a controlnet with an image encoder"),
    ):
        wrong = replace(manifest, adapters=(replace(entry, **change),))
        with pytest.raises(PackageInvalid, match=words):
            check_manifest(package, wrong)
