"""Merging checkpoints: A1111's two formulas, streamed, complete or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sdlite_export.merge import merge_checkpoints
from sdlite_export.source import open_source

from sdlite.cli import main
from sdlite.errors import Cancelled, OutputError, RequestError, SourceError, UnknownName
from sdlite.tensors.safetensors import open_safetensors
from tests.export.makers import TorchFile, ldm_model, safetensors_bytes

Model = dict[str, Any]
CONV = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def models() -> tuple[Model, Model, Model]:
    return ldm_model(1), ldm_model(2), ldm_model(3)


def write(path: Path, tensors: Model, bf16: bool = False) -> Path:
    path.write_bytes(safetensors_bytes(tensors, bf16=bf16))
    return path


def read(path: Path) -> Model:
    file = open_safetensors(path)
    return {name: file.read(name) for name in file.infos()}


def wide(tensors: Model, name: str) -> Any:
    return tensors[name].astype(np.float32)


def test_a_weighted_sum(tmp_path: Path, models: tuple[Model, Model, Model]) -> None:
    a, b, _ = models
    paths = write(tmp_path / "a.safetensors", a), write(tmp_path / "b.safetensors", b)
    dest = tmp_path / "made" / "sum.safetensors"
    report = merge_checkpoints(*paths, dest, multiplier=0.25)
    found = read(dest)
    assert list(found) == list(a) and report.size == dest.stat().st_size
    for name, array in found.items():
        assert array.dtype == a[name].dtype and array.shape == a[name].shape
        if a[name].dtype.kind == "f":
            expected = wide(a, name) * np.float32(0.75) + wide(b, name) * np.float32(0.25)
            assert (array == expected.astype(a[name].dtype)).all(), name
        else:
            assert (array == a[name]).all()
    recipe = json.loads(open_safetensors(dest).metadata["sd_merge_recipe"])
    assert recipe["interp_method"] == "Weighted sum" and recipe["multiplier"] == 0.25
    assert recipe["secondary_model"] == "b.safetensors"
    # What was made is a checkpoint like any other.
    assert open_source(dest).family == "sd1"
    assert (report.merged, report.kept) == (len(a) - 1, 1)


def test_adding_a_difference(tmp_path: Path, models: tuple[Model, Model, Model]) -> None:
    a, b, c = models
    file = TorchFile()
    second = file.write(tmp_path / "b.ckpt", {n: file.tensor(array) for n, array in b.items()})
    first, base = write(tmp_path / "a.safetensors", a), write(tmp_path / "c.safetensors", c)
    dest = tmp_path / "d.safetensors"
    merge_checkpoints(first, second, dest, minus=base, multiplier=-1.5, precision="fp32")
    found = read(dest)
    for name, array in found.items():
        if a[name].dtype.kind == "f":
            expected = wide(a, name) + (wide(b, name) - wide(c, name)) * np.float32(-1.5)
            assert array.dtype == np.float32 and (array == expected).all(), name


def test_a_plain_model_is_merged_into_the_first_channels_of_an_inpainting_one(
    tmp_path: Path, models: tuple[Model, Model, Model]
) -> None:
    a, b, _ = models
    inpainting = {**a, CONV: np.tile(a[CONV], (1, 3, 1, 1))[:, :9]}
    paths = write(tmp_path / "a.safetensors", inpainting), write(tmp_path / "b.safetensors", b)
    dest = tmp_path / "m.safetensors"
    merge_checkpoints(*paths, dest)
    found = read(dest)[CONV]
    half = ((wide(a, CONV) + wide(b, CONV)) * np.float32(0.5)).astype(np.float16)
    assert (found[:, :4] == half).all()
    assert (found[:, 4:] == inpainting[CONV][:, 4:]).all()
    assert open_source(dest).task == "inpaint"
    with pytest.raises(SourceError, match="put the inpainting model first"):
        merge_checkpoints(paths[1], paths[0], tmp_path / "other.safetensors")


def test_precisions(tmp_path: Path, models: tuple[Model, Model, Model]) -> None:
    a, b, _ = models
    first = write(tmp_path / "a.safetensors", a, bf16=True)
    second = write(tmp_path / "b.safetensors", b)
    dest = tmp_path / "m.safetensors"
    merge_checkpoints(first, second, dest)
    info = open_safetensors(dest).infos()[CONV]
    assert info.dtype == "bfloat16"
    rounded = open_safetensors(first).read(CONV)
    expected = (rounded + wide(b, CONV)) * np.float32(0.5)
    assert np.abs(read(dest)[CONV] - expected).max() <= 2.0**-8 * np.abs(expected).max()
    large = {**b, CONV: np.full(b[CONV].shape, 1e6, np.float32)}
    write(second, large)
    with pytest.raises(SourceError, match=r"beyond float16; choose --precision fp32 or bf16"):
        merge_checkpoints(first, second, dest, precision="fp16", force=True)
    assert open_safetensors(dest).infos()[CONV].dtype == "bfloat16"  # the old file is untouched
    merge_checkpoints(first, second, dest, precision="bf16", force=True)
    assert read(dest)[CONV].max() > 4e5


def test_averages_are_left_out_and_what_one_lacks_is_told(
    tmp_path: Path, models: tuple[Model, Model, Model]
) -> None:
    a, b, _ = models
    averages = {"model_ema.diffusion_modelout0bias": np.ones(32, np.float16)}
    some = {n: array for n, array in b.items() if not n.startswith("cond_stage_model.")}
    dest = tmp_path / "m.safetensors"
    report = merge_checkpoints(
        write(tmp_path / "a.safetensors", {**a, **averages}),
        write(tmp_path / "b.safetensors", some),
        dest,
    )
    assert not any(name.startswith("model_ema") for name in read(dest))
    assert "1 tensors of moving averages (EMA) are left out" in report.notes
    assert any("weights that b.safetensors does not have are a.s" in note for note in report.notes)


def test_nothing_is_left_of_a_merge_that_stops(
    tmp_path: Path, models: tuple[Model, Model, Model]
) -> None:
    a, b, _ = models
    paths = write(tmp_path / "a.safetensors", a), write(tmp_path / "b.safetensors", b)

    def stop(label: str, done: int, total: int) -> None:
        if done > total // 2:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        merge_checkpoints(*paths, tmp_path / "m.safetensors", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_what_cannot_be_merged_is_told(tmp_path: Path, models: tuple[Model, Model, Model]) -> None:
    a, b, _ = models
    first, second = write(tmp_path / "a.safetensors", a), write(tmp_path / "b.safetensors", b)
    dest = tmp_path / "m.safetensors"
    with pytest.raises(RequestError, match=r"multiplier 1\.5 is not between 0 and 1"):
        merge_checkpoints(first, second, dest, multiplier=1.5)
    with pytest.raises(RequestError, match="multiplier nan is not between -2 and 2"):
        merge_checkpoints(first, second, dest, multiplier=float("nan"), minus=first)
    with pytest.raises(RequestError, match=r"does not end in \.safetensors"):
        merge_checkpoints(first, second, tmp_path / "m.ckpt")
    with pytest.raises(UnknownName, match="fp8"):
        merge_checkpoints(first, second, dest, precision="fp8")
    with pytest.raises(OutputError, match="exists; give another name, or --force"):
        merge_checkpoints(first, second, second)
    with pytest.raises(SourceError, match="is no file; merge takes single files"):
        merge_checkpoints(tmp_path, second, dest)
    shorter = {**b, CONV: b[CONV][:8]}
    with pytest.raises(
        SourceError, match=r"c\.safetensors: .* shape \[8, 4, 3, 3\], \[32, 4, 3, 3\]"
    ):
        merge_checkpoints(first, write(tmp_path / "c.safetensors", shorter), dest)
    lora = {"lora_unet_a.lora_up.weight": np.zeros((4, 2), np.float16)}
    with pytest.raises(SourceError, match=r"have 0 weights of \d+ in common"):
        merge_checkpoints(first, write(tmp_path / "l.safetensors", lora), dest)
    assert not dest.exists()


def test_the_command(tmp_path: Path, models: tuple[Model, Model, Model]) -> None:
    a, b, _ = models
    first, second = write(tmp_path / "a.safetensors", a), write(tmp_path / "b.safetensors", b)
    dest = tmp_path / "m.safetensors"
    command = ["merge", str(first), str(second), str(dest), "--multiplier", "0.3"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{dest}\n" and "tensors mixed, 1 kept" in done.stderr
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1 and "--force" in again.stderr
    told = CliRunner().invoke(main, [*command, "--force", "--json"])
    assert json.loads(told.stdout)["merged"] == len(a) - 1
