"""Single files of SD2 and SDXL: the same model as the diffusers folder of it, tensor by tensor.

The names come from ``benchmarks.layout``, which shares no code with the reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdlite_export.export import export_package
from sdlite_export.source import Checkpoint, open_source

from benchmarks.checkpoints import write_checkpoint, write_folder
from sdlite.errors import SourceCorrupt, UnknownFamily
from sdlite.manifest import NoiseTable
from sdlite.tensors.safetensors import open_safetensors
from tests.export.makers import TorchFile, safetensors_bytes

MODELS = ("sd21-small", "sdxl-small", "x4-small")
Model = tuple[Path, Path]


@pytest.fixture(scope="module", params=MODELS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("single")
    write_folder(folder / "folder", request.param, "fp16")
    write_checkpoint(folder / "model.safetensors", request.param, "fp16")
    return folder / "folder", folder / "model.safetensors"


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("xl")
    write_folder(folder / "folder", "sdxl-small", "fp16")
    write_checkpoint(folder / "model.safetensors", "sdxl-small", "fp16")
    return folder / "folder", folder / "model.safetensors"


def read_all(path: Path) -> dict[str, Any]:
    file = open_safetensors(path)
    return {name: file.read(name) for name in file.infos()}


def same(one: Checkpoint, other: Checkpoint) -> None:
    assert list(one.tensors) == list(other.tensors)
    for component, tensors in one.tensors.items():
        assert tensors.infos().keys() == other.tensors[component].infos().keys()
        for name, info in tensors.infos().items():
            assert other.tensors[component].infos()[name].shape == info.shape
            mine, theirs = tensors.read(name), other.tensors[component].read(name)
            assert mine.shape == info.shape and np.array_equal(mine, theirs), name


def test_a_single_file_is_the_model_of_its_folder(both: Model) -> None:
    folder, single = (open_source(path) for path in both)
    assert single.family == folder.family and single.task == folder.task
    # No tensor shows which of a U-Net's group norms has how many groups, and so on.
    assert single.unet == folder.unet
    assert replace(single.vae, force_upcast=False) == replace(folder.vae, force_upcast=False)
    assert single.text == folder.text
    assert single.force_zeros_for_empty_prompt == folder.force_zeros_for_empty_prompt
    assert [t.pad == t.eos for t in single.tokenizers.values()] == [
        t.pad == t.eos for t in folder.tokenizers.values()
    ]
    same(single, folder)


def test_sdxl_files_have_their_scale_and_size(xl: Model) -> None:
    single = open_source(xl[1])
    assert single.latent.scale == 0.13025 and single.latent.force_upcast
    assert (single.defaults.width, single.defaults.height) == (1024, 1024)
    assert single.prediction == "epsilon" and not single.notes


def test_an_upscaler_has_its_scale_size_and_noise(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "x4-small", "fp16")
    write_checkpoint(tmp_path / "x4.safetensors", "x4-small", "fp16")
    folder, single = open_source(tmp_path / "folder"), open_source(tmp_path / "x4.safetensors")
    assert single.task == folder.task == "upscale"
    assert single.prediction == folder.prediction == "v_prediction" and not single.notes
    assert single.latent == folder.latent and single.latent.factor == 4
    assert single.latent.scale == 0.08333
    assert single.noise == folder.noise == NoiseTable("scaled_linear", 0.0001, 0.02, 1000)
    assert single.low_res == folder.low_res and single.low_res is not None
    assert (single.low_res.noise, single.low_res.most, single.low_res.level) == (
        single.noise, 350, 20,
    )  # fmt: skip
    # Of small pictures of 128x128, whatever this file's own size.
    assert (single.defaults.width, single.defaults.height) == (512, 512)
    assert (single.defaults.guidance, folder.defaults.guidance) == (9.0, 9.0)
    state = read_all(tmp_path / "x4.safetensors")
    state["low_scale_model.alphas_cumprod"] = state["alphas_cumprod"] * np.float16(0.5)
    (tmp_path / "odd.safetensors").write_bytes(safetensors_bytes(state))
    with pytest.raises(UnknownFamily, match=r"noise table \(low_scale_model.alphas_cumprod"):
        open_source(tmp_path / "odd.safetensors")


def test_the_last_layer_of_sd2_is_left_out(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m.safetensors", "sd21-small", "fp16")
    single = open_source(tmp_path / "m.safetensors")
    assert single.text["text_encoder"].layers == 2  # of three
    assert single.text["text_encoder"].projection is None
    assert not any("layers.2" in name for name in single.tensors["text_encoder"].infos())


def test_a_file_with_diffusers_names(xl: Model, tmp_path: Path) -> None:
    folder = xl[0]
    state = {}
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        stem = "model" if component.startswith("text") else "diffusion_pytorch_model"
        tensors = read_all(folder / component / f"{stem}.safetensors")
        state |= {f"{component}.{name}": array for name, array in tensors.items()}
    path = tmp_path / "whole.safetensors"
    path.write_bytes(safetensors_bytes(state))
    checkpoint = open_source(path)
    assert checkpoint.family == "sdxl" and checkpoint.kind == "single-file"
    same(checkpoint, open_source(folder))


def test_a_ckpt_and_mixed_precisions(xl: Model, tmp_path: Path) -> None:
    state = read_all(xl[1])
    for name, array in state.items():
        if name.endswith("in_proj_weight") or ".input_blocks.1." in name:
            state[name] = array.astype(np.float32)
    file = TorchFile()
    value = {"state_dict": {name: file.tensor(array) for name, array in state.items()}}
    checkpoint = open_source(file.write(tmp_path / "m.ckpt", value))
    assert checkpoint.kind == "ckpt"
    dtypes = {info.dtype for info in checkpoint.tensors["unet"].infos().values()}
    assert dtypes == {"float16", "float32"}
    same(checkpoint, open_source(xl[1]))


def damaged(xl: Model, path: Path, **changes: Any) -> Path:
    state = read_all(xl[1])
    for name, change in changes.items():
        key = next(key for key in state if key.endswith(name))
        value = change(state.pop(key))
        if value is not None:
            state[key] = value
    path.write_bytes(safetensors_bytes(state))
    return path


def test_damaged_text_encoders_are_told(xl: Model, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    part = "embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"
    with pytest.raises(SourceCorrupt, match=r"text encoder 2: 3 of \d+ tensors are missing"):
        open_source(damaged(xl, path, **{part: lambda array: None}))
    with pytest.raises(SourceCorrupt, match=r"\[383, 128\].*\[128, 128\] was expected for each of"):
        open_source(damaged(xl, path, **{part: lambda array: array[:-1]}))
    with pytest.raises(UnknownFamily, match=r"labels 1632 wide; .* projection to 90; autoencoder"):
        open_source(damaged(xl, path, **{"model.text_projection": lambda array: array[:, :90]}))
    extra = "embedders.1.model.ln_final.weight"
    with pytest.raises(SourceCorrupt, match=r"final_layer_norm\.weight; the file is incomplete"):
        open_source(damaged(xl, path, **{extra: lambda array: None}))


def test_a_base_without_its_second_encoder_is_listed(xl: Model, tmp_path: Path) -> None:
    state = {name: array for name, array in read_all(xl[1]).items() if ".embedders.1." not in name}
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes(state))
    words = r"cross-attention 192 wide, labels 1632 wide; text_encoder 64 wide with 2 layers; auto"
    with pytest.raises(UnknownFamily, match=words):
        open_source(path)


@pytest.fixture
def sd2(tmp_path: Path) -> Iterator[Path]:
    write_checkpoint(tmp_path / "m.safetensors", "sd21-small", "fp16")
    yield tmp_path / "m.safetensors"


JUDGED = "output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.mark.parametrize(
    ("spread", "found", "other"),
    [(0.2, "v_prediction", "epsilon"), (0.02, "epsilon", "v_prediction")],
)
def test_what_sd2_predicts_is_judged_from_its_weights(
    sd2: Path, spread: float, found: str, other: str
) -> None:
    state = read_all(sd2)
    key = f"model.diffusion_model.{JUDGED}"
    noise = np.random.default_rng(0).standard_normal(state[key].shape)
    state[key] = (noise / noise.std() * spread).astype(np.float16)
    sd2.write_bytes(safetensors_bytes(state))
    checkpoint = open_source(sd2)
    assert checkpoint.prediction == found
    assert checkpoint.defaults.width == (768 if found == "v_prediction" else 512)
    assert f"{found}, judged from the weights" in checkpoint.notes[0]
    assert f"--prediction {other}" in checkpoint.notes[0]
    # Who knows need not be told.
    assert open_source(sd2, "epsilon").prediction == "epsilon"
    assert not open_source(sd2, "epsilon").notes
    sd2.write_bytes(safetensors_bytes(state, {"modelspec.prediction_type": other}))
    assert open_source(sd2).prediction == other


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('model:\n  params:\n    parameterization: "v"\n', "v_prediction"),
        ("model:\n  params:\n    parameterization: eps # default\n", "epsilon"),
    ],
)
def test_a_configuration_beside_the_file_is_believed(sd2: Path, text: str, found: str) -> None:
    sd2.with_suffix(".yaml").write_text(text, encoding="utf-8")
    checkpoint = open_source(sd2)
    assert checkpoint.prediction == found and not checkpoint.notes


def test_a_configuration_with_something_else_is_told(sd2: Path) -> None:
    sd2.with_suffix(".yaml").write_text("  parameterization: x0\n", encoding="utf-8")
    with pytest.raises(UnknownFamily, match=r"m\.yaml: parameterization 'x0'; known: eps, v"):
        open_source(sd2)


def test_a_projection_that_nothing_uses_does_no_harm(xl: Model, tmp_path: Path) -> None:
    state = read_all(xl[1])
    key = "conditioner.embedders.0.transformer.text_projection.weight"
    state[key] = np.zeros((48, 64), np.float16)
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes(state))
    assert open_source(path).text["text_encoder"].projection == 48
    report = export_package(path, tmp_path / "package")
    assert report.sizes["text_encoder"] > 0
