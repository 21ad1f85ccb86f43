"""Packages in 8 bits: what is in them, what calibration refuses, what they draw."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdlite_export import calibrate, quantize
from sdlite_export.emit.components import (
    components,
    plain_graph,
    plan_component,
    write_graphs,
)
from sdlite_export.emit.graph import Graph, LayerUse
from sdlite_export.export import export_package
from sdlite_export.inspect import inspect_path
from sdlite_export.recipe import Recipe, kept_apart, weights_only
from sdlite_export.source import open_source
from sdlite_export.statistics import Record, Statistics
from sdlite_export.weights import write_weights

import sdlite
from benchmarks.quality.likeness import psnr
from sdlite import registry
from sdlite.chain import open_chain
from sdlite.engine import LoadOptions
from sdlite.errors import (
    CalibrationFailed,
    PackageInvalid,
    RuntimeUnavailable,
    SourceError,
    UnknownName,
)
from sdlite.hardware import cuts_off, describe
from sdlite.manifest import VERSION, Layer, dump_manifest, read_manifest
from sdlite.package import Package
from sdlite.tensors.eightbit import from_int8, steps_of, to_int8
from sdlite.weightfile import own_tensors
from sdlite.weights.stored import read_tensor
from tests.tiny import make_tiny_checkpoint

pytest.importorskip("onnxruntime")

Array = np.ndarray[Any, np.dtype[Any]]
PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def int8(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("eightbit")
    (folder / "prompts.txt").write_text(f"{PROMPT}\n\na square\n", encoding="utf-8")
    export_package(
        tiny_checkpoint, folder / "int8", precision="int8", calibration=folder / "prompts.txt"
    )
    return Package.open(folder / "int8")


@pytest.fixture(scope="module")
def w8(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("eightbit") / "w8"
    export_package(tiny_checkpoint, folder, precision="w8")
    return Package.open(folder)


def drawn(package: Package, runtime: str = "onnxruntime", **options: Any) -> Any:
    with sdlite.load(package.root, runtime=runtime, **options) as pipe:
        return pipe.generate(PROMPT, seed=3, steps=4).images[0]


def test_steps_are_those_of_the_channels() -> None:
    value = np.random.default_rng(0).standard_normal((6, 5, 3, 3), np.float32)
    value[2] = 0
    steps = steps_of(value)
    stored = to_int8(value, steps)
    assert np.abs(stored.reshape(6, -1)).max(axis=1).tolist() == [127, 127, 0, 127, 127, 127]
    error = np.abs(from_int8(stored, steps) - value).reshape(6, -1).max(axis=1)
    assert (error <= steps * 0.5001).all()


def test_the_manifest_says_what_is_in_8_bits(int8: Package) -> None:
    manifest = int8.manifest
    assert (manifest.version, manifest.reader) == (VERSION, 3)
    unet = manifest.weights["unet"]
    assert unet.precision == "int8"
    assert {a.precision for a in manifest.artifacts if a.component == "unet"} == {"int8"}
    kinds = {layer.precision for layer in unet.layers.values()}
    assert kinds <= {"w8a8", "fp16"} and "w8a8" in kinds
    assert unet.layers["conv_in"].why == "first or last layer"
    assert unet.layers["down_blocks.0.resnets.0.time_emb_proj"].why == "embedding of the time"
    for name, layer in unet.layers.items():
        entry = unet.tensors[f"{name}.weight"]
        assert (entry.dtype == "int8") == (layer.precision == "w8a8")
        assert (layer.why != "") == (layer.precision == "fp16")
        if layer.precision == "w8a8":
            assert 0 < layer.error <= quantize.WORST
    assert manifest.weights["text_encoder"].precision == "w8"
    assert manifest.weights["vae_encoder"].precision == "fp16"
    facts = manifest.calibration
    assert facts is not None
    assert (facts.prompts, facts.steps, facts.calls) == (2, 10, 40)
    assert facts.engine.startswith("onnxruntime")
    assert not list(int8.root.rglob("piece-*"))
    int8.verify()


def test_a_manifest_survives_being_written(int8: Package, tmp_path: Path) -> None:
    stated = json.loads(dump_manifest(int8.manifest))
    assert "layers" not in stated["weights"]["vae_encoder"]
    assert read_manifest(int8.root) == int8.manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w["tensors"]["conv_in.weight"].update(scale="conv_in.bias"), "has a scale"),
        (lambda w: w["tensors"][LAYER].update(scale="not there"), "is no tensor of this file"),
        (lambda w: w["tensors"][LAYER].update(rows="conv_out.bias"), "for each of its channels"),
        (lambda w: w["tensors"][LAYER].pop("scale"), "is int8 and has no scale"),
        (lambda w: w["layers"].update({"conv_in": {"precision": "w8"}}), "conv_in is w8, its we"),
        (lambda w: w["layers"].update({"what": {"precision": "w8"}}), "its weight missing"),
        (
            lambda w: w["layers"].update({LAYER.removesuffix(".weight"): {"precision": "w8a8"}}),
            "step 0.0",
        ),
    ],
)
def test_manifests_that_make_no_sense(
    change: Callable[[Any], object], message: str, int8: Package, tmp_path: Path
) -> None:
    stated = json.loads(dump_manifest(int8.manifest))
    change(stated["weights"]["unet"])
    (tmp_path / "sdlite.json").write_text(json.dumps(stated))
    with pytest.raises(PackageInvalid, match=message):
        read_manifest(tmp_path)


LAYER = "down_blocks.0.resnets.0.conv1.weight"


def answer(package: Package, runtime: str = "onnxruntime", variant: str = "plain") -> Array:
    """What the U-Net of a package answers to fixed inputs."""
    rng = np.random.default_rng(1)
    inputs = {
        "sample": rng.standard_normal((2, 4, 4, 4), np.float32),
        "timestep": np.array([800, 100], np.float32),
        "encoder_hidden_states": rng.standard_normal((2, 77, 16), np.float32),
    }
    (device, *_) = registry.probe(runtime)
    options = LoadOptions(precision="fp32" if runtime == "openvino" else None)
    graphs = package.find("unet", variant)
    session = open_chain(registry.get(runtime), graphs, package.root, device, options)
    try:
        return session.run(inputs)["out_sample"]
    finally:
        session.close()


def apart(found: Array, expected: Array) -> float:
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))


def test_answers_stay(tiny_package: Package, int8: Package, w8: Package) -> None:
    whole = answer(tiny_package)
    assert apart(answer(w8), whole) < 0.05
    assert apart(answer(int8), whole) < 0.2
    for variant in ("fused", "segment"):
        assert apart(answer(w8, variant=variant), whole) < 0.05
        assert apart(answer(int8, variant=variant), whole) < 0.2
    assert psnr(drawn(tiny_package), drawn(w8, memory_mode="mapped")) > 40


def test_openvino_computes_in_8_bits(tiny_package: Package, int8: Package, w8: Package) -> None:
    pytest.importorskip("openvino")
    whole = answer(tiny_package)
    assert apart(answer(w8, "openvino"), whole) < 0.05
    assert apart(answer(int8, "openvino"), whole) < 0.2
    # Where sums would be cut off, OpenVINO is given weights of 7 bits.
    limit = 0.3 if cuts_off(describe()) else 1e-3
    assert apart(answer(int8, "openvino"), answer(int8)) < limit
    from sdlite_runtimes import ovsupport

    core = ovsupport.core()
    model = core.read_model(str(int8.root / "unet" / "plain.onnx"))
    model.reshape({"sample": [2, 4, 4, 4], "timestep": [2], "encoder_hidden_states": [2, 77, 16]})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ran: dict[str, set[str]] = {}
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        kind = facts["layerType"].astype(str)
        if kind in ("Convolution", "FullyConnected"):
            ran.setdefault(kind, set()).add(facts["runtimePrecision"].astype(str))
    assert ran.keys() == {"Convolution", "FullyConnected"}
    assert all("u8" in precisions or "i8" in precisions for precisions in ran.values())


def test_weights_read_back_are_the_checkpoints(
    tiny_checkpoint: Path, int8: Package, w8: Package
) -> None:
    tensors = open_source(tiny_checkpoint, None).tensors["unet"]
    for package in (int8, w8):
        weights = package.manifest.weights["unet"]
        assert set(own_tensors(weights)) == set(tensors.infos())
        for name in own_tensors(weights):
            given = tensors.read(name).astype(np.float32)
            found = read_tensor(package, "unet", name)
            limit = 0.02 if weights.tensors[name].dtype == "int8" else 2e-3
            assert np.abs(found - given).max() <= limit * max(1e-3, np.abs(given).max()), name


def test_factors_change_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A recipe of factors alone gives the same function, up to rounding."""
    checkpoint = open_source(tiny_checkpoint, None)
    part = next(item for item in components(checkpoint) if item.name == "unet")
    graph = plain_graph(part)
    rng = np.random.default_rng(0)
    draft = quantize._Draft()
    folded = 0
    for value, folds in graph.folds.items():
        users = [use for use in graph.layers.values() if use.input == value]
        if users and quantize._only_layers(graph, value, users):
            factors = rng.uniform(0.25, 4.0, users[0].shape[1]).astype(np.float32)
            quantize._fold(draft, graph, folds, users, factors)
            folded += 1
    assert folded >= 8
    recipe = Recipe(
        {name: Layer("fp16") for name in graph.layers}, draft.factors, draft.rows, draft.columns
    )
    outputs = []
    for index, each in enumerate((Recipe(), recipe)):
        plan = plan_component(part, "fp32", each)
        folder = tmp_path / str(index)
        (folder / "unet").mkdir(parents=True)
        write_weights(
            folder / "unet" / "weights.bin",
            plan.needs,
            plan.entries,
            checkpoint.tensors["unet"],
            "unet/weights.bin",
            recipe=each,
        )
        sizes = {"batch": 1, "tokens": 77, **dict.fromkeys(("height", "width"), 4)}
        sizes |= {"height_2": 2, "width_2": 2}
        (artifact,) = [a for a in write_graphs(plan, folder, sizes) if a.variant == "plain"]
        runtime, (device, *_) = registry.get("onnxruntime"), registry.probe("onnxruntime")
        session = runtime.load(artifact, folder, device, LoadOptions())
        fixed = np.random.default_rng(1)
        outputs.append(
            session.run(
                {
                    "sample": fixed.standard_normal((1, 4, 4, 4), np.float32),
                    "timestep": np.array([500], np.float32),
                    "encoder_hidden_states": fixed.standard_normal((1, 77, 16), np.float32),
                }
            )["out_sample"]
        )
        session.close()
    np.testing.assert_allclose(outputs[0], outputs[1], atol=2e-4 * np.abs(outputs[0]).max())


def test_sensitive_layers() -> None:
    assert kept_apart("conv_in") and kept_apart("decoder.conv_out")
    assert kept_apart("time_embedding.linear_1")
    assert kept_apart("mid_block.resnets.0.time_emb_proj")
    assert not kept_apart("mid_block.resnets.0.conv1")


def record_of(rows: Array, *uses: LayerUse) -> Record:
    return Record(uses, rows.min(axis=0), rows.max(axis=0), [rows.astype(np.float32)])


def graph_of(*uses: LayerUse) -> Graph:
    graph = Graph()
    graph.layers = {use.name: use for use in uses}
    return graph


def test_a_layer_with_a_large_error_stays_in_16_bits() -> None:
    rng = np.random.default_rng(0)
    even = rng.standard_normal((400, 16)).astype(np.float32)
    wild = even.copy()
    wild[:, 0] *= 3000  # one step for all channels rounds the others away
    weights = {"even.weight": rng.standard_normal((8, 16)).astype(np.float32)}
    weights["wild.weight"] = weights["even.weight"].copy()
    weights["wild.weight"][:, 0] = 0
    uses = [LayerUse(name, name, f"{name}/out", (8, 16), False) for name in ("even", "wild")]
    records = {
        "even": record_of(even, uses[0]),
        "wild": record_of(wild, uses[1]),
    }
    recipe = quantize.quantize(graph_of(*uses), records, weights.__getitem__)
    assert recipe.layers["even"].precision == "w8a8"
    assert recipe.layers["even"].error < 0.02
    assert recipe.layers["wild"] == Layer(
        "fp16", error=recipe.layers["wild"].error, why="large error in 8 bits"
    )
    assert recipe.layers["wild"].error > 0.3
    told = quantize.quantize(graph_of(*uses), records, weights.__getitem__, kept={"even": "asked"})
    assert told.layers["even"] == Layer("fp16", why="asked")
    missing = quantize.quantize(graph_of(*uses), {}, weights.__getitem__)
    assert missing.layers["even"].why == "not reached in calibration"


def test_zero_is_met_exactly_and_ranges_hold_the_extremes() -> None:
    rows = np.linspace(-0.3, 6.0, 4096, dtype=np.float32).reshape(-1, 16)
    use = LayerUse("a", "x", "y", (4, 16), False)
    found = quantize._choice(record_of(rows, use), {"a": np.ones((4, 16), np.float32)}, 0.0)
    zero = np.zeros(3, np.float32)
    assert (found.rounded(zero) == 0).all()
    assert 0 < found.zero_point < 255
    assert found.rounded(np.array([100.0], np.float32))[0] >= 0.75 * 6.0


def test_smoothing_moves_what_is_difficult_into_the_weights() -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((512, 16)).astype(np.float32)
    rows[:, 3] *= 60
    weight = rng.standard_normal((32, 16)).astype(np.float32)
    weight[:, 3] /= 60
    use = LayerUse("a", "x", "y", (32, 16), False)
    record = record_of(rows, use)
    plain, _ = quantize._best(record, [use], {"a": weight}, (0.0,))
    smooth, errors = quantize._best(record, [use], {"a": weight}, quantize.STRENGTHS)
    assert plain.factors is None and smooth.factors is not None
    assert smooth.factors[3] == smooth.factors.max()
    assert errors["a"] < 0.5 * quantize._error(record, use, weight, plain)


def test_ranges_that_are_not_finite_name_the_layer() -> None:
    use = LayerUse("mid_block.attn", "x", "y", (4, 4), False)
    statistics = Statistics({"unet": graph_of(use)}, {"unet": 1})
    good = np.ones((1, 3, 4), np.float32)
    statistics.watch("unet", "x", good)
    for bad in (np.nan, np.inf, -np.inf):
        broken = good.copy()
        broken[0, 1, 2] = bad
        with pytest.raises(CalibrationFailed, match=r"unet: layer mid_block\.attn took in"):
            statistics.watch("unet", "x", broken)


def test_a_checkpoint_with_numbers_that_are_none_is_refused(tmp_path: Path) -> None:
    """From the file to the error: the layer after the one whose weights are broken is named."""
    source = make_tiny_checkpoint(tmp_path / "tiny")
    (path,) = (source / "unet").glob("*.safetensors")
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    start, _ = json.loads(data[8 : 8 + length])[LAYER]["data_offsets"]
    data[8 + length + start : 12 + length + start] = np.float32(np.nan).tobytes()
    path.write_bytes(data)
    with pytest.raises(
        CalibrationFailed,
        match=r"unet: layer down_blocks\.0\.resnets\.0\.conv2 took in numbers that are not finite",
    ):
        export_package(source, tmp_path / "int8", precision="int8")
    assert not (tmp_path / "int8").exists()


def test_windows_are_what_a_convolution_sees() -> None:
    use = LayerUse("c", "x", "y", (3, 2, 3, 3), True, 2, (0, 0, 1, 1))
    image = np.random.default_rng(3).standard_normal((1, 2, 6, 8)).astype(np.float16)
    statistics = Statistics({"unet": graph_of(use)}, {"unet": 1})
    statistics.watch("unet", "x", image.astype(np.float32))
    windows = statistics.records["unet", "x"].windows("c")
    padded = np.pad(image[0], ((0, 0), (0, 1), (0, 1))).astype(np.float32)
    places = {
        padded[:, y : y + 3, x : x + 3].tobytes() for y in range(0, 5, 2) for x in range(0, 7, 2)
    }
    assert {window.reshape(2, 3, 3).tobytes() for window in windows} == places


def test_prompts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("  a cat \n\na dog\n", encoding="utf-8")
    assert calibrate.read_prompts(path) == ("a cat", "a dog")
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(SourceError, match="has 0 prompts; calibration takes 1 to 256"):
        calibrate.read_prompts(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match="not UTF-8"):
        calibrate.read_prompts(path)
    with pytest.raises(SourceError, match="cannot read calibration prompts"):
        calibrate.read_prompts(tmp_path / "missing.txt")


def test_int8_needs_an_engine(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: str) -> None:
        raise RuntimeUnavailable("not here", "install it")

    monkeypatch.setattr(registry, "probe", missing)
    with pytest.raises(RuntimeUnavailable, match=r"int8 needs an engine.*precision w8 needs none"):
        export_package(tiny_checkpoint, tmp_path / "package", precision="int8")
    assert not (tmp_path / "package").exists()


def test_unknown_precisions_name_the_known(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"int4.*fp32, fp16, int8, w8"):
        export_package(tiny_checkpoint, tmp_path / "package", precision="int4")


def test_weights_alone_leave_activations(tiny_checkpoint: Path) -> None:
    part = next(i for i in components(open_source(tiny_checkpoint, None)) if i.name == "unet")
    recipe = weights_only(plain_graph(part))
    plan = plan_component(part, "w8", recipe)
    operations = {node.op for graph in plan.graphs.values() for node in graph.nodes}
    assert "DequantizeLinear" in operations and "QuantizeLinear" not in operations
    assert replace(recipe.layers["conv_in"], why="") == Layer("fp16")


def test_inspect_says_how_many_layers(int8: Package, w8: Package) -> None:
    found = {part.name: part for part in inspect_path(int8.root).components}
    layers = int8.manifest.weights["unet"].layers.values()
    narrow = sum(layer.precision == "w8a8" for layer in layers)
    assert found["unet"].precision == f"int8 ({narrow} of {len(layers)} layers)"
    assert found["vae_encoder"].precision == "fp16"
    other = {part.name: part for part in inspect_path(w8.root).components}
    assert other["unet"].precision.startswith("w8 (")
    assert other["unet"].parameters == found["unet"].parameters
