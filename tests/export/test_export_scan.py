"""The search that tries each layer alone in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdlite_export import scan as scanning
from sdlite_export.emit.components import components, plan_component
from sdlite_export.export import export_package
from sdlite_export.recipe import Recipe
from sdlite_export.scan import apart, rounded, sensitive, with_effects, with_rounded_input
from sdlite_export.source import open_source
from sdlite_export.statistics import Samples

from sdlite import registry
from sdlite.errors import CalibrationFailed, Cancelled, RequestError
from sdlite.manifest import Layer
from sdlite.package import Package
from sdlite.tensors.eightbit import from_int8, steps_of, to_int8

pytest.importorskip("onnxruntime")

Array = np.ndarray[Any, np.dtype[Any]]
CONV = "down_blocks.0.resnets.0.conv1"
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
PROMPTS = "a red circle\n"


@pytest.fixture(scope="module")
def scanned(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("scan")
    (folder / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
    told: list[tuple[str, int, int]] = []
    export_package(
        tiny_checkpoint,
        folder / "int8",
        precision="int8",
        calibration=folder / "prompts.txt",
        search=True,
        progress=lambda *facts: told.append(facts),
    )
    for part in ("unet", "vae_decoder"):
        counts = [(done, total) for label, done, total in told if label == f"scan of {part}"]
        assert counts[-1][0] == counts[-1][1] == len(counts) > 20
    return Package.open(folder / "int8")


def test_the_manifest_says_what_was_found(scanned: Package) -> None:
    for part in ("unet", "vae_decoder"):
        layers = scanned.manifest.weights[part].layers
        tried = {name: layer for name, layer in layers.items() if layer.effect}
        assert len(tried) > 20
        narrow = [layer for layer in tried.values() if layer.precision == "w8a8"]
        kept = [layer for layer in tried.values() if layer.precision == "fp16"]
        assert np.sqrt(sum(layer.effect**2 for layer in narrow)) <= scanning.BOUND
        assert all(layer.why.startswith("alone changes the output by") for layer in kept)
        least = min((layer.effect for layer in kept), default=np.inf)
        assert all(layer.effect <= least for layer in narrow)
    assert not list(scanned.root.rglob("scan*"))
    scanned.verify()


def test_each_layer_is_rounded_as_it_would_be(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A scan's graph and weights against the same layer computed by hand."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 4)).astype(np.float32)
    factors = np.array([0.5, 2.0, 1.0, 4.0], np.float32)
    spread = weight * factors
    expected = from_int8(to_int8(spread, steps_of(spread)), steps_of(spread)) / factors
    np.testing.assert_allclose(rounded(weight, factors), expected)
    assert 0 < apart([rounded(weight, None)], [weight]) < 0.01
    part = next(c for c in components(open_source(tiny_checkpoint, None)) if c.name == "unet")
    graph = plan_component(part, "fp32", Recipe()).graphs["segment"]
    for name in (CONV, LINEAR):
        changed = with_rounded_input(graph, graph.layers[name], Layer("w8a8", 0.1, 7), factors)
        (taker,) = [node for node in changed.nodes if "scan/back" in node.inputs]
        assert taker.inputs[1].startswith(f"{name}.weight")
        assert len(changed.nodes) == len(graph.nodes) + 4
        takes, gives = changed.boundary(changed.nodes)
        assert [v.name for v in gives] == ["out_sample"]
        assert {v.name for v in takes} == {"sample", "timestep", "encoder_hidden_states"}


def test_the_worst_stay_until_the_rest_keeps_within_the_bound() -> None:
    effects = {"a": 0.03, "b": 0.001, "c": 0.04, "d": 0.002}
    assert sensitive(effects, 0.1) == {}
    assert list(sensitive(effects, 0.031)) == ["c"]
    assert list(sensitive(effects, 0.01)) == ["c", "a"]
    assert sensitive(effects, 0.01)["a"] == "alone changes the output by 3 %"
    recipe = with_effects(Recipe({"a": Layer("fp16"), "z": Layer("w8a8", 1.0)}), effects)
    assert (recipe.layers["a"].effect, recipe.layers["z"].effect) == (0.03, 0.0)


def test_samples_are_spread_over_what_is_asked() -> None:
    samples = Samples({"unet": 40, "vae_decoder": 2}, 4)
    for part, count in (("unet", 40), ("vae_decoder", 2)):
        for index in range(count):
            samples.take(part, {"x": np.full(1, index, np.float32)})
    assert [float(each["x"][0]) for each in samples.kept["unet"]] == [5, 15, 25, 35]
    assert len(samples.kept["vae_decoder"]) == 2


def test_a_scan_can_be_stopped_and_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def stop(label: str, done: int, total: int) -> None:
        if label.startswith("scan") and done == 2:
            raise Cancelled("enough")

    prompts = tmp_path / "prompts.txt"
    prompts.write_text(PROMPTS, encoding="utf-8")
    with pytest.raises(Cancelled):
        export_package(
            tiny_checkpoint,
            tmp_path / "int8",
            precision="int8",
            calibration=prompts,
            search=True,
            progress=stop,
        )
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_what_a_scan_is_for(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="scan of layers is for precision int8, not for w8"):
        export_package(tiny_checkpoint, tmp_path / "p", precision="w8", search=True)


def test_numbers_that_are_not_finite_name_the_layer(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = next(c for c in components(open_source(tiny_checkpoint, None)) if c.name == "unet")
    plan = plan_component(part, "fp32", Recipe())
    recipe = Recipe({CONV: Layer("w8a8", 0.1, 7)})

    def answers(*given: Any) -> list[Array]:
        weights: Mapping[str, Array] = given[-1]
        return [np.full(3, np.nan if weights else 1.0, np.float32)]

    monkeypatch.setattr(scanning, "_answers", answers)
    read = dict.fromkeys((f"{CONV}.weight",), np.ones((8, 8, 3, 3), np.float32)).__getitem__
    with pytest.raises(CalibrationFailed, match=rf"unet: layer {CONV} in 8 bits gives numbers"):
        scanning.scan(plan, tmp_path, recipe, [{}], read)


def test_calibration_runs_on_openvino_too(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("sdlite_export.calibrate.ENGINES", ("openvino",))
    assert registry.probe("openvino")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(PROMPTS, encoding="utf-8")
    export_package(
        tiny_checkpoint,
        tmp_path / "int8",
        precision="int8",
        calibration=prompts,
    )
    facts = Package.open(tmp_path / "int8").manifest.calibration
    assert facts is not None and facts.engine.startswith("openvino")
