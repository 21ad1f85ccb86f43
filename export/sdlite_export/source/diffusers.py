"""Read diffusers model folders: ``model_index.json`` and one folder a component."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdlite.errors import SourceCorrupt, SourceError, UnknownFamily
from sdlite.tensors import pickle
from sdlite.tensors.base import Tensors, short
from sdlite.tensors.safetensors import open_safetensors
from sdlite_export.configs import ClipTextConfig, VaeConfig
from sdlite_export.source.checkpoint import Checkpoint, Component, SourceHash, TokenizerFiles
from sdlite_export.source.diffusers_config import (
    check_length,
    read_low_res,
    read_scheduler,
    read_text,
    read_vae,
)
from sdlite_export.source.diffusers_unet import read_unet
from sdlite_export.source.family import FIRST, SECOND, family_of
from sdlite_export.source.files import plain_name, read_json
from sdlite_export.source.gather import SUPPORTED, Found, gather
from sdlite_export.source.layout import Slot, text_slots, unet_slots, vae_slots
from sdlite_export.source.recommended import UPSCALER_SCALE, read_defaults, read_latent
from sdlite_export.source.safety import NAME as SAFETY
from sdlite_export.source.safety import read_safety
from sdlite_export.source.tokenizer import read_tokenizer

TASKS = ("", "Img2Img", "Inpaint", "InstructPix2Pix")
UPSCALES = "StableDiffusionUpscalePipeline"
PIPELINES = (
    *(f"StableDiffusion{task}Pipeline" for task in TASKS),
    UPSCALES,
    *(f"StableDiffusionXL{task}Pipeline" for task in TASKS),
    *(f"LatentConsistencyModel{task}Pipeline" for task in ("", "Img2Img")),
)
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
        parts = ", ".join(name for name in index if _has(index, name)) or "nothing"
        raise UnknownFamily(
            f"{folder}: pipeline {pipeline!r} (of {parts}) is not supported; sdlite exports "
            f"{SUPPORTED}, pipelines {', '.join(PIPELINES)}"
        )
    unet = read_unet(folder / "unet" / "config.json")
    vae = read_vae(folder / "vae" / "config.json")
    scheduler = read_scheduler(folder / "scheduler" / "scheduler_config.json")
    text: dict[str, ClipTextConfig] = {}
    tokenizers: dict[str, TokenizerFiles] = {}
    for name in (FIRST, SECOND):
        if (name == FIRST and FIRST not in index and SECOND not in index) or _has(index, name):
            tokenizer = read_tokenizer(folder / name.replace("text_encoder", "tokenizer"))
            where = folder / name / "config.json"
            text[name] = read_text(where, tokenizer.eos, norm_skipped=unet.label_dim is None)
            check_length(str(folder), name, tokenizer.length, text[name])
            tokenizers[name] = tokenizer
    family = family_of(str(folder), unet, text, vae)
    notes: tuple[str, ...] = ()
    low_res = None
    if family.task == "upscale":
        where = folder / "low_res_scheduler" / "scheduler_config.json"
        low_res = read_low_res(where, index.get("max_noise_level"), unet.class_embeds or 1)
        if vae.scale == VaeConfig.scale:
            # Its first files stated none, and diffusers takes this for them.
            vae = replace(vae, scale=UPSCALER_SCALE)
            notes = (f"the autoencoder's scale is taken to be {UPSCALER_SCALE}, as of upscalers",)
    latent = read_latent(folder, index, vae, family.name)
    weights: list[Path] = []
    tensors: dict[str, Tensors] = {}
    stem = "diffusion_pytorch_model"
    for component, stems, slots, rename in (
        *((name, ("model", "pytorch_model"), text_slots(text[name]), _text_name) for name in text),
        ("unet", (stem, stem), unet_slots(unet), _same_name),
        ("vae", (stem, stem), vae_slots(vae), vae_name),
    ):
        files = weight_files(folder / component, *stems)
        weights += files
        what = f"{folder.name}/{component}"
        tensors[component] = _component(what, files, list(slots), rename)
    safety = None
    if _has(index, SAFETY) and (folder / SAFETY / "config.json").is_file():
        files = weight_files(folder / SAFETY, "model", "pytorch_model")
        weights += files
        safety, tensors[SAFETY] = read_safety(folder / SAFETY, files)
    defaults, more = read_defaults(folder, index, latent, scheduler, unet)
    return Checkpoint(
        name=folder.resolve().name,
        kind="diffusers",
        family=family.name,
        task=family.task,
        prediction=scheduler.prediction,
        text=text,
        unet=unet,
        vae=vae,
        tensors=tensors,
        tokenizers=tokenizers,
        noise=scheduler.noise,
        latent=latent,
        defaults=defaults,
        licence=folder_licence(folder),
        sha256=SourceHash(folder, tuple(weights)),
        notes=(*notes, *more),
        safety=safety,
        force_zeros_for_empty_prompt=index.get("force_zeros_for_empty_prompt") is True,
        low_res=low_res,
    )


def _has(index: Mapping[str, Any], component: str) -> bool:
    """Whether the pipeline has a component: its entry is a library and a class, or two nulls."""
    entry = index.get(component)
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


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


def vae_name(name: str) -> str:
    """Today's name of a tensor of an autoencoder."""
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
