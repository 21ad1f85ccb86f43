"""The manifest reader accepts what docs/package.md allows and names every defect."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdlite.errors import (
    PackageCorrupt,
    PackageError,
    PackageInvalid,
    PackageMissing,
    PackageTooNew,
    UnknownName,
)
from sdlite.manifest import (
    MANIFEST,
    VERSION,
    dump_manifest,
    least_reader,
    read_manifest,
)
from sdlite.package import Package


def entry(root: Path, path: str, content: bytes) -> dict[str, Any]:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_package(root: Path) -> dict[str, Any]:
    graph = entry(root, "unet/plain.onnx", b"graph")
    weights = entry(root, "unet/weights.bin", bytes(4096 + 8))
    manifest = {
        "version": 1,
        "reader": 1,
        "name": "tiny",
        "family": "sd1",
        "prediction": "epsilon",
        "noise": {
            "kind": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "train_steps": 1000,
        },
        "latent": {"channels": 4, "factor": 8, "scale": 0.18215},
        "tokenizers": [
            {
                "name": "tokenizer",
                "kind": "clip",
                "files": [entry(root, "tokenizer/vocab.json", b"{}")],
                "length": 77,
                "bos": 0,
                "eos": 1,
                "pad": 1,
            }
        ],
        "defaults": {"width": 64, "height": 64},
        "licence": {"id": "unknown"},
        "source": {"kind": "diffusers", "name": "tiny", "sha256": "00"},
        "exporter": "0.1.0",
        "artifacts": [
            {
                "component": "unet",
                "format": "onnx",
                "variant": "plain",
                "precision": "fp32",
                "graph": graph["path"],
                "graph_size": graph["size"],
                "graph_sha256": graph["sha256"],
                "inputs": [
                    {"name": "sample", "dtype": "float32", "shape": ["batch", 4, "height", "width"]}
                ],
                "outputs": [],
                "weights": "unet/weights.bin",
            }
        ],
        "weights": {
            "unet": {
                "file": weights,
                "precision": "fp32",
                "tensors": {
                    "a": {"dtype": "float32", "shape": [2], "offset": 0, "size": 8},
                    "b": {"dtype": "float32", "shape": [2], "offset": 4096, "size": 8},
                },
            }
        },
    }
    (root / MANIFEST).write_text(json.dumps(manifest))
    return manifest


def rewrite(root: Path, manifest: dict[str, Any]) -> None:
    (root / MANIFEST).write_text(json.dumps(manifest))


def test_opens_and_round_trips(tmp_path: Path) -> None:
    write_package(tmp_path)
    package = Package.open(tmp_path)
    package.verify()
    assert package.manifest.defaults.steps == 20
    assert [artifact.graph for artifact in package.find("unet", "plain")] == ["unet/plain.onnx"]
    assert package.find("unet", "plain", "fp16") == ()
    (tmp_path / MANIFEST).write_text(dump_manifest(package.manifest))
    assert Package.open(tmp_path) == package


def test_a_chain_comes_in_order(tmp_path: Path) -> None:
    manifest = write_package(tmp_path)
    first = manifest["artifacts"][0]
    manifest["artifacts"] = [
        {**first, "variant": "segment", "index": 1},
        {**first, "variant": "segment", "index": 0},
    ]
    rewrite(tmp_path, manifest)
    chain = Package.open(tmp_path).find("unet", "segment")
    assert [artifact.index for artifact in chain] == [0, 1]


def test_the_same_artifact_twice(tmp_path: Path) -> None:
    manifest = write_package(tmp_path)
    manifest["artifacts"] *= 2
    rewrite(tmp_path, manifest)
    with pytest.raises(PackageInvalid, match="two artifacts are unet onnx plain fp32 0"):
        Package.open(tmp_path)


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(PackageMissing, match=r"no sdlite\.json"):
        Package.open(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    write_package(tmp_path)
    (tmp_path / "unet/weights.bin").unlink()
    with pytest.raises(PackageMissing, match=r"weights\.bin is missing"):
        Package.open(tmp_path)


def test_wrong_size(tmp_path: Path) -> None:
    write_package(tmp_path)
    (tmp_path / "unet/weights.bin").write_bytes(b"short")
    with pytest.raises(PackageCorrupt, match="has 5 bytes"):
        Package.open(tmp_path)


def test_wrong_hash(tmp_path: Path) -> None:
    write_package(tmp_path)
    (tmp_path / "unet/plain.onnx").write_bytes(b"Graph")
    with pytest.raises(PackageCorrupt, match="hash"):
        Package.open(tmp_path)


def test_too_new_says_which_reader(tmp_path: Path) -> None:
    manifest = write_package(tmp_path)
    rewrite(tmp_path, {**manifest, "reader": VERSION + 1, "from the future": 1})
    with pytest.raises(PackageTooNew, match=f"needs package reader {VERSION + 1}"):
        Package.open(tmp_path)


def change(manifest: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    *parents, last = path.split("/")
    place: Any = changed
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("family", "sd3", r"family 'sd3' is not one this sdlite draws \(sd1, sd2, sdxl, sdxl-ref"),
        ("tokenizers", [], "no tokenizer"),
        ("tokenizers/0/length", 1, "makes no sense"),
        ("tokenizers/0/bos", -1, "makes no sense"),
        ("noise/train_steps", 10**10, "makes no sense"),
        ("latent/channels", 3, "takes 4 latent channels, the latent space has 3"),
        ("defaults/width", 60, "make no sense"),
        ("defaults/steps", 0, "make no sense"),
        ("artifacts/0/activation_bytes", -1, "negative number"),
        ("surprise", 1, "unknown field 'surprise'"),
        ("name", 3, "3 is not a str"),
        ("prediction", "noise", "is not one of 'epsilon', 'v_prediction'"),
        ("noise/train_steps", 0, "makes no sense"),
        ("noise/beta_end", 2.0, "makes no sense"),
        ("latent/scale", -1.0, "makes no sense"),
        ("latent/scale", float("inf"), "not a finite number"),
        ("version", True, "True is not a int"),
        ("artifacts", [], "no artifacts"),
        ("artifacts", {}, "is not a list"),
        ("artifacts/0/graph", "../plain.onnx", "not a plain path"),
        ("artifacts/0/graph", "/etc/passwd", "not a plain path"),
        ("artifacts/0/graph", "C:\\x", "not a plain path"),
        ("artifacts/0/graph", "unet//plain.onnx", "not a plain path"),
        ("artifacts/0/weights", "other.bin", "no weight file"),
        ("tokenizers/0/files/0/path", "a/../../b", "not a plain path"),
        ("weights/unet/file/path", "", "no weight file"),
        ("artifacts/0/graph", "", "not a plain path"),
        ("artifacts/0/graph", "x" * 300, "not a plain path"),
        ("artifacts/0/graph", "\ud800", "not a plain path"),
        ("latent/scale", 10**400, "not a finite number"),
        ("weights/unet/tensors/a/dtype", "complex64", "unknown dtype"),
        ("weights/unet/tensors/a/shape", [3], "cannot have 8 bytes"),
        ("weights/unet/tensors/a/shape", [10**4000] * 400, "cannot have 8 bytes"),
        ("weights/unet/tensors/a/shape", [-2], "has shape"),
        ("weights/unet/tensors/b/offset", 0, "overlaps"),
        ("weights/unet/tensors/b/offset", 4100, "not page-aligned"),
        ("weights/unet/tensors/b/offset", 8192, "tensors end at byte"),
        ("weights/unet/tensors/a/layout", "upside down", "is not one of"),
    ],
)
def test_defects_are_named(tmp_path: Path, path: str, value: object, message: str) -> None:
    manifest = write_package(tmp_path)
    rewrite(tmp_path, change(manifest, path, value))
    with pytest.raises(PackageInvalid, match=message):
        Package.open(tmp_path)


def test_a_graph_of_several_files(tmp_path: Path) -> None:
    manifest = write_package(tmp_path)
    more = entry(tmp_path, "unet/plain/weights.bin", b"123")
    graph = manifest["artifacts"][0]
    rewrite(tmp_path, {**manifest, "artifacts": [{**graph, "files": [more]}]})
    package = Package.open(tmp_path)
    assert package.manifest.artifacts[0].size == graph["graph_size"] + 3
    assert more["path"] in {item.path for item in package.files()}
    assert least_reader(package.manifest) == 3
    (tmp_path / "unet/plain/weights.bin").write_bytes(b"321")
    with pytest.raises(PackageCorrupt, match=r"weights\.bin does not have the hash"):
        Package.open(tmp_path)
    away = {**more, "path": "../weights.bin"}
    rewrite(tmp_path, {**manifest, "artifacts": [{**graph, "files": [away]}]})
    with pytest.raises(PackageInvalid, match="not a plain path"):
        Package.open(tmp_path)


def test_missing_field_is_named(tmp_path: Path) -> None:
    manifest = write_package(tmp_path)
    del manifest["noise"]["beta_end"]
    rewrite(tmp_path, manifest)
    with pytest.raises(PackageInvalid, match="noise: field 'beta_end' is missing"):
        Package.open(tmp_path)


def test_a_link_out_of_the_package_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "package"
    root.mkdir()
    write_package(root)
    outside = tmp_path / "outside.bin"
    (root / "unet/weights.bin").rename(outside)
    try:
        (root / "unet/weights.bin").symlink_to(outside)
    except OSError:
        pytest.skip("this system lets nobody make symbolic links")
    with pytest.raises(PackageInvalid, match="leads outside"):
        Package.open(root)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "[" * 100_000, "\xff"])
def test_not_a_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(PackageInvalid):
        read_manifest(tmp_path)


def test_unknown_component_offers_the_known(tmp_path: Path) -> None:
    write_package(tmp_path)
    with pytest.raises(UnknownName, match="Did you mean 'unet'"):
        Package.open(tmp_path).weight_file("unett")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_package_error(tmp_path: Path, data: st.DataObject) -> None:
    manifest = write_package(tmp_path)
    place: Any = manifest
    key: Any = data.draw(st.sampled_from(sorted(place)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        keys = range(len(place)) if isinstance(place, list) else sorted(place)
        key = data.draw(st.sampled_from(list(keys)))
    place[key] = data.draw(json_values)
    rewrite(tmp_path, manifest)
    try:
        Package.open(tmp_path)
    except PackageError as error:
        assert "\n" not in str(error)
