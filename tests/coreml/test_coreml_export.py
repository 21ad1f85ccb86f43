"""Exported Core ML packages, read back and run by an interpreter that shares nothing with them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coremltools", reason="the extra [coreml] writes Core ML packages")
pytest.importorskip("onnxruntime", reason="the packages are compared with ONNX Runtime")
from sdlite_export.configs import ClipVisionConfig, SafetyConfig
from sdlite_export.emit.coreml.mil import Attention
from sdlite_export.emit.coreml.package import CoremlOptions, is_sensitive, plan_coreml
from sdlite_export.emit.coreml.palette import palettise
from sdlite_export.emit.coreml.tape import Tape
from sdlite_export.export import export_package, write_package
from sdlite_export.source import open_source

from sdlite.errors import RequestError, UnknownName
from sdlite.manifest import VERSION
from sdlite.package import Package
from tests.coreml.compare import Interpreted, emit, errors
from tests.coreml.interpreter import OPERATIONS
from tests.families import FAMILIES
from tests.tiny import make_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ROOT / "models" / "shapes"
FP16 = 2e-2
"""Relative error allowed for float16, as the aim of the project says."""


@pytest.fixture(scope="module")
def shapes() -> Package:
    return Package.open(SHAPES / "package")


def test_the_model_that_ships_agrees_with_onnx_runtime(tmp_path: Path, shapes: Package) -> None:
    artifacts = emit(SHAPES / "diffusers", tmp_path, CoremlOptions(size=(96, 64)))
    found = errors(tmp_path, artifacts, shapes)
    assert found.keys() == {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
    assert max(found.values()) <= FP16
    # What it is: a broken layer would still be far from this.
    assert found["unet"] <= 1e-3
    assert found["text_encoder"] <= 2e-3
    assert found["vae_decoder"] <= 5e-3


def test_split_attention_in_chunks_agrees_too(tmp_path: Path, shapes: Package) -> None:
    options = CoremlOptions("split_einsum", chunks=True, size=(64, 64))
    artifacts = emit(SHAPES / "diffusers", tmp_path, options, ["unet"])
    assert [(a.variant, a.index) for a in artifacts] == [("split_einsum", 0), ("split_einsum", 1)]
    first, second = (a.files[0].size for a in artifacts)
    assert 0.8 < first / second < 1.25
    assert errors(tmp_path, artifacts, shapes)["unet"] <= 1e-3
    used = set().union(*(Interpreted(tmp_path, artifact).program.ops for artifact in artifacts))
    assert "einsum" in used and "matmul" not in used


def test_palettes_agree_within_bounds_of_their_own(tmp_path: Path, shapes: Package) -> None:
    options = CoremlOptions(palette=4, size=(64, 64))
    artifacts = emit(SHAPES / "diffusers", tmp_path, options)
    # Text features and pictures do not stand as few bits as the U-Net.
    bits = {"text_encoder": 8, "unet": 4, "vae_decoder": 8, "vae_encoder": 8}
    assert {a.component: a.precision for a in artifacts} == {
        name: f"palette{count}" for name, count in bits.items()
    }
    stored = {a.component: a.files[0].size for a in artifacts}
    whole = sum(entry.size for entry in shapes.manifest.weights["unet"].tensors.values())
    # Vectors, sensitive layers and the palettes themselves are the rest.
    assert stored["unet"] <= whole * (4 / 16 + 0.06)
    found = errors(tmp_path, artifacts, shapes)
    bounds = {"text_encoder": 0.02, "unet": 0.05, "vae_decoder": 0.03, "vae_encoder": 0.01}
    for name, bound in bounds.items():
        assert bound / 40 <= found[name] <= bound, (name, found[name])


@pytest.mark.parametrize(
    ("name", "attention", "parts"),
    [
        ("headless", "split_einsum", ["text_encoder_2", "unet", "vae_decoder"]),
        ("sd2 v", "original", ["unet", "text_encoder"]),
        ("lcm", "split_einsum", ["unet"]),
    ],
)
def test_families_agree_at_odd_sizes(
    tmp_path: Path, name: str, attention: Attention, parts: list[str]
) -> None:
    source = make_tiny_checkpoint(tmp_path / "source", FAMILIES[name])
    (tmp_path / "onnx").mkdir()
    write_package(open_source(source), tmp_path / "onnx", "fp32")
    # 5x7 cells: every level of the U-Net rounds up on the way down.
    options = CoremlOptions(attention, size=(56, 40))
    artifacts = emit(source, tmp_path / "coreml", options, parts)
    found = errors(tmp_path / "coreml", artifacts, Package.open(tmp_path / "onnx"))
    assert max(found.values()) <= FP16
    if name == "headless":
        # Its autoencoder leaves float16's range, so it computes in float32.
        assert found["vae_decoder"] <= 1e-5


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Package:
    folder = tmp_path_factory.mktemp("coreml") / "package"
    export_package(tiny_checkpoint, folder, format="coreml", coreml=CoremlOptions(size=(48, 64)))
    return Package.open(folder)


def test_a_package_lists_every_file_of_its_graphs(exported: Package) -> None:
    exported.verify()
    manifest = exported.manifest
    assert (manifest.version, manifest.reader) == (VERSION, 3)
    assert (manifest.defaults.width, manifest.defaults.height) == (48, 64)
    assert not manifest.weights
    listed = {entry.path for entry in exported.files()}
    there = {
        path.relative_to(exported.root).as_posix()
        for path in exported.root.rglob("*")
        if path.is_file()
    }
    assert there - listed == {"sdlite.json"}
    (unet,) = exported.find("unet", "original", format="coreml")
    assert {spec.name: (spec.dtype, spec.shape) for spec in unet.inputs} == {
        "sample": ("float32", (1, 4, 8, 6)),
        "timestep": ("float32", (1,)),
        "encoder_hidden_states": ("float32", (1, 77, 16)),
    }
    (text,) = exported.find("text_encoder", "original", format="coreml")
    assert [spec.dtype for spec in text.inputs] == ["int32"]


def test_specifications_are_those_of_the_programs(exported: Package) -> None:
    for artifact in exported.manifest.artifacts:
        description = Interpreted(exported.root, artifact).program.spec.description
        for specs, ports in (
            (artifact.inputs, description.input),
            (artifact.outputs, description.output),
        ):
            assert [(s.name, s.shape) for s in specs] == [
                (p.name, tuple(p.type.multiArrayType.shape)) for p in ports
            ]


def test_apples_library_reads_the_packages_and_leaves_them_as_they_are(exported: Package) -> None:
    import coremltools

    (unet,) = exported.find("unet", "original", format="coreml")
    folder = exported.root / Path(unet.graph).parents[2]
    model = coremltools.models.MLModel(str(folder), skip_model_load=True)
    spec = model.get_spec()
    # The format of macOS 13 and iOS 16.
    assert spec.specificationVersion == 7
    assert model.short_description == "checkpoint: unet"
    exported.verify()


def test_the_same_checkpoint_gives_the_same_bytes(
    exported: Package, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    parts = ["text_encoder"]
    again = emit(tiny_checkpoint, tmp_path, CoremlOptions(size=(48, 64)), parts)
    assert again == [a for a in exported.manifest.artifacts if a.component in parts]


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_indices_of_a_palette_are_those_of_the_nearest_values(bits: int) -> None:
    rng = np.random.default_rng(bits)
    array = rng.standard_normal((37, 211)).astype(np.float16)
    palette = palettise(array, bits)
    assert palette.bits == bits and np.all(np.diff(palette.colours.astype(np.float64)) >= 0)
    places = np.abs(array.reshape(-1, 1).astype(np.float64) - palette.colours).argmin(axis=1)
    read = OPERATIONS["constexpr_lut_to_dense"](palette.indices, palette.colours, array.shape)
    nearest = palette.colours[places].reshape(array.shape)
    # Halfway between two values either will do.
    np.testing.assert_allclose(np.abs(read - array), np.abs(nearest - array), atol=1e-3)
    # Within a tenth of a decibel of the best for a normal distribution (Max 1960).
    noise = 10 * np.log10(np.square(read.astype(np.float64) - array).mean())
    assert noise <= {4: -20.1, 6: -31.6, 8: -43.2}[bits]


def test_a_palette_of_few_values_is_exact() -> None:
    array = np.array([[0.5, -1.0, 0.5, 2.0]], np.float16).repeat(2000, axis=0)
    palette = palettise(array, 4)
    read = OPERATIONS["constexpr_lut_to_dense"](palette.indices, palette.colours, array.shape)
    np.testing.assert_array_equal(read, array)


def test_sensitive_weights_are_the_first_the_last_and_time() -> None:
    yes = ("conv_in.weight", "decoder.conv_out.weight", "time_embedding.linear_1.weight")
    no = ("mid_block.resnets.0.time_emb_proj.weight", "down_blocks.0.resnets.0.conv1.weight")
    assert all(map(is_sensitive, yes)) and not any(map(is_sensitive, no))


def test_an_unknown_operation_is_no_answer(exported: Package) -> None:
    (text,) = exported.find("text_encoder", "original", format="coreml")
    session = Interpreted(exported.root, text)
    session.program.block.operations[-1].type = "something_new"
    with pytest.raises(NotImplementedError, match="something_new"):
        session.run({"input_ids": np.zeros((1, 77), np.int32)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CoremlOptions(size=(60, 64)), "size 60x64.* multiples of 8"),
        (CoremlOptions(attention="flash"), "attention 'flash'"),  # type: ignore[arg-type]
        (CoremlOptions(palette=5), "palette '5'"),
    ],
)
def test_options_that_cannot_be(
    tmp_path: Path, tiny_checkpoint: Path, options: CoremlOptions, message: str
) -> None:
    with pytest.raises((RequestError, UnknownName), match=message):
        export_package(tiny_checkpoint, tmp_path / "x", format="coreml", coreml=options)
    assert not (tmp_path / "x").exists()


def test_options_of_the_other_format(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(RequestError, match="for the format coreml"):
        export_package(tiny_checkpoint, tmp_path / "x", coreml=CoremlOptions())
    with pytest.raises(RequestError, match="stored in fp16"):
        export_package(tiny_checkpoint, tmp_path / "x", precision="fp32", format="coreml")


def test_a_safety_checker_is_left_out(tiny_checkpoint: Path) -> None:
    checkpoint = open_source(tiny_checkpoint)
    vision = ClipVisionConfig(8, 16, 1, 2, 32, 16, 8)
    tensors = {**checkpoint.tensors, "safety_checker": checkpoint.tensors["vae"]}
    checkpoint = replace(checkpoint, safety=SafetyConfig(vision, 1, 1), tensors=tensors)
    plans = plan_coreml(checkpoint, CoremlOptions())
    names = {plan.component.name for plan in plans}
    assert names == {"text_encoder", "unet", "vae_decoder", "vae_encoder"}


def test_a_graph_without_cuts_is_not_cut() -> None:
    tape = Tape({"batch": 1})
    x = tape.input("x", ("batch", 4))
    tape.output("y", tape.linear(tape.silu(x), "layer", 4))
    with pytest.raises(ValueError, match="cannot be cut into 2"):
        tape.pieces(2)


WITHOUT = """
import sys
sys.modules["coremltools"] = None
from sdlite.cli import main
sys.exit(main(["export", sys.argv[1], sys.argv[2], "--format", "coreml"]))
"""


def test_without_coremltools_it_says_how_to_get_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tiny_checkpoint), str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert 'pip install "sdlite[export,coreml]"' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


QUIET = """
import sys
from sdlite.cli import main
code = main(["export", *sys.argv[1:], "--format", "coreml", "--palette", "6", "--json"])
assert not sys.modules.keys() & {"torch", "tensorflow"}
sys.exit(code)
"""


def test_the_command_says_nothing_but_what_it_made(tmp_path: Path, tiny_checkpoint: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", QUIET, str(tiny_checkpoint), str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["precision"] == "palette6"
    assert report["sizes"].keys() == {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
