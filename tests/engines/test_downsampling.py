"""Attention over fewer tokens: what the graphs compute, and when they are used."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sdlite_export.emit.downsampling import DownsampledOps
from sdlite_export.emit.proto import model_proto
from sdlite_export.emit.targets import PLAIN
from sdlite_export.export import export_package

import sdlite
from benchmarks import downsampling
from sdlite import registry
from sdlite.chain import open_chain
from sdlite.engine import LoadOptions
from sdlite.errors import RuntimeUnavailable
from sdlite.metadata import parse
from sdlite.package import Package
from tests.tiny import Tiny, make_tiny_checkpoint

pytest.importorskip("onnxruntime")

NOTE = "attention's tokens are not downsampled: "


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of pictures large enough to have 1,024 tokens."""
    folder = tmp_path_factory.mktemp("downsampling")
    export_package(make_tiny_checkpoint(folder / "tiny", Tiny(size=256)), folder / "package")
    return folder / "package"


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    try:
        registry.probe(request.param)
    except RuntimeUnavailable as error:
        pytest.skip(error.reason)
    return str(request.param)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (1, 3)])
def test_every_second_row_and_column(height: int, width: int) -> None:
    import onnxruntime

    ops = DownsampledOps(PLAIN, "fp32")
    x = ops.input("x", ("batch", 3, "height", "width"))
    y = ops.every_second(ops.to_tokens(x), x, ("height_2", "width_2"))
    assert y.shape == ("batch", "height_2*width_2", 3)
    ops.output("y", y)
    graph = ops.finish()
    model, _, _ = model_proto(graph, graph.nodes, PLAIN, {}, "none", "every second")
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    value = np.random.default_rng(0).standard_normal((2, 3, height, width), np.float32)
    (found,) = session.run(None, {"x": value})
    expected = value[:, :, ::2, ::2].reshape(2, 3, -1).swapaxes(1, 2)
    assert np.array_equal(found, expected)


def answer(root: Path, runtime: str, variant: str, side: int) -> Any:
    rng = np.random.default_rng(1)
    inputs = {
        "sample": rng.standard_normal((2, 4, side, side), np.float32),
        "timestep": np.array([800, 100], np.float32),
        "encoder_hidden_states": rng.standard_normal((2, 77, 16), np.float32),
    }
    device = registry.probe(runtime)[0]
    options = LoadOptions(precision="fp32" if runtime == "openvino" else None)
    found = Package.open(root).find("unet", variant)
    session = open_chain(registry.get(runtime), found, root, device, options)
    try:
        return session.run(inputs)["out_sample"]
    finally:
        session.close()


@pytest.mark.parametrize("side", [8, 7])
def test_both_graphs_and_engines_agree(package: Path, runtime: str, side: int) -> None:
    expected = answer(package, "onnxruntime", "plain+downsampled", side)
    for variant in ("plain+downsampled", "fused+downsampled"):
        if variant.startswith("plain") or runtime == "onnxruntime":
            found = answer(package, runtime, variant, side)
            assert np.abs(found - expected).max() < 1e-3 * expected.std()
    usual = answer(package, "onnxruntime", "plain", side)
    assert 1e-4 < np.abs(usual - expected).std() / usual.std() < 1.0


def test_exporting_compares_them_with_each_other(package: Path) -> None:
    parity = {(p.component, p.variant): p for p in Package.open(package).manifest.parity}
    fused = parity["unet", "fused+downsampled"]
    assert fused.reference.startswith("plain+downsampled graph") and fused.max_abs < 1e-4
    assert ("unet", "plain+downsampled") not in parity


def test_profiles_that_may_use_them(package: Path, runtime: str) -> None:
    variant = {"onnxruntime": "fused", "openvino": "plain"}[runtime]
    with sdlite.load(package, runtime=runtime) as pipe:
        for profile, used in (("quality", False), ("balanced", False), ("fast", True)):
            found = pipe.generate("a", seed=1, steps=3, profile=profile)
            graph = found.plan.placement("unet").artifacts[0].variant
            assert graph == (f"{variant}+downsampled" if used else variant)
            told = parse(found.infotexts[0]).fields.get("Token downsampling")
            assert told == ("2" if used else None)
            assert ("every second row" in found.plan.explain()) == used
            assert not any(note.startswith(NOTE) for note in found.notes)


def test_where_it_does_not_apply_is_said(package: Path, tiny_package: Package) -> None:
    def notes(model: Path, opening: dict[str, Any], **settings: Any) -> str:
        with sdlite.load(model, runtime="onnxruntime", **opening) as pipe:
            request = sdlite.Request("a", seed=1, steps=3, profile="fast", **settings)
            found = pipe.generate(request)
        assert "+" not in found.plan.placement("unet").artifacts[0].variant
        assert "Token downsampling" not in found.infotexts[0]
        return "\n".join(found.notes)

    assert f"{NOTE}{tiny_package.manifest.name} has no graph for it" in notes(tiny_package.root, {})
    assert f"{NOTE}128x128 has too few tokens" in notes(package, {}, width=128, height=128)
    assert f"{NOTE}the U-Net for seamless" in notes(package, {}, tiling="x")
    assert f"{NOTE}onnxruntime runs a chain" in notes(package, {"memory_mode": "mapped"})


def test_the_benchmark_times_both(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [str(package), "--runtime", "onnxruntime", "--cells", "8", "--rounds", "1", "--quick"]
    monkeypatch.setattr(sys, "argv", ["downsampling", *given, "-o", str(tmp_path)])
    downsampling.main()
    report = json.loads((tmp_path / "speed-downsampling-onnxruntime.json").read_text())
    found = {item["key"]: item["value"] for item in report["measurements"]}
    assert found["64_all_seconds"] > 0 and found["64_gain"] > 0
    assert 0.01 < found["difference"] < 100
