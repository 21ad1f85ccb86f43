"""Every family: recognised, exported, and its graph variants alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sdlite_export.export import export_package
from sdlite_export.inspect import inspect_path
from sdlite_export.source import open_source

from sdlite.errors import SourceCorrupt, UnknownFamily
from sdlite.manifest import MANIFEST
from sdlite.package import Package
from tests.families import EDIT, FAMILIES, INPAINT, LCM, REFINER, SD2, SD2_ZERO_SNR, SDXL
from tests.tiny import TEXT, Tiny, make_tiny_checkpoint

NARROW = ("half", "tiles")
"""Variants that compute in float16, or keep maps between graphs in it."""
EXPECTED = {
    # Family, task, least reader.
    "sd2": ("sd2", "text", 2),
    "sd2 v": ("sd2", "text", 2),
    "sd2 zero snr": ("sd2", "text", 2),
    "sdxl": ("sdxl", "text", 2),
    "refiner": ("sdxl-refiner", "text", 2),
    "pruned": ("sdxl", "text", 2),
    "headless": ("sdxl", "text", 2),
    "lcm": ("sd1", "text", 1),
    "inpaint": ("sd1", "inpaint", 2),
    "edit": ("sd1", "edit", 2),
    "xl inpaint": ("sdxl", "inpaint", 2),
    "upscale": ("sd2", "upscale", 5),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_recognised_by_what_they_are_made_of(tmp_path: Path, name: str) -> None:
    tiny = FAMILIES[name]
    checkpoint = open_source(make_tiny_checkpoint(tmp_path / "source", tiny))
    family, task, _ = EXPECTED[name]
    assert (checkpoint.family, checkpoint.task) == (family, task)
    assert checkpoint.unet == tiny.unet
    assert checkpoint.vae == tiny.vae
    assert list(checkpoint.text) == list(checkpoint.tokenizers) == list(tiny.texts)
    assert checkpoint.prediction == tiny.prediction
    assert checkpoint.latent.force_upcast == tiny.vae.force_upcast
    for component, config in tiny.texts.items():
        tokenizer = checkpoint.tokenizers[component]
        # OpenCLIP pads with `!`, the first of the vocabulary, CLIP with the end token.
        assert tokenizer.pad == (0 if config.activation == "gelu" else tokenizer.eos)


@pytest.mark.parametrize("name", ["sdxl", "refiner", "inpaint", "lcm", "upscale"])
def test_graph_variants_of_a_family_agree(tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnxruntime")
    source = make_tiny_checkpoint(tmp_path / "source", FAMILIES[name])
    report = export_package(source, tmp_path / "package")
    assert max(p.max_abs for p in report.parity if p.variant not in NARROW) <= 1e-4
    assert max(p.max_abs for p in report.parity if p.variant in NARROW) <= 0.05
    package = Package.open(tmp_path / "package")
    assert bool(package.find("vae_decoder", "half")) is (not package.manifest.latent.force_upcast)
    stated = json.loads((package.root / MANIFEST).read_text(encoding="utf-8"))
    family, task, reader = EXPECTED[name]
    assert (stated["family"], stated.get("task", "text"), stated["reader"]) == (
        family,
        task,
        reader,
    )
    found = inspect_path(package.root, verify=True)
    assert (found.family, found.task) == (family, task)
    texts = [part.name for part in found.components if part.name.startswith("text")]
    assert texts == list(FAMILIES[name].texts)


def test_two_tokenizers_that_hold_the_same_are_stored_once(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source", SDXL)
    export_package(source, tmp_path / "package")
    first, second = Package.open(tmp_path / "package").manifest.tokenizers
    assert (first.name, second.name) == ("tokenizer", "tokenizer_2")
    assert first.files == second.files and first.pad != second.pad
    assert not (tmp_path / "package" / "tokenizer_2").exists()


def test_defaults_follow_what_a_model_is(tmp_path: Path) -> None:
    def defaults(name: str, tiny: Tiny, scheduler: str | None = None) -> tuple[object, ...]:
        folder = make_tiny_checkpoint(tmp_path / name, tiny)
        if scheduler is not None:
            path = folder / "scheduler" / "scheduler_config.json"
            config = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps({**config, "_class_name": scheduler}), encoding="utf-8")
        checkpoint = open_source(folder)
        found = checkpoint.defaults
        values = (found.steps, found.guidance, found.sampler, found.schedule)
        return (*values, found.guidance_rescale, len(checkpoint.notes))

    assert defaults("plain", SDXL) == (20, 7.0, "DPM++ 2M", "Automatic", 0.0, 0)
    assert defaults("hyperrealism", SDXL)[0] == 20
    assert defaults("sdxl_lightning_8step", SDXL) == (8, 1.0, "Euler", "SGM Uniform", 0.0, 1)
    assert defaults("Hyper-SD15-TCD-8steps", SDXL)[:3] == (8, 1.0, "Euler")
    assert defaults("sdxl-tcd-4steps", SDXL)[:3] == (4, 1.0, "TCD")
    assert defaults("sd-turbo", SD2) == (4, 1.0, "Euler a", "Automatic", 0.0, 1)
    assert defaults("Hyper-SD15-1step", LCM)[2] == "LCM"
    assert defaults("lcm", LCM) == (4, 8.0, "LCM", "Automatic", 0.0, 0)
    assert defaults("merged", SDXL, "LCMScheduler") == (4, 1.0, "LCM", "Automatic", 0.0, 1)
    assert defaults("zero", SD2_ZERO_SNR) == (20, 7.0, "Euler", "SGM Uniform", 0.7, 0)


def test_prediction_can_be_overridden(tmp_path: Path) -> None:
    source = make_tiny_checkpoint(tmp_path / "source", SD2)
    export_package(source, tmp_path / "package", prediction="v_prediction")
    assert Package.open(tmp_path / "package").manifest.prediction == "v_prediction"


MISFITS = {
    "labels without a second encoder": (
        replace(SDXL, text_2=None),
        r"cross-attention 40 wide, labels 68 wide; text_encoder 16 wide with 3 layers",
    ),
    "two encoders without labels": (
        replace(SDXL, unet=replace(SDXL.unet, label_dim=None)),
        r"no labels; text_encoder 16 .*, text_encoder_2 24 wide with 3 layers and projection to 20",
    ),
    "labels of another width": (
        replace(SDXL, unet=replace(SDXL.unet, label_dim=20 + 7 * 8)),
        "labels 76 wide",
    ),
    "the refiner's labels with base encoders": (
        replace(SDXL, unet=replace(SDXL.unet, label_dim=REFINER.unet.label_dim)),
        "labels 60 wide",
    ),
    "channels of no task": (
        replace(EDIT, unet=replace(EDIT.unet, in_channels=7)),
        "U-Net of 7 channels in and 4 out",
    ),
    "another text encoder": (
        replace(INPAINT, text=replace(TEXT, hidden_size=32)),
        "cross-attention 16 wide, no labels; text_encoder 32 wide",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_fits_no_family_is_listed(tmp_path: Path, name: str) -> None:
    tiny, words = MISFITS[name]
    with pytest.raises(UnknownFamily, match=words) as caught:
        open_source(make_tiny_checkpoint(tmp_path / "source", tiny))
    assert "Stable Diffusion 1.x, 2.x and XL" in str(caught.value)


def test_a_truncated_shard_is_told(tmp_path: Path) -> None:
    folder = make_tiny_checkpoint(tmp_path / "source", SDXL) / "unet"
    whole = folder / "diffusion_pytorch_model.safetensors"
    shard = folder / "diffusion_pytorch_model-00001-of-00001.safetensors"
    whole.rename(shard)
    index = {"weight_map": {"conv_in.weight": shard.name}}
    (folder / f"{whole.name}.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert open_source(folder.parent).family == "sdxl"
    with shard.open("r+b") as stream:
        stream.truncate(shard.stat().st_size - 100)
    with pytest.raises(SourceCorrupt, match=r"00001-of-00001\.safetensors: .*truncated"):
        open_source(folder.parent)
