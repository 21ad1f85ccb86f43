"""Read single-file checkpoints in LDM layout: Stable Diffusion 1.x in one file.

The file holds the U-Net under ``model.diffusion_model.``, the autoencoder under
``first_stage_model.`` and the text encoder under ``cond_stage_model.transformer.``; their numbers
are derived from the tensors' shapes. Training checkpoints also hold a moving average of the U-Net
(EMA) under ``model_ema.``, its names without dots. As in the Stable Diffusion web UI the plain
U-Net is used when both are there (published files keep the weights meant for use in it), and the
average only where it is alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from sdlite.errors import UnknownFamily
from sdlite.manifest import Defaults, LatentSpace, NoiseTable
from sdlite_export.licence import file_licence
from sdlite_export.source.checkpoint import (
    Checkpoint,
    Component,
    SourceHash,
    TensorInfo,
    Tensors,
    TokenizerFiles,
)
from sdlite_export.source.clip_vocab import BOS, EOS, LENGTH, VOCAB_SIZE, tokenizer_files
from sdlite_export.source.gather import SUPPORTED, Found, gather
from sdlite_export.source.layout import Slot, text_slots, unet_slots, vae_slots
from sdlite_export.source.ldm_config import Lookup, derive_text, derive_unet, derive_vae
from sdlite_export.source.pickle import open_pickle
from sdlite_export.source.safetensors import open_safetensors

UNET = "model.diffusion_model."
EMA = "model_ema."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."

NOISE = NoiseTable("scaled_linear", 0.00085, 0.012, 1000)
"""Stable Diffusion 1's forward process; the file itself says nothing of it, or repeats it."""

OTHERS = (
    ("model.diffusion_model.joint_blocks.", "Stable Diffusion 3"),
    ("model.diffusion_model.double_blocks.", "FLUX"),
    ("double_blocks.", "FLUX"),
    ("conditioner.embedders.", "Stable Diffusion XL"),
    ("model.diffusion_model.label_emb.", "Stable Diffusion XL"),
    ("cond_stage_model.model.", "Stable Diffusion 2.x"),
    ("control_model.", "a ControlNet"),
    ("lora_unet_", "a LoRA"),
    ("lora_te", "a LoRA"),
    ("unet.down_blocks.", "diffusers names in a single file"),
    ("down_blocks.", "a diffusers component without its folder"),
    ("encoder.down_blocks.", "a diffusers component without its folder"),
    ("text_model.", "a text encoder alone"),
    ("encoder.down.", "an autoencoder alone"),
    ("emb_params", "a textual inversion"),
    ("string_to_param", "a textual inversion"),
)
"""Starts of tensor names that tell other kinds of file, surest first."""


def open_single_file(path: Path) -> Checkpoint:
    """Describe a single-file checkpoint; of its tensors at most the noise table is read.

    Raises ``SourceError``; for a family that is not supported ``UnknownFamily``, saying what was
    seen.
    """
    source, metadata, kind = open_tensors(path)
    infos = source.infos()
    refuse_other_families(path, infos)
    where = path.name
    notes = []
    plain = _under(source, UNET)
    average = _under(source, EMA + "diffusion_model", "")
    if plain and average:
        notes.append("the file also holds averaged weights (EMA); the plain U-Net is used")
    if not plain:
        notes.append("the file holds only averaged weights (EMA) of the U-Net; they are used")
    found = plain or average
    undot = not plain
    unet = derive_unet(where, Lookup(found, undot))
    vae_found = _under(source, VAE, skip=("loss.",))
    vae = derive_vae(where, Lookup(vae_found))
    text_found = _text(source)
    text = derive_text(where, Lookup(text_found))
    if unet.cross_dim != text.hidden_size:
        raise UnknownFamily(
            f"{where}: cross-attention {unet.cross_dim} wide, text encoder {text.hidden_size}; "
            f"supported so far: {SUPPORTED}"
        )
    if text.vocab_size != VOCAB_SIZE:
        raise UnknownFamily(
            f"{where}: text encoder of {text.vocab_size} tokens; a single file has no tokenizer, "
            f"and the usual one has {VOCAB_SIZE}. Export the model's diffusers folder instead"
        )
    tensors: dict[str, Tensors] = {
        "text_encoder": _gather(f"{where}: text encoder", text_slots(text), text_found),
        "unet": _gather(f"{where}: U-Net", unet_slots(unet), found, undot),
        "vae": _gather(f"{where}: autoencoder", vae_slots(vae), vae_found),
    }
    _check_noise(where, source)
    factor = 2 ** (len(vae.block_channels) - 1)
    return Checkpoint(
        name=path.stem,
        kind=kind,
        family="sd1",
        prediction=_prediction(where, infos, metadata),
        text=text,
        unet=unet,
        vae=vae,
        tensors=tensors,
        tokenizer=TokenizerFiles(tokenizer_files(), LENGTH, BOS, EOS, EOS),
        noise=NOISE,
        latent=LatentSpace(vae.latent_channels, factor, vae.scale),
        defaults=Defaults(64 * factor, 64 * factor),
        licence=file_licence(path, metadata),
        sha256=SourceHash(path.parent, (path,)),
        metadata=metadata,
        notes=tuple(notes),
    )


def open_tensors(
    path: Path,
) -> tuple[Tensors, Mapping[str, str], Literal["single-file", "ckpt"]]:
    """A file's tensors, its metadata and its kind, whatever model they belong to."""
    if path.suffix.lower() == ".safetensors":
        file = open_safetensors(path)
        return file, file.metadata, "single-file"
    return open_pickle(path), {}, "ckpt"


def refuse_other_families(path: Path, names: Mapping[str, TensorInfo]) -> None:
    """Raise ``UnknownFamily``, saying what was seen, unless the three parts of SD1 are there."""
    parts = {
        "U-Net": (UNET, EMA + "diffusion_model"),
        "autoencoder": (VAE,),
        "text encoder": (TEXT,),
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
    seen = f"tensor names start with {', '.join(_prefixes(names))}"
    if widths:
        seen += f"; cross-attention {' or '.join(map(str, sorted(widths)))} wide"
    label = f"this looks like {kind}" if kind else "not a known kind of model"
    raise UnknownFamily(f"{path.name}: {label} ({seen}). Supported so far: {SUPPORTED}")


def _prefixes(names: Iterable[str]) -> list[str]:
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


def _text(source: Tensors) -> dict[str, Found]:
    """The text encoder; some files leave ``text_model.`` out of its names."""
    found = {}
    for name, place in _under(source, TEXT).items():
        if name.endswith("embeddings.position_ids"):
            continue  # a constant buffer that old transformers stored
        found[name if name.startswith("text_model.") else f"text_model.{name}"] = place
    return found


def _gather(
    what: str, slots: Iterator[Slot], found: Mapping[str, Found], undot: bool = False
) -> Component:
    wanted = [
        (slot.name, slot.ldm.replace(".", "") if undot else slot.ldm, slot.shape) for slot in slots
    ]
    return gather(what, wanted, found)


def _prediction(
    where: str, infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]
) -> Literal["epsilon", "v_prediction"]:
    """What the U-Net predicts: a marker tensor or the file's metadata may say "v"."""
    if "ztsnr" in infos:
        raise UnknownFamily(
            f"{where}: trained with zero terminal signal-to-noise (tensor 'ztsnr'); not supported"
        )
    stated = metadata.get("modelspec.prediction_type", "").strip().casefold()
    if "v_pred" in infos or stated in ("v", "v_prediction", "v-prediction"):
        return "v_prediction"
    return "epsilon"


def _check_noise(where: str, source: Tensors) -> None:
    """Compare the file's copy of the noise table, where it has one, with the family's."""
    info = source.infos().get("alphas_cumprod")
    if info is None:
        return
    assert NOISE.kind == "scaled_linear"
    roots = np.linspace(NOISE.beta_start**0.5, NOISE.beta_end**0.5, NOISE.train_steps)
    usual = np.cumprod(1 - roots**2)
    if info.shape == usual.shape:
        stored = source.read("alphas_cumprod").astype(np.float64)
        # Half precision keeps three digits; the last values, about 0.005, lose nothing more.
        if np.allclose(stored, usual, rtol=0.01, atol=1e-3):
            return
    raise UnknownFamily(
        f"{where}: its noise table (alphas_cumprod, shape {list(info.shape)}) is not that of "
        f"{SUPPORTED}; not supported"
    )
