"""``sdlite export --format openvino``: OpenVINO's own graphs over the package's weight files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sdlite_export.export import export_package
from sdlite_export.verify import deviation, random_inputs

from sdlite import registry
from sdlite.engine import LoadOptions
from sdlite.errors import RuntimeUnavailable
from sdlite.irfile import read_ir
from sdlite.package import Package
from sdlite.planner import Budget, Preferences, RequestShape, plan

pytest.importorskip("openvino", reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def package(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    root = tmp_path_factory.mktemp("ir") / "tiny"
    export_package(tiny_checkpoint, root, format="openvino")
    found = Package.open(root)
    found.verify()
    return found


def test_the_graphs_compute_the_same_from_the_same_weights(package: Package) -> None:
    runtime, device = registry.get("openvino"), registry.devices("openvino")[0]
    written = [a for a in package.manifest.artifacts if a.format == "openvino"]
    assert {(a.component, a.variant) for a in written} == {
        ("text_encoder", "plain"),
        ("text_encoder", "embeddings"),
        ("unet", "plain"),
        ("vae_decoder", "plain"),
        ("vae_encoder", "plain"),
    }
    for artifact in written:
        (source,) = package.find(artifact.component, artifact.variant)
        assert artifact.weights == source.weights
        inputs = random_inputs(source, package.manifest)
        options = LoadOptions(threads=1, precision="fp32")
        answers = []
        for each in (artifact, source):
            session = runtime.load(each, package.root, device, options)
            assert session.inputs == source.inputs
            answers.append(session.run({spec.name: inputs[spec.name] for spec in session.inputs}))
            session.close()
        assert max(deviation(answers[0][name], answers[1][name]) for name in answers[0]) < 1e-5
    grown = sum(w.file.size - max(t.offset + t.size for t in w.tensors.values())
                for w in package.manifest.weights.values())  # fmt: skip
    assert 0 < grown < 64 << 10, "weights lie there once"


def test_openvino_takes_them_and_onnx_runtime_its_own(package: Package) -> None:
    shape = RequestShape(32, 32, 1, 2, True)
    for runtime, format in (("openvino", "openvino"), ("onnxruntime", "onnx")):
        devices = registry.devices(runtime)
        made = plan(package, shape, devices, Budget(), Preferences(runtime=runtime))
        assert {p.artifacts[0].format for p in made.placements} == {format}


def test_replaced_weights_and_the_compile_cache_know_them(package: Package, tmp_path: Path) -> None:
    runtime, device = registry.get("openvino"), registry.devices("openvino")[0]
    (artifact,) = package.find("unet", "plain", format="openvino")
    file = read_ir(package.path(artifact.graph), "weights.bin")
    assert file.locations == {"weights.bin"} and "conv_in.weight" in file.initializers
    inputs = random_inputs(artifact, package.manifest)
    entry = package.weight_file("unet").tensors["conv_in.weight"]
    zeros = {"conv_in.weight": np.zeros(entry.shape, entry.dtype)}
    answers = []
    for weights in ({}, {}, zeros):
        options = LoadOptions(threads=1, precision="fp32", cache=tmp_path, weights=weights)
        session = runtime.load(artifact, package.root, device, options)
        assert not session.report.notes
        answers.append(session.run(inputs)["out_sample"])
        session.close()
    np.testing.assert_array_equal(answers[0], answers[1])
    assert not np.allclose(answers[0], answers[2])


def test_without_openvino_nothing_is_begun(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: str) -> None:
        raise RuntimeUnavailable("OpenVINO cannot be imported", "Install it")

    monkeypatch.setattr(registry, "probe", missing)
    with pytest.raises(RuntimeUnavailable, match="OpenVINO cannot be imported"):
        export_package(tiny_checkpoint, tmp_path / "package", format="openvino")
    assert not list(tmp_path.iterdir())
