"""Read diffusers' and transformers' configuration files; what they ask beyond is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sdlite.errors import SourceCorrupt, UnknownFamily
from sdlite.manifest import LowRes, NoiseTable
from sdlite_export.configs import ClipTextConfig, VaeConfig
from sdlite_export.source.config_reader import ConfigReader
from sdlite_export.source.diffusers_unet import attention_blocks
from sdlite_export.source.gather import SUPPORTED

VAE_FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "latents_mean": (None,),
    "latents_std": (None,),
    "shift_factor": (None, 0, 0.0),
}
VAE_READ = frozenset(
    [
        "in_channels",
        "out_channels",
        "latent_channels",
        "block_out_channels",
        "layers_per_block",
        "norm_num_groups",
        "down_block_types",
        "up_block_types",
        "mid_block_add_attention",
        "use_quant_conv",
        "use_post_quant_conv",
        "scaling_factor",
        "force_upcast",
    ]
)
VAE_HARMLESS = frozenset(["sample_size"])

MOST_NOISE = 350
"""Highest noise level of small pictures where an upscaler states none; diffusers' default."""
SCHEDULER_FIXED: Mapping[str, tuple[Any, ...]] = {
    "trained_betas": (None,),
    "use_flow_sigmas": (False, None),
}


def read_vae(path: Path) -> VaeConfig:
    """An autoencoder's numbers; raises ``UnknownFamily`` for features beyond the family."""
    reader = ConfigReader(path)
    reader.refuse(VAE_FIXED, VAE_READ | VAE_HARMLESS)
    channels = reader.sizes("block_out_channels")
    attention_blocks(reader, "down_block_types", {"DownEncoderBlock2D": False}, len(channels))
    attention_blocks(reader, "up_block_types", {"UpDecoderBlock2D": False}, len(channels))
    config = VaeConfig(
        in_channels=reader.size("in_channels", 3),
        out_channels=reader.size("out_channels", 3),
        latent_channels=reader.size("latent_channels", 4),
        block_channels=channels,
        layers_per_block=reader.size("layers_per_block", 1),
        norm_groups=reader.size("norm_num_groups", 32),
        mid_attention=reader.get("mid_block_add_attention", bool, True),
        quant_conv=reader.get("use_quant_conv", bool, True),
        post_quant_conv=reader.get("use_post_quant_conv", bool, True),
        scale=reader.get("scaling_factor", float, 0.18215),
        force_upcast=reader.get("force_upcast", bool, False),
    )
    for width in channels:
        if width % config.norm_groups:
            raise SourceCorrupt(
                f"{path}: {width} channels do not divide into {config.norm_groups} groups"
            )
    if not 0 < config.scale < 100:
        raise SourceCorrupt(f"{path}: scaling_factor {config.scale} makes no sense")
    return config


def read_text(path: Path, eos: int, norm_skipped: bool = True) -> ClipTextConfig:
    """A text encoder's numbers; ``eos`` is the tokenizer's end token.

    ``norm_skipped`` says whether the family normalises what earlier layers give.
    """
    reader = ConfigReader(path)
    kind = reader.data.get("model_type", "clip_text_model")
    if kind != "clip_text_model":
        raise UnknownFamily(f"{path}: text encoder {kind!r}; {SUPPORTED} has 'clip_text_model'")
    activation = reader.get("hidden_act", str, "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise UnknownFamily(f"{path}: hidden_act {activation!r}; known: quick_gelu, gelu")
    architectures = reader.data.get("architectures") or []
    if not isinstance(architectures, list):
        raise SourceCorrupt(f"{path}: architectures {architectures!r} is not a list of names")
    projected = "CLIPTextModelWithProjection" in architectures
    config = ClipTextConfig(
        vocab_size=reader.size("vocab_size", 49408),
        hidden_size=reader.size("hidden_size", 512),
        intermediate_size=reader.size("intermediate_size", 2048),
        layers=reader.size("num_hidden_layers", 12),
        heads=reader.size("num_attention_heads", 8),
        positions=reader.size("max_position_embeddings", 77),
        activation="gelu" if activation == "gelu" else "quick_gelu",
        eps=reader.epsilon("layer_norm_eps", 1e-5),
        # Old files state 2, which transformers takes for "the highest id": the same token.
        eos=eos,
        projection=reader.size("projection_dim", 512) if projected else None,
        norm_skipped=norm_skipped,
    )
    if config.hidden_size % config.heads:
        raise SourceCorrupt(
            f"{path}: {config.hidden_size} channels do not divide into {config.heads} heads"
        )
    if eos >= config.vocab_size:
        raise SourceCorrupt(
            f"{path}: vocab_size {config.vocab_size}, but the tokenizer's end token is {eos}"
        )
    return config


def check_length(where: str, component: str, length: int, config: ClipTextConfig) -> None:
    """Raise ``SourceCorrupt`` when the tokenizer makes more tokens than the encoder can place."""
    if length > config.positions:
        raise SourceCorrupt(
            f"{where}: the tokenizer makes {length} tokens and the text encoder has positions for "
            f"{config.positions}; set model_max_length in "
            f"{component.replace('text_encoder', 'tokenizer')}/tokenizer_config.json to "
            f"{config.positions}"
        )


@dataclass(frozen=True)
class Scheduler:
    """What a scheduler's configuration says of the model rather than of the method."""

    noise: NoiseTable
    """The forward process."""
    prediction: Literal["epsilon", "v_prediction"]
    """What the U-Net predicts."""
    kind: str
    """Diffusers' class."""
    trailing: bool
    """Whether timesteps are counted from the last one, as models of few steps want it."""


def read_scheduler(path: Path) -> Scheduler:
    """The noise table and what the U-Net predicts."""
    reader = ConfigReader(path)
    table = _noise(reader)
    prediction = reader.get("prediction_type", str, "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise UnknownFamily(f"{path}: prediction_type {prediction!r}; known: epsilon, v_prediction")
    return Scheduler(
        noise=table,
        prediction="v_prediction" if prediction == "v_prediction" else "epsilon",
        kind=str(reader.data.get("_class_name", "")),
        trailing=reader.data.get("timestep_spacing") == "trailing",
    )


def read_low_res(path: Path, most: object, classes: int) -> LowRes:
    """What an upscaler's low_res_scheduler says of the noise its small pictures are shown with.

    ``most`` is the highest level the pipeline states, None where it states none; ``classes`` are
    the levels its U-Net knows.
    """
    table = _noise(ConfigReader(path))
    known = min(classes, table.train_steps) - 1
    highest = min(MOST_NOISE, known) if most is None else most
    if not isinstance(highest, int) or isinstance(highest, bool) or not 0 <= highest <= known:
        raise SourceCorrupt(
            f"{path.parent.parent / 'model_index.json'}: max_noise_level {most!r} is not between 0 "
            f"and {known}, the highest its U-Net knows"
        )
    return LowRes(table, highest, min(LowRes.level, highest))


def _noise(reader: ConfigReader) -> NoiseTable:
    path = reader.path
    reader.refuse(SCHEDULER_FIXED, None)
    kind = reader.get("beta_schedule", str)
    if kind not in ("scaled_linear", "linear"):
        raise UnknownFamily(f"{path}: beta_schedule {kind!r}; known: scaled_linear, linear")
    table = NoiseTable(
        kind="linear" if kind == "linear" else "scaled_linear",
        beta_start=reader.get("beta_start", float),
        beta_end=reader.get("beta_end", float),
        train_steps=reader.size("num_train_timesteps", 1000),
        zero_terminal_snr=reader.data.get("rescale_betas_zero_snr") is True,
    )
    if not 0 < table.beta_start <= table.beta_end < 1:
        raise SourceCorrupt(
            f"{path}: betas from {table.beta_start} to {table.beta_end} are not rising in 0..1"
        )
    return table
