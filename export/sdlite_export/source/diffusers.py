"""Read diffusers model folders: ``model_index.json`` and one folder a component."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sdlite.errors import SourceCorrupt, SourceError, UnknownFamily
from sdlite_export.source import pickle
from sdlite_export.source.checkpoint import (
    Checkpoint,
    Component,
    SourceHash,
    Tensors,
    short,
)
from sdlite_export.source.diffusers_config import (
    check_length,
    read_scheduler,
    read_text,
    read_unet,
    read_vae,
)
from sdlite_export.source.files import plain_name, read_json
from sdlite_export.source.gather import SUPPORTED, Found, gather
from sdlite_export.source.layout import Slot, text_slots, unet_slots, vae_slots
from sdlite_export.source.recommended import read_defaults, read_latent
from sdlite_export.source.safetensors import open_safetensors
from sdlite_export.source.tokenizer import read_tokenizer

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names the autoencoder's attention had in diffusers before 0.17."""


def open_diffusers(folder: Path) -> Checkpoint:
    """Describe a diffusers folder; no tensor is read.

    Weights are taken from the best file of each component: ``.safetensors``, sharded
    ``.safetensors``, their ``fp16`` variants, then ``.bin``. Raises ``SourceError``.
    """
    from sdlite_export.licence import folder_licence

    index = read_json(folder / "model_index.json")
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise UnknownFamily(
            f"{folder}: pipeline {pipeline!r} is not supported; sdlite exports {SUPPORTED}, "
            f"which diffusers calls {PIPELINES[0]}"
        )
    unet = read_unet(folder / "unet" / "config.json")
    vae = read_vae(folder / "vae" / "config.json")
    noise, prediction = read_scheduler(folder / "scheduler" / "scheduler_config.json")
    tokenizer = read_tokenizer(folder / "tokenizer")
    text = read_text(folder / "text_encoder" / "config.json", tokenizer.eos)
    check_length(str(folder), tokenizer.length, text)
    if unet.cross_dim != text.hidden_size:
        raise UnknownFamily(
            f"{folder}: the U-Net's cross-attention is {unet.cross_dim} wide, "
            f"the text encoder {text.hidden_size}"
        )
    if unet.in_channels != vae.latent_channels:
        raise UnknownFamily(
            f"{folder}: the U-Net takes {unet.in_channels} channels, the autoencoder has "
            f"{vae.latent_channels}"
        )
    latent = read_latent(folder, index, vae)
    weights: list[Path] = []
    tensors: dict[str, Tensors] = {}
    for component, stem, old_stem, slots, rename in (
        ("text_encoder", "model", "pytorch_model", text_slots(text), _text_name),
        ("unet", "diffusion_pytorch_model", "", unet_slots(unet), _same_name),
        ("vae", "diffusion_pytorch_model", "", vae_slots(vae), _vae_name),
    ):
        files = weight_files(folder / component, stem, old_stem or stem)
        weights += files
        what = f"{folder.name}/{component}"
        tensors[component] = _component(what, files, list(slots), rename)
    return Checkpoint(
        name=folder.resolve().name,
        kind="diffusers",
        family="sd1",
        prediction=prediction,
        text=text,
        unet=unet,
        vae=vae,
        tensors=tensors,
        tokenizer=tokenizer,
        noise=noise,
        latent=latent,
        defaults=read_defaults(folder, index, latent),
        licence=folder_licence(folder),
        sha256=SourceHash(folder, tuple(weights)),
    )


def weight_files(folder: Path, stem: str, old_stem: str) -> list[Path]:
    """The files that hold a component's weights, best kind first; raises ``SourceError``."""
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        variant = ".fp16" if ".fp16." in name else ""
        if (folder / name).is_file():
            return [folder / name]
        for index in (f"{name}.index.json", f"{stem}.safetensors.index{variant}.json"):
            if (folder / index).is_file():
                return _shards(folder, folder / index)
    for name in (f"{old_stem}.bin", f"{old_stem}.fp16.bin"):
        if (folder / name).is_file():
            return [folder / name]
        if (folder / f"{name}.index.json").is_file():
            return _shards(folder, folder / f"{name}.index.json")
    seen = short(path.name for path in folder.iterdir()) if folder.is_dir() else "no such folder"
    raise SourceError(
        f"{folder} has no weights: looked for {stem}.safetensors and {old_stem}.bin, "
        f"found {seen or 'nothing'}"
    )


def _shards(folder: Path, index: Path) -> list[Path]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise SourceError(f"{index}: has no weight_map; get the file again")
    files = [plain_name(folder, name) for name in sorted(set(map(str, shards.values())))]
    for file in files:
        if not file.is_file():
            raise SourceError(f"{file} is missing; {index.name} names it, get it again")
    return files


def _component(
    what: str, files: list[Path], slots: list[Slot], rename: Callable[[str], str | None]
) -> Component:
    found: dict[str, Found] = {}
    for path in files:
        source: Tensors
        if path.suffix == ".safetensors":
            source = open_safetensors(path)
        else:
            source = pickle.open_pickle(path)
        for name in source.infos():
            known = rename(name)
            if known in found:
                raise SourceCorrupt(f"{what}: tensor {known} is in two files; get them again")
            if known is not None:
                found[known] = Found(source, name)
    return gather(what, [(slot.name, slot.name, slot.shape) for slot in slots], found)


def _same_name(name: str) -> str | None:
    return name


def _vae_name(name: str) -> str | None:
    parts = name.split(".")
    if "attentions" in parts and parts[-2] in OLD_ATTENTION:
        parts[-2] = OLD_ATTENTION[parts[-2]]
    return ".".join(parts)


def _text_name(name: str) -> str | None:
    """Transformers 5 dropped the leading ``text_model``; position ids are a constant buffer."""
    if name.endswith("embeddings.position_ids"):
        return None
    if name.startswith(("text_model.", "text_projection.")):
        return name
    return f"text_model.{name}"
