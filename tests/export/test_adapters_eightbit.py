"""ControlNets and their like in 8 bits: what is in them, what they draw, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdlite_export.adapters import add_adapter
from sdlite_export.configs import T2IAdapterConfig
from sdlite_export.export import export_package

import sdlite
from benchmarks.quality.likeness import psnr
from sdlite.cli.export import export as command
from sdlite.errors import RequestError, UnknownName
from sdlite.manifest import read_manifest
from sdlite.package import Package
from tests.looking import make_encoder, make_ip_adapter
from tests.tiny import make_tiny_checkpoint, make_tiny_controlnet, make_tiny_t2i

pytest.importorskip("onnxruntime")

EDGES = "controlnet/edges"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_controlnet(tmp_path_factory.mktemp("network") / "edges")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    export_package(make_tiny_checkpoint(folder / "source"), folder / "package")
    return folder / "package"


@pytest.fixture(scope="module")
def packages(
    model: Path, network: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    (folder / "prompts.txt").write_text("a red circle\na square\n", encoding="utf-8")
    made = {}
    for precision in ("fp16", "w8", "int8"):
        made[precision] = folder / precision
        calibration = folder / "prompts.txt" if precision == "int8" else None
        report = add_adapter(
            network, model, made[precision], precision=precision, calibration=calibration
        )
        assert report.precision == precision
    return made


@pytest.fixture
def package(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "package"))


def test_the_manifest_says_what_is_in_8_bits(packages: dict[str, Path]) -> None:
    whole = Package.open(packages["fp16"]).manifest
    for precision, kind in (("w8", "w8"), ("int8", "w8a8")):
        opened = Package.open(packages[precision])
        opened.verify()
        file = opened.manifest.weights[EDGES]
        assert file.precision == precision
        assert {layer.precision for layer in file.layers.values()} == {kind, "fp16"}
        assert file.layers["controlnet_cond_embedding.conv_in"].why == "first or last layer"
        for name, layer in file.layers.items():
            held = file.tensors[f"{name}.weight"].dtype
            assert held == ("float16" if layer.precision == "fp16" else "int8")
        assert {a.precision for a in opened.manifest.artifacts if a.component == EDGES} == {
            precision
        }
        there = {(a.component, a.variant) for a in opened.manifest.artifacts}
        assert there == {(a.component, a.variant) for a in whole.artifacts}
        assert not list(opened.root.rglob("piece-*"))
        assert opened.manifest.weights["unet"] == whole.weights["unet"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("mode", ["normal", "mapped"])
def test_they_draw_nearly_the_same(packages: dict[str, Path], runtime: str, mode: str) -> None:
    pytest.importorskip(runtime)
    if (runtime, mode) == ("openvino", "mapped"):
        pytest.skip("OpenVINO has no such mode")
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    drawn = {}
    for precision, root in packages.items():
        with sdlite.load(root, runtime=runtime, precision="fp32", memory_mode=mode) as pipe:
            for name, weight in ((precision, 1.0), ("without", 0.0)):
                controls = [sdlite.Control("edges", picture, weight=weight)]
                result = pipe.generate("a red circle", seed=3, steps=4, controls=controls)
                drawn[name] = result.images[0]
    apart = psnr(drawn["fp16"], drawn["without"])
    assert psnr(drawn["fp16"], drawn["w8"]) > apart + 10
    assert psnr(drawn["fp16"], drawn["int8"]) > apart + 5


def test_what_is_asked_once_a_picture_has_weights_alone_in_8_bits(
    package: Path, tmp_path: Path
) -> None:
    sketch = make_tiny_t2i(tmp_path / "sketch", T2IAdapterConfig("full", (8, 16), 2))
    assert add_adapter(sketch, package, precision="int8").precision == "w8"
    report = add_adapter(
        make_ip_adapter(tmp_path / "face.safetensors"),
        package,
        precision="w8",
        image_encoder=make_encoder(tmp_path / "looks"),
    )
    assert report.precision == "w8"
    weights = Package.open(package).manifest.weights
    for component in ("t2i-adapter/sketch", "ip-adapter/face", report.encoder):
        layers = weights[component].layers.values()
        assert "w8" in {layer.precision for layer in layers} <= {"w8", "fp16"}, component
    picture = Image.new("RGB", (40, 32), (200, 30, 60))
    with sdlite.load(package, runtime="onnxruntime") as pipe:
        for name in ("sketch", "face"):
            assert pipe.generate("a", steps=2, controls=[sdlite.Control(name, picture)]).images


def test_what_cannot_be_is_refused(
    package: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_manifest(package)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a circle\n", encoding="utf-8")
    with pytest.raises(UnknownName, match="unknown precision 'w4'"):
        add_adapter(network, package, precision="w4")
    with pytest.raises(RequestError, match="for a ControlNet in int8; edges is a controlnet in w8"):
        add_adapter(network, package, precision="w8", calibration=prompts)
    sketch = make_tiny_t2i(tmp_path / "sketch", T2IAdapterConfig("full", (8, 16), 2))
    with pytest.raises(RequestError, match="sketch is a t2i-adapter in int8"):
        add_adapter(sketch, package, precision="int8", calibration=prompts)

    def stop(label: str, *_: object) -> None:
        if label == "calibration":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_adapter(network, package, precision="int8", progress=stop)
    assert read_manifest(package) == before
    assert not (package / "controlnet").exists()
    for given, words in (
        (["--scan", "--precision", "int8"], "--scan tries the layers of a checkpoint"),
        (["--calibration", str(prompts)], "--calibration is for --precision int8"),
    ):
        arguments = [str(network), "--for", str(package), *given]
        with pytest.raises(RequestError, match=words):
            command.main(arguments, standalone_mode=False)
    assert read_manifest(package) == before
