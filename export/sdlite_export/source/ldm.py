"""Read single-file checkpoints: Stable Diffusion 1, 2 or XL in one file.

In LDM's layout the file holds the U-Net under ``model.diffusion_model.``, the autoencoder under
``first_stage_model.`` and text encoders under ``cond_stage_model.`` or ``conditioner.embedders.``;
files with diffusers' names have ``unet.``, ``vae.``, ``text_encoder.``. All numbers are derived
from the tensors' shapes. Files of GGML (``.gguf``), as stable-diffusion.cpp writes them, keep the
names of what they were made from. Training checkpoints also hold a moving average of the U-Net
(EMA) under ``model_ema.``, its names without dots. As in the Stable Diffusion web UI the plain
U-Net is used when both are there (published files keep the weights meant for use in it), and the
average only where it is alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from sdlite.errors import UnknownFamily
from sdlite.manifest import LatentSpace, LowRes
from sdlite.tensors.base import TensorInfo, Tensors
from sdlite.tensors.gguf import open_gguf
from sdlite.tensors.pickle import open_pickle
from sdlite.tensors.safetensors import open_safetensors
from sdlite_export.configs import ClipTextConfig
from sdlite_export.licence import file_licence
from sdlite_export.source.checkpoint import (
    Checkpoint,
    Component,
    Prediction,
    SourceHash,
    TokenizerFiles,
)
from sdlite_export.source.clip_vocab import BOS, EOS, LENGTH, VOCAB_SIZE, tokenizer_files
from sdlite_export.source.diffusers import vae_name
from sdlite_export.source.diffusers_config import MOST_NOISE
from sdlite_export.source.family import FIRST, family_of
from sdlite_export.source.gather import SUPPORTED, Found, gather
from sdlite_export.source.layout import Slot, text_slots, unet_slots, vae_slots
from sdlite_export.source.ldm_config import Lookup, derive_text, derive_unet, derive_vae
from sdlite_export.source.parameterisation import (
    LOW_RES,
    UPSCALER_NOISE,
    read_noise,
    read_prediction,
)
from sdlite_export.source.recommended import UPSCALER_SCALE, usual_defaults, usual_side
from sdlite_export.source.text_names import PLACES, find_text, without_last_layer

UNET = "model.diffusion_model."
EMA = "model_ema."
VAE = "first_stage_model."
UNET_ALONE, VAE_ALONE = "unet.", "vae."
"""Where files with diffusers' names have them."""
UPSCALER_CELLS = 128
"""Side of the small pictures the x4 upscaler was trained on, pixels."""
SCALE, XL_SCALE = 0.18215, 0.13025
"""Latent scale of SD1 and SD2, and of SDXL; no file states it."""

OTHERS = (
    ("model.diffusion_model.joint_blocks.", "Stable Diffusion 3"),
    ("model.diffusion_model.double_blocks.", "FLUX"),
    ("double_blocks.", "FLUX"),
    ("control_model.", "a ControlNet"),
    ("lora_unet_", "a LoRA"),
    ("lora_te", "a LoRA"),
    ("down_blocks.", "a diffusers component without its folder"),
    ("encoder.down_blocks.", "a diffusers component without its folder"),
    ("text_model.", "a text encoder alone"),
    ("encoder.down.", "an autoencoder alone"),
    ("emb_params", "a textual inversion"),
    ("string_to_param", "a textual inversion"),
)
"""Starts of tensor names that tell other kinds of file, surest first."""


def open_single_file(path: Path, prediction: Prediction | None = None) -> Checkpoint:
    """Describe a single-file checkpoint; of its tensors at most two small ones are read.

    ``prediction`` is what the U-Net predicts, where the caller knows. Raises ``SourceError``; for a
    family that is not supported ``UnknownFamily``, saying what was seen.
    """
    source, metadata, kind = open_tensors(path)
    refuse_other_families(path, source.infos())
    where = path.name
    notes: list[str] = []
    packed = sorted({info.packed for info in source.infos().values()} - {""})
    if packed:
        notes.append(f"weights stored in {' and '.join(packed)} blocks are widened")
    lookup = _unet(source, notes)
    unet = derive_unet(where, lookup)
    labels = unet.label_dim is not None
    vae_found = _vae(source)
    scale = XL_SCALE if labels else SCALE if unet.class_embeds is None else UPSCALER_SCALE
    vae = derive_vae(where, vae_found, scale, force_upcast=labels)
    text: dict[str, ClipTextConfig] = {}
    tensors: dict[str, Tensors] = {}
    for name, (place, found) in find_text(source).items():
        if place.open_clip and not labels:
            found = without_last_layer(found)
        text[name] = derive_text(where, Lookup(found), place.open_clip, labels)
        _check_vocabulary(where, text[name])
        what = f"{where}: {name.replace('_', ' ')}"
        tensors[name] = _gather(what, text_slots(text[name]), Lookup(found))
    family = family_of(where, unet, text, vae)
    tensors["unet"] = _gather(f"{where}: U-Net", unet_slots(unet), lookup)
    tensors["vae"] = _gather(f"{where}: autoencoder", vae_slots(vae), vae_found)
    predicts, why = read_prediction(path, source, metadata, family, tensors["unet"], unet)
    if prediction is None and why:
        notes.append(why)
    predicts = prediction or predicts
    factor = 2 ** (len(vae.block_channels) - 1)
    low_res = None
    if family.task == "upscale":
        noise = read_noise(where, source, UPSCALER_NOISE)
        known = read_noise(where, source, UPSCALER_NOISE, LOW_RES)
        most = min(MOST_NOISE, (unet.class_embeds or 1) - 1)
        low_res = LowRes(known, most, min(LowRes.level, most))
        side = UPSCALER_CELLS * factor
    else:
        noise = read_noise(where, source)
        side = usual_side(path.stem, family.name, predicts) // 8 * factor
    defaults, more = usual_defaults(path.stem, side, side, noise, unet, lcm=False)
    return Checkpoint(
        name=path.stem,
        kind=kind,
        family=family.name,
        task=family.task,
        prediction=predicts,
        text=text,
        unet=unet,
        vae=vae,
        tensors=tensors,
        tokenizers={name: _tokenizer(family.name, name) for name in text},
        noise=noise,
        latent=LatentSpace(vae.latent_channels, factor, vae.scale, force_upcast=vae.force_upcast),
        defaults=defaults,
        licence=file_licence(path, metadata),
        sha256=SourceHash(path.parent, (path,)),
        metadata=metadata,
        notes=(*notes, *more),
        force_zeros_for_empty_prompt=family.name == "sdxl",
        low_res=low_res,
    )


def _unet(source: Tensors, notes: list[str]) -> Lookup:
    plain = _under(source, UNET)
    average = _under(source, EMA + "diffusion_model", "")
    alone = _under(source, UNET_ALONE)
    if alone and not plain and not average:
        return Lookup(alone, naming="diffusers")
    if plain and average:
        notes.append("the file also holds averaged weights (EMA); the plain U-Net is used")
    if not plain:
        notes.append("the file holds only averaged weights (EMA) of the U-Net; they are used")
    return Lookup(plain or average, undot=not plain)


def _vae(source: Tensors) -> Lookup:
    found = _under(source, VAE, skip=("loss.",)) or _under(source, VAE_ALONE)
    if any(name.startswith("encoder.down_blocks.") for name in found):
        renamed = {vae_name(name): place for name, place in found.items()}
        return Lookup(renamed, naming="diffusers")
    return Lookup(found)


def _tokenizer(family: str, component: str) -> TokenizerFiles:
    """OpenCLIP pads with token 0 where CLIP repeats the end token."""
    open_clip = family == "sd2" or component != FIRST
    return TokenizerFiles(tokenizer_files(), LENGTH, BOS, EOS, 0 if open_clip else EOS)


def _check_vocabulary(where: str, text: ClipTextConfig) -> None:
    if text.vocab_size != VOCAB_SIZE:
        raise UnknownFamily(
            f"{where}: text encoder of {text.vocab_size} tokens; a single file has no tokenizer, "
            f"and the usual one has {VOCAB_SIZE}. Export the model's diffusers folder instead"
        )


def open_tensors(
    path: Path,
) -> tuple[Tensors, Mapping[str, str], Literal["single-file", "ckpt"]]:
    """A file's tensors, its metadata and its kind, whatever model they belong to."""
    if path.suffix.lower() == ".gguf":
        packed = open_gguf(path)
        return packed, packed.metadata, "single-file"
    if path.suffix.lower() == ".safetensors":
        file = open_safetensors(path)
        return file, file.metadata, "single-file"
    return open_pickle(path), {}, "ckpt"


def refuse_other_families(path: Path, names: Mapping[str, TensorInfo]) -> None:
    """Raise ``UnknownFamily``, saying what was seen, unless all parts of a model are there."""
    parts = {
        "U-Net": (UNET, EMA + "diffusion_model", UNET_ALONE),
        "autoencoder": (VAE, VAE_ALONE),
        "text encoder": tuple(place.prefix for place in PLACES),
    }
    lacking = [
        part
        for part, prefixes in parts.items()
        if not any(name.startswith(prefixes) for name in names)
    ]
    kind = next(
        (label for start, label in OTHERS if any(name.startswith(start) for name in names)), None
    )
    known_other = kind is not None and kind.startswith(("Stable Diffusion", "FLUX"))
    if not lacking and not known_other:
        return
    if len(lacking) in (1, 2) and not known_other:
        kind = f"a checkpoint without {' and '.join(lacking)}"
    widths = {
        info.shape[1]
        for name, info in names.items()
        if name.endswith("attn2.to_k.weight") and len(info.shape) == 2
    }
    seen = f"tensor names start with {', '.join(prefixes(names))}"
    if widths:
        seen += f"; cross-attention {' or '.join(map(str, sorted(widths)))} wide"
    label = f"this looks like {kind}" if kind else "not a known kind of model"
    raise UnknownFamily(f"{path.name}: {label} ({seen}). Supported so far: {SUPPORTED}")


def prefixes(names: Iterable[str]) -> list[str]:
    """The most frequent first two parts of names."""
    counts: dict[str, int] = {}
    for name in names:
        start = ".".join(name.split(".")[:2])[:60]
        counts[start] = counts.get(start, 0) + 1
    return sorted(counts, key=lambda start: (-counts[start], start))[:4]


def _under(
    source: Tensors, prefix: str, rest: str = "", skip: tuple[str, ...] = ()
) -> dict[str, Found]:
    """Tensors whose names start with a prefix, by what follows it."""
    return {
        rest + name[len(prefix) :]: Found(source, name)
        for name in source.infos()
        if name.startswith(prefix) and not (skip and name[len(prefix) :].startswith(skip))
    }


def _gather(what: str, slots: Iterator[Slot], lookup: Lookup) -> Component:
    wanted = []
    for slot in slots:
        # A text encoder's tensors have the same name in both.
        name = slot.name if lookup.naming == "diffusers" else slot.ldm
        wanted.append((slot.name, name.replace(".", "") if lookup.undot else name, slot.shape))
    return gather(what, wanted, lookup.found)
