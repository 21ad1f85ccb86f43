"""The small files of a diffusers folder: index, configs, scheduler, byte-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdlite_export.configs import ClipTextConfig

    from benchmarks.architectures import Architecture, TextEncoder


def write_folder_files(path: Path, arch: Architecture) -> None:
    """Create the folder and write everything but the weights."""
    upscales = arch.unet.class_embeds is not None
    kind = "XL" if arch.label_width is not None else "Upscale" if upscales else ""
    index: dict[str, Any] = {
        "_class_name": f"StableDiffusion{kind}Pipeline",
        "_diffusers_version": "0.39.0",
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if arch.label_width is not None:
        index["force_zeros_for_empty_prompt"] = True
        index["requires_aesthetics_score"] = arch.first_encoder == 2
    else:
        index["feature_extractor"] = index["safety_checker"] = [None, None]
        index["requires_safety_checker"] = False
    for number, encoder in enumerate(arch.text):
        ending = arch.suffix(number)
        text = encoder.in_folder(arch.alone)
        kind = "CLIPTextModel" if text.projection is None else "CLIPTextModelWithProjection"
        index[f"text_encoder{ending}"] = ["transformers", kind]
        index[f"tokenizer{ending}"] = ["transformers", "CLIPTokenizer"]
        _write(path / f"text_encoder{ending}" / "config.json", _text_config(text, kind))
        _write_tokenizer(path / f"tokenizer{ending}", encoder)
    _write(path / "model_index.json", index)
    _write(path / "unet" / "config.json", unet_config(arch))
    _write(path / "vae" / "config.json", vae_config(arch))
    _write(path / "scheduler" / "scheduler_config.json", _scheduler_config(arch))
    if upscales:
        _write(path / "low_res_scheduler" / "scheduler_config.json", _scheduler_config(arch))


def _write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def unet_config(arch: Architecture) -> dict[str, Any]:
    """``UNet2DConditionModel``'s configuration."""
    unet = arch.unet
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.39.0",
        "act_fn": "silu",
        "attention_head_dim": unet.heads[0] if len(set(unet.heads)) == 1 else list(unet.heads),
        "block_out_channels": list(unet.block_channels),
        "center_input_sample": False,
        "cross_attention_dim": unet.cross_dim,
        "down_block_types": [
            "CrossAttnDownBlock2D" if attention else "DownBlock2D"
            for attention in unet.down_attention
        ],
        "downsample_padding": 1,
        "flip_sin_to_cos": unet.flip_sin_to_cos,
        "freq_shift": int(unet.freq_shift),
        "in_channels": unet.in_channels,
        "layers_per_block": unet.layers_per_block,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": unet.norm_eps,
        "norm_num_groups": unet.norm_groups,
        "out_channels": unet.out_channels,
        "sample_size": arch.size >> (len(arch.vae.block_channels) - 1),
        "transformer_layers_per_block": 1
        if set(unet.transformer_depth) == {1}
        else list(unet.transformer_depth),
        "up_block_types": [
            "CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in unet.up_attention
        ],
        "use_linear_projection": unet.linear_projection,
    }
    if unet.class_embeds is not None:
        config |= {
            "num_class_embeds": unet.class_embeds,
            "only_cross_attention": list(unet.cross_only),
        }
    if arch.label_width is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": arch.label_width,
        }
    return config


def vae_config(arch: Architecture) -> dict[str, Any]:
    """``AutoencoderKL``'s configuration."""
    vae = arch.vae
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.39.0",
        "act_fn": "silu",
        "block_out_channels": list(vae.block_channels),
        "down_block_types": ["DownEncoderBlock2D"] * len(vae.block_channels),
        "in_channels": vae.in_channels,
        "latent_channels": vae.latent_channels,
        "layers_per_block": vae.layers_per_block,
        "norm_num_groups": vae.norm_groups,
        "out_channels": vae.out_channels,
        "sample_size": arch.size,
        "scaling_factor": vae.scale,
        "up_block_types": ["UpDecoderBlock2D"] * len(vae.block_channels),
    }


def _text_config(text: ClipTextConfig, kind: str) -> dict[str, Any]:
    return {
        "architectures": [kind],
        "attention_dropout": 0.0,
        "bos_token_id": text.vocab_size - 2,
        "dropout": 0.0,
        "eos_token_id": text.vocab_size - 1,
        "hidden_act": text.activation,
        "hidden_size": text.hidden_size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "layer_norm_eps": text.eps,
        "max_position_embeddings": text.positions,
        "model_type": "clip_text_model",
        "num_attention_heads": text.heads,
        "num_hidden_layers": text.layers,
        "pad_token_id": text.vocab_size - 1,
        "projection_dim": text.projection or text.hidden_size,
        "vocab_size": text.vocab_size,
    }


def _scheduler_config(arch: Architecture) -> dict[str, Any]:
    return {
        "_class_name": "DPMSolverMultistepScheduler",
        "_diffusers_version": "0.39.0",
        "algorithm_type": "dpmsolver++",
        "beta_end": arch.betas[1],
        "beta_schedule": "scaled_linear",
        "beta_start": arch.betas[0],
        "num_train_timesteps": 1000,
        "prediction_type": arch.prediction,
        "solver_order": 2,
        "steps_offset": 1,
        "use_karras_sigmas": True,
    }


def byte_characters() -> list[str]:
    """The 256 characters that stand for bytes in GPT-2's and CLIP's vocabularies, by byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    table = {byte: chr(byte) for byte in visible}
    table |= {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return [table[byte] for byte in range(256)]


def _write_tokenizer(path: Path, encoder: TextEncoder) -> None:
    """Write a CLIP tokenizer that knows single bytes only: valid, small, and free of any data."""
    size, characters = encoder.config.vocab_size, byte_characters()
    vocabulary = {character: index for index, character in enumerate(characters)}
    vocabulary |= {f"{character}</w>": 256 + index for index, character in enumerate(characters)}
    begin, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary |= {begin: size - 2, end: size - 1}
    path.mkdir(parents=True, exist_ok=True)
    text = json.dumps(vocabulary, ensure_ascii=False)
    (path / "vocab.json").write_text(text + "\n", encoding="utf-8")
    (path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    # OpenCLIP pads with the first token of the vocabulary.
    pad = characters[0] if encoder.open_clip else end
    special = {"bos_token": begin, "eos_token": end, "pad_token": pad, "unk_token": end}
    _write(path / "special_tokens_map.json", special)
    config = {
        "model_max_length": encoder.config.positions,
        "tokenizer_class": "CLIPTokenizer",
        **special,
    }
    _write(path / "tokenizer_config.json", config)
