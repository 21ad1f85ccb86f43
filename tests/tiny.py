"""A tiny model of the Stable Diffusion architecture with random weights, in diffusers' layout.

``python -m tests.tiny FOLDER`` writes one; ``make_tiny_checkpoint`` is what tests call. Only numpy
is needed. Pictures come out as colourful noise, but the same noise every time.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sdlite_export.configs import (
    ClipTextConfig,
    ControlNetConfig,
    T2IAdapterConfig,
    UnetConfig,
    VaeConfig,
)
from sdlite_export.source.layout import (
    Slot,
    controlnet_slots,
    t2i_slots,
    text_slots,
    unet_slots,
    vae_slots,
)

from sdlite.manifest import NoiseTable

WORDS = ("a", "red", "blue", "circle", "square", "on", "background")

TEXT = ClipTextConfig(
    vocab_size=0, hidden_size=16, intermediate_size=32, layers=2, heads=2, positions=77, eos=0
)
"""Vocabulary size and end token follow from the tokenizer."""
UNET = UnetConfig(
    in_channels=4,
    out_channels=4,
    block_channels=(8, 16),
    layers_per_block=1,
    down_attention=(True, False),
    up_attention=(False, True),
    heads=(2, 2),
    transformer_depth=(1, 1),
    cross_dim=16,
    norm_groups=4,
)
VAE = VaeConfig(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    block_channels=(4, 4, 8, 8),
    layers_per_block=1,
    norm_groups=2,
    scale=0.5,
)


NOISE = NoiseTable("scaled_linear", 0.00085, 0.012, 1000)


@dataclass(frozen=True)
class Tiny:
    """What a tiny checkpoint is made of."""

    text: ClipTextConfig | None = TEXT
    text_2: ClipTextConfig | None = None
    unet: UnetConfig = UNET
    vae: VaeConfig = VAE
    size: int = 32
    dtype: str = "float32"
    prediction: str = "epsilon"
    zero_snr: bool = False
    seed: int = 0
    noise: NoiseTable = NOISE
    low_res: NoiseTable | None = None

    @property
    def texts(self) -> dict[str, ClipTextConfig]:
        """The text encoders there are."""
        both = {"text_encoder": self.text, "text_encoder_2": self.text_2}
        return {name: config for name, config in both.items() if config is not None}


def make_tiny_checkpoint(folder: Path, tiny: Tiny | None = None) -> Path:
    """Write a diffusers folder (created if needed) and return it."""
    tiny = tiny or Tiny()
    rng = np.random.default_rng(tiny.seed)
    vocab, merges = tiny_vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    texts = {name: tiny_text(config, vocab) for name, config in tiny.texts.items()}
    _json(folder / "model_index.json", _index(tiny))
    if tiny.low_res is not None:
        _json(
            folder / "low_res_scheduler" / "scheduler_config.json",
            {"_class_name": "DDPMScheduler", **_betas(tiny.low_res)},
        )
    _json(
        folder / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "EulerDiscreteScheduler",
            **_betas(tiny.noise),
            "prediction_type": tiny.prediction,
            "rescale_betas_zero_snr": tiny.zero_snr,
            "steps_offset": 1,
            "timestep_spacing": "trailing" if tiny.zero_snr else "linspace",
        },
    )
    for name, text in texts.items():
        _json(folder / name / "config.json", _text_config(text, vocab))
        tokenizer = folder / name.replace("text_encoder", "tokenizer")
        _json(tokenizer / "vocab.json", vocab)
        (tokenizer / "merges.txt").write_text(
            "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8"
        )
        # OpenCLIP pads with the first token of the vocabulary.
        pad = "!" if text.activation == "gelu" else END
        special = {"bos_token": BEGIN, "eos_token": END, "pad_token": pad, "unk_token": END}
        _json(tokenizer / "special_tokens_map.json", special)
        _json(
            tokenizer / "tokenizer_config.json",
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": text.positions, **special},
        )
    _json(folder / "unet" / "config.json", _unet_config(tiny))
    _json(folder / "vae" / "config.json", _vae_config(tiny))
    for part, file, slots in (
        *((name, "model", text_slots(text)) for name, text in texts.items()),
        ("unet", "diffusion_pytorch_model", unet_slots(tiny.unet)),
        ("vae", "diffusion_pytorch_model", vae_slots(tiny.vae)),
    ):
        write_safetensors(
            folder / part / f"{file}.safetensors", random_tensors(slots, rng, tiny.dtype)
        )
    return folder


def _betas(noise: NoiseTable) -> dict[str, Any]:
    return {
        "beta_start": noise.beta_start,
        "beta_end": noise.beta_end,
        "beta_schedule": noise.kind,
        "num_train_timesteps": noise.train_steps,
    }


def make_tiny_controlnet(
    folder: Path, config: ControlNetConfig | None = None, seed: int = 30
) -> Path:
    """Write a diffusers folder of a ControlNet with random weights, zero convolutions included."""
    config = config or ControlNetConfig(UNET, (4, 4, 8, 8))
    made = _unet_config(Tiny(unet=config.unet))
    for name in ("up_block_types", "out_channels", "sample_size", "time_cond_proj_dim"):
        del made[name]
    made |= {
        "_class_name": "ControlNetModel",
        "conditioning_embedding_out_channels": list(config.embedding),
        "global_pool_conditions": config.pooled,
    }
    _json(folder / "config.json", made)
    tensors = random_tensors(controlnet_slots(config), np.random.default_rng(seed), "float32")
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", tensors)
    return folder


T2I_TYPES = {"full": "full_adapter", "xl": "full_adapter_xl", "light": "light_adapter"}


def make_tiny_t2i(folder: Path, config: T2IAdapterConfig, seed: int = 40) -> Path:
    """Write a diffusers folder of a T2I-Adapter with random weights."""
    light = config.kind == "light"
    made = {
        "_class_name": "T2IAdapter",
        "adapter_type": T2I_TYPES[config.kind],
        "channels": list(config.channels[:-1] if light else config.channels),
        "downscale_factor": config.factor,
        "in_channels": config.in_channels,
        "num_res_blocks": config.blocks,
    }
    _json(folder / "config.json", made)
    tensors = random_tensors(t2i_slots(config), np.random.default_rng(seed), "float32")
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", tensors)
    return folder


BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def tiny_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's byte alphabet, merges that make ``WORDS`` single tokens, and the special tokens."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    tokens = letters + [f"{letter}</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    tokens += [a + b for a, b in merges]
    tokens += [BEGIN, END]
    return {token: index for index, token in enumerate(tokens)}, merges


def tiny_text(text: ClipTextConfig, vocab: Mapping[str, int]) -> ClipTextConfig:
    """A text encoder's numbers with the vocabulary filled in."""
    return replace(text, vocab_size=len(vocab), eos=vocab[END])


def random_tensors(
    slots: Iterable[Slot], rng: np.random.Generator, dtype: str
) -> dict[str, np.ndarray]:
    """Weights scaled by fan-in, norms near one, biases small."""
    tensors = {}
    for slot in slots:
        values = rng.standard_normal(slot.shape)
        if len(slot.shape) > 1:
            embedding = "embedding" in slot.name
            values *= 0.5 if embedding else 1.0 / np.sqrt(np.prod(slot.shape[1:]))
        else:
            values = 0.1 * values + (1.0 if slot.name.endswith("weight") else 0.0)
        tensors[slot.name] = values.astype(dtype)
    return tensors


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write float32 or float16 arrays as a safetensors file."""
    names = {"float32": "F32", "float16": "F16"}
    header: dict[str, Any] = {}
    offset = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            stream.write(np.ascontiguousarray(array).tobytes())


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def _index(tiny: Tiny) -> dict[str, Any]:
    xl = tiny.unet.label_dim is not None
    latent = tiny.vae.latent_channels
    inputs = {latent: "", 2 * latent: "InstructPix2Pix", 2 * latent + 1: "Inpaint"}
    inputs[latent + 3] = "Upscale"
    task = inputs.get(tiny.unet.in_channels, "")
    # The refiner has no pipeline of its own: it goes on from pictures.
    task = "Img2Img" if xl and tiny.text is None else task
    index: dict[str, Any] = {
        "_class_name": f"StableDiffusion{'XL' if xl else ''}{task}Pipeline",
        "_diffusers_version": "0.39.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if tiny.low_res is not None:
        index |= {"low_res_scheduler": ["diffusers", "DDPMScheduler"], "max_noise_level": 350}
        index |= {"watermarker": [None, None]}
    if xl:
        index["force_zeros_for_empty_prompt"] = tiny.text is not None
        if tiny.text is None:
            index["requires_aesthetics_score"] = True
    else:
        index |= {"requires_safety_checker": False, "safety_checker": [None, None]}
    for suffix, config in (("", tiny.text), ("_2", tiny.text_2)):
        if config is None:
            if xl:
                index[f"text_encoder{suffix}"] = index[f"tokenizer{suffix}"] = [None, None]
            continue
        index[f"text_encoder{suffix}"] = ["transformers", _text_class(config)]
        index[f"tokenizer{suffix}"] = ["transformers", "CLIPTokenizer"]
    return index


def _text_class(config: ClipTextConfig) -> str:
    return "CLIPTextModel" if config.projection is None else "CLIPTextModelWithProjection"


def _text_config(config: ClipTextConfig, vocab: Mapping[str, int]) -> dict[str, Any]:
    return {
        "architectures": [_text_class(config)],
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.positions,
        "hidden_act": config.activation,
        "layer_norm_eps": config.eps,
        "bos_token_id": vocab[BEGIN],
        "eos_token_id": vocab[END],
        "pad_token_id": vocab[END],
        "projection_dim": config.projection or config.hidden_size,
    }


def _unet_config(tiny: Tiny) -> dict[str, Any]:
    config = tiny.unet
    middles = {"attention": "UNetMidBlock2DCrossAttn", "resnet": "UNetMidBlock2D", "none": None}
    made = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": list(config.heads),
        "block_out_channels": list(config.block_channels),
        "cross_attention_dim": config.cross_dim,
        "down_block_types": [
            "CrossAttnDownBlock2D" if flag else "DownBlock2D" for flag in config.down_attention
        ],
        "up_block_types": [
            "CrossAttnUpBlock2D" if flag else "UpBlock2D" for flag in config.up_attention
        ],
        "mid_block_type": middles[config.middle],
        "flip_sin_to_cos": config.flip_sin_to_cos,
        "freq_shift": config.freq_shift,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "layers_per_block": config.layers_per_block,
        "norm_eps": config.norm_eps,
        "norm_num_groups": config.norm_groups,
        "transformer_layers_per_block": list(config.transformer_depth),
        "use_linear_projection": config.linear_projection,
        "sample_size": tiny.size >> (len(tiny.vae.block_channels) - 1),
        "time_cond_proj_dim": config.guidance_dim,
    }
    if config.class_embeds is not None:
        made["num_class_embeds"] = config.class_embeds
    if config.cross_only:
        made["only_cross_attention"] = list(config.cross_only)
    if config.up_transformer_depth is not None:
        made["reverse_transformer_layers_per_block"] = list(config.up_transformer_depth)
    if config.label_dim is not None:
        made["addition_embed_type"] = "text_time"
        made["addition_time_embed_dim"] = config.size_dim
        made["projection_class_embeddings_input_dim"] = config.label_dim
    return made


def _vae_config(tiny: Tiny) -> dict[str, Any]:
    config = tiny.vae
    levels = len(config.block_channels)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "latent_channels": config.latent_channels,
        "block_out_channels": list(config.block_channels),
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.norm_groups,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": config.mid_attention,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.post_quant_conv,
        "scaling_factor": config.scale,
        "force_upcast": config.force_upcast,
        "sample_size": tiny.size,
    }


if __name__ == "__main__":
    print(make_tiny_checkpoint(Path(sys.argv[1])))
