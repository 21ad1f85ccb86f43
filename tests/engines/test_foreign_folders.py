"""Hand-made folders in optimum's and diffusers' layouts, drawn from by ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite.engine import LoadOptions, TensorSpec
from sdlite.errors import NoPlan, PackageMissing, RequestError
from sdlite.foreign import open_foreign
from sdlite.ports import EncoderPort
from sdlite.registry import devices, get
from tests.engines import graphs

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

WIDTH = 8
LATENTS = ("batch", 4, "height", "width")


def constant(name: str, value: np.ndarray) -> object:
    return numpy_helper.from_array(value, name)


def text_encoder(root: Path, ids: str) -> None:
    table = np.random.default_rng(0).standard_normal((520, WIDTH)).astype(np.float32)
    graphs.save(
        root,
        "text_encoder/model.onnx",
        [
            helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"]),
            helper.make_node(
                "ReduceMax", ["last_hidden_state", "one"], ["pooler_output"], keepdims=0
            ),
        ],
        [TensorSpec("input_ids", ids, ("batch", "sequence"))],
        [
            TensorSpec("last_hidden_state", "float32", ("batch", "sequence", WIDTH)),
            TensorSpec("pooler_output", "float32", ("batch", WIDTH)),
        ],
        [constant("table", table), constant("one", np.array([1], np.int64))],
    )


def unet(root: Path, timestep: TensorSpec) -> None:
    """Noise is the sample plus a colour of the prompt's, a little more of it early."""
    colours = np.random.default_rng(1).standard_normal((WIDTH, 4)).astype(np.float32) / 50
    (root / "unet").mkdir(parents=True, exist_ok=True)
    (root / "unet" / "weights.pb").write_bytes(colours.tobytes())
    nodes = [
        helper.make_node("ReduceMean", ["encoder_hidden_states", "one"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "colours"], ["colour"]),
        helper.make_node("Unsqueeze", ["colour", "sides"], ["wide"]),
        helper.make_node("Cast", ["timestep"], ["t"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["t", "column"], ["times"]),
        helper.make_node("Greater", ["times", "half"], ["early"]),
        helper.make_node("Cast", ["early"], ["share"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["share", "bias"], ["factor"]),
        helper.make_node("Mul", ["wide", "factor"], ["shift"]),
        helper.make_node("Add", ["sample", "shift"], ["out_sample"]),
    ]
    graphs.save(
        root,
        "unet/model.onnx",
        nodes,
        [
            TensorSpec("sample", "float32", LATENTS),
            timestep,
            TensorSpec("encoder_hidden_states", "float32", ("batch", "sequence", WIDTH)),
        ],
        [TensorSpec("out_sample", "float32", LATENTS)],
        [
            graphs.external("colours", colours, "weights.pb"),
            constant("one", np.array([1], np.int64)),
            constant("sides", np.array([2, 3], np.int64)),
            constant("column", np.array([-1, 1, 1, 1], np.int64)),
            constant("half", np.array(500, np.float32)),
            constant("bias", np.array(0.5, np.float32)),
        ],
    )


def vae(root: Path, encoded: str, batch: int | str) -> None:
    to_colours = np.random.default_rng(2).standard_normal((3, 4, 1, 1)).astype(np.float32) / 16
    graphs.save(
        root,
        "vae_decoder/model.onnx",
        [
            helper.make_node("Conv", ["latent_sample", "colours"], ["small"]),
            helper.make_node("Resize", ["small", "", "scales"], ["sample"], mode="nearest"),
        ],
        [TensorSpec("latent_sample", "float32", (batch, *LATENTS[1:]))],
        [TensorSpec("sample", "float32", (batch, 3, "image_height", "image_width"))],
        [
            constant("colours", to_colours),
            constant("scales", np.array([1, 1, 8, 8], np.float32)),
        ],
    )
    channels = 4 if encoded == "latent_sample" else 8
    to_latents = np.random.default_rng(3).standard_normal((channels, 3, 8, 8)).astype(np.float32)
    graphs.save(
        root,
        "vae_encoder/model.onnx",
        [helper.make_node("Conv", ["sample", "latents"], [encoded], strides=[8, 8])],
        [TensorSpec("sample", "float32", ("batch", 3, "image_height", "image_width"))],
        [TensorSpec(encoded, "float32", ("batch", channels, "height", "width"))],
        [constant("latents", to_latents)],
    )


def common(root: Path, kind: str) -> Path:
    source = write_null_package(root.parent / f"{root.name}-tokenizer")
    root.mkdir(exist_ok=True)
    (source / "tokenizer").rename(root / "tokenizer")
    (root / "scheduler").mkdir()
    scheduler = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (root / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    return root


@pytest.fixture
def diffusers_folder(tmp_path: Path) -> Path:
    root = tmp_path / "diffusers"
    text_encoder(root, "int32")
    unet(root, TensorSpec("timestep", "float32", ("batch",)))
    vae(root, "latent_sample", "batch")
    return common(root, "OnnxStableDiffusionPipeline")


@pytest.fixture
def optimum_folder(tmp_path: Path) -> Path:
    root = tmp_path / "optimum"
    text_encoder(root, "int64")
    unet(root, TensorSpec("timestep", "int64", ()))
    vae(root, "latent_parameters", 1)
    return common(root, "StableDiffusionPipeline")


def draw(folder: Path, **how: object) -> np.ndarray:
    with sdlite.load(folder, threads=1, **how) as pipe:  # type: ignore[arg-type]
        result = pipe.generate(
            "a red circle", seed=5, width=64, height=48, steps=4, guidance=2.0, images=2
        )
    assert [picture.size for picture in result.images] == [(64, 48)] * 2
    return np.stack([np.asarray(picture) for picture in result.images])


@pytest.fixture
def intel_folder(optimum_folder: Path) -> Path:
    """The same as optimum-intel lays it out: each graph as OpenVINO writes it, weights in fp16."""
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    core = openvino.Core()
    for graph in optimum_folder.glob("*/model.onnx"):
        model = core.read_model(str(graph))
        openvino.save_model(model, graph.with_name("openvino_model.xml"))
        graph.unlink()
    (optimum_folder / "unet" / "weights.pb").unlink()
    return optimum_folder


def test_an_openvino_folder_opens_as_it_is(intel_folder: Path, diffusers_folder: Path) -> None:
    package = open_foreign(intel_folder)
    (unet,) = package.find("unet", "plain", format="openvino")
    assert unet.weights == "unet/openvino_model.bin" and unet.precision == "fp16"
    ports = {spec.name: (spec.dtype, spec.shape) for spec in (*unet.inputs, *unet.outputs)}
    assert ports == {
        "sample": ("float32", ("batch", 4, "height", "width")),
        "timestep": ("int64", ()),
        "encoder_hidden_states": ("float32", ("batch", "tokens", WIDTH)),
        "out_sample": ("float32", ("batch", 4, "height", "width")),
    }
    with sdlite.load(intel_folder, threads=1, cache_limit=0) as pipe:
        plan = pipe.plan(sdlite.Request("a red circle", width=64, height=48))
    placed = plan.placement("unet")
    assert placed.device.runtime == "openvino"
    assert (placed.options.dimensions["height"], placed.options.dimensions["width"]) == (6, 8)
    pictures = draw(intel_folder, precision="fp32", cache_limit=0)
    # Weights in fp16 move some colours by a step or two.
    assert np.abs(pictures.astype(int) - draw(diffusers_folder)).mean() < 1


def test_an_openvino_folder_is_compiled_once(intel_folder: Path, tmp_path: Path) -> None:
    (artifact,) = open_foreign(intel_folder).find("vae_decoder", "plain", format="openvino")
    runtime, device = get("openvino"), devices("openvino", ("openvino",))[0]
    options = LoadOptions(
        cache=tmp_path / "cache", dimensions={"batch": 1, "height": 6, "width": 8}
    )
    latents = np.random.default_rng(5).standard_normal((1, 4, 6, 8)).astype(np.float32)
    found = []
    for _ in range(2):
        session = runtime.load(artifact, intel_folder, device, options)
        assert session.inputs[0].shape == (1, 4, 6, 8)
        found.append(session.run({"latent_sample": latents})["sample"])
        assert not session.report.notes
        session.close()
    np.testing.assert_array_equal(*found)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_only_openvino_reads_an_openvino_folder(intel_folder: Path) -> None:
    with pytest.raises(RequestError, match="has openvino graphs, which onnxruntime cannot read"):
        sdlite.load(intel_folder, runtime="onnxruntime")
    (intel_folder / "unet" / "openvino_model.bin").unlink()
    with pytest.raises(PackageMissing, match=r"openvino_model\.bin, the weights of"):
        open_foreign(intel_folder)


def test_both_layouts_draw_the_same(diffusers_folder: Path, optimum_folder: Path) -> None:
    pictures = draw(diffusers_folder)
    assert pictures.std() > 10
    assert np.mean((pictures == 0) | (pictures == 255)) < 0.2
    assert not np.array_equal(pictures[0], pictures[1])
    # Only the timestep's rounding to integers differs, and this U-Net looks at it coarsely.
    np.testing.assert_array_equal(pictures, draw(optimum_folder))


def test_mapped_draws_the_same(optimum_folder: Path) -> None:
    np.testing.assert_array_equal(draw(optimum_folder), draw(optimum_folder, memory_mode="mapped"))


def test_budget_counts_external_weights(diffusers_folder: Path) -> None:
    with sdlite.load(diffusers_folder, max_memory=1 << 20) as pipe, pytest.raises(NoPlan):
        pipe.generate("a red circle", width=64, height=64)


def test_encoders(diffusers_folder: Path, optimum_folder: Path) -> None:
    runtime, device = get("onnxruntime"), devices("onnxruntime")[0]
    picture = np.random.default_rng(4).standard_normal((2, 3, 16, 24)).astype(np.float32)
    found = []
    for folder in (diffusers_folder, optimum_folder):
        (artifact,) = open_foreign(folder).find("vae_encoder", "plain")
        port = EncoderPort(runtime.load(artifact, folder, device, LoadOptions()))
        found.append(port.encode(picture))
        assert found[-1].mean.shape == (2, 4, 2, 3)
    assert found[0].logvar is None
    assert found[1].logvar is not None
    assert found[1].logvar.shape == (2, 4, 2, 3)
