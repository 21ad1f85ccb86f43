"""Read diffusers' and transformers' configuration files; what they ask beyond SD1 is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from sdlite.errors import SourceCorrupt, UnknownFamily
from sdlite.manifest import NoiseTable
from sdlite_export.configs import ClipTextConfig, UnetConfig, VaeConfig
from sdlite_export.source.files import read_json
from sdlite_export.source.gather import SUPPORTED

T = TypeVar("T")

MAX_SIZE = 65536
"""More channels or rows than this make no sense."""
MAX_LAYERS = 128
"""More layers than this make no sense, and listing their tensors would take long."""
MAX_BLOCKS = 2048
"""Most ResNet and transformer blocks of a U-Net in all, for the same reason; SD1 has 38."""

UNET_FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "addition_time_embed_dim": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "projection_class_embeddings_input_dim": (None,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
"""Features of diffusers' U-Net that the family does not use, with the values that say so."""
UNET_READ = frozenset(
    [
        "in_channels",
        "out_channels",
        "block_out_channels",
        "layers_per_block",
        "down_block_types",
        "up_block_types",
        "attention_head_dim",
        "num_attention_heads",
        "transformer_layers_per_block",
        "cross_attention_dim",
        "use_linear_projection",
        "norm_num_groups",
        "norm_eps",
        "flip_sin_to_cos",
        "freq_shift",
    ]
)
UNET_HARMLESS = frozenset(
    ["sample_size", "dropout", "upcast_attention", "addition_embed_type_num_heads"]
)
"""Neither shapes nor numbers of an inference in float32 depend on these."""

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
    ]
)
VAE_HARMLESS = frozenset(["sample_size", "force_upcast"])

SCHEDULER_FIXED: Mapping[str, tuple[Any, ...]] = {
    "trained_betas": (None,),
    "rescale_betas_zero_snr": (False, None),
    "use_flow_sigmas": (False, None),
}


class _Reader:
    """One configuration file; every value is checked when it is taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = read_json(path)

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        value = self.data.get(key, default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            # An integer beyond a double's range is as little a finite number as infinity.
            value = float(value) if abs(value) < 1 << 1023 else math.inf
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            stated = "is missing" if key not in self.data else f"is {value!r}"
            raise SourceCorrupt(f"{self.path}: {key} {stated}, not a {kind.__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise SourceCorrupt(f"{self.path}: {key} {value} is not a finite number")
        return value

    def epsilon(self, key: str, default: float) -> float:
        """What a normalisation adds to a variance, so that its root is never of zero."""
        value = self.get(key, float, default)
        if not 0 < value < 1:
            raise SourceCorrupt(f"{self.path}: {key} {value} is not between 0 and 1")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        return self.check_size(key, self.get(key, int, default))

    def check_size(self, key: str, value: object) -> int:
        limit = MAX_LAYERS if "layers" in key else MAX_SIZE
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            raise SourceCorrupt(f"{self.path}: {key} {value!r} is not between 1 and {limit}")
        return value

    def sizes(self, key: str, count: int | None = None, default: object = None) -> tuple[int, ...]:
        """A list of sizes, or one size repeated ``count`` times."""
        value = self.data.get(key)
        value = default if value is None else value
        if isinstance(value, int) and count is not None:
            value = [value] * count
        if not isinstance(value, list) or not 1 <= len(value) <= 16:
            raise SourceCorrupt(f"{self.path}: {key} {value!r} is not a list of sizes")
        if count is not None and len(value) != count:
            raise SourceCorrupt(f"{self.path}: {key} has {len(value)} entries, {count} expected")
        return tuple(self.check_size(key, item) for item in value)

    def names(self, key: str, count: int) -> list[str]:
        value = self.data.get(key)
        if not isinstance(value, list) or len(value) != count:
            raise SourceCorrupt(f"{self.path}: {key} is {value!r}, {count} names expected")
        return [str(item) for item in value]

    def refuse(self, fixed: Mapping[str, tuple[Any, ...]], known: frozenset[str] | None) -> None:
        """Refuse features the family does not have, and any this reader has never heard of."""
        odd = [
            f"{key} = {self.data[key]!r}"
            for key, allowed in fixed.items()
            if key in self.data and self.data[key] not in allowed
        ]
        if known is not None:
            odd += [
                f"{key} = {value!r}"
                for key, value in self.data.items()
                if key not in fixed
                and key not in known
                and not key.startswith("_")
                and value not in (None, False)
            ]
        if odd:
            raise UnknownFamily(
                f"{self.path}: {', '.join(odd[:4])} is no part of {SUPPORTED}; "
                "this model family is not supported"
            )


def read_unet(path: Path) -> UnetConfig:
    """A U-Net's numbers; raises ``UnknownFamily`` for features beyond the family."""
    reader = _Reader(path)
    reader.refuse(UNET_FIXED, UNET_READ | UNET_HARMLESS)
    channels = reader.sizes("block_out_channels")
    levels = len(channels)
    kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    down = _attention(reader, "down_block_types", kinds, levels)
    kinds = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
    up = _attention(reader, "up_block_types", kinds, levels)
    if up != down[::-1]:
        raise UnknownFamily(f"{path}: up_block_types do not mirror down_block_types; not supported")
    # Diffusers' attention_head_dim is the number of heads, a misnomer kept for old files.
    heads_key = "num_attention_heads" if reader.data.get("num_attention_heads") else None
    heads = reader.sizes(heads_key or "attention_head_dim", levels, default=8)
    config = UnetConfig(
        in_channels=reader.size("in_channels", 4),
        out_channels=reader.size("out_channels", 4),
        block_channels=channels,
        layers_per_block=reader.size("layers_per_block", 2),
        down_attention=down,
        up_attention=up,
        heads=heads,
        transformer_depth=reader.sizes("transformer_layers_per_block", levels, default=1),
        cross_dim=reader.size("cross_attention_dim"),
        linear_projection=reader.get("use_linear_projection", bool, False),
        norm_groups=reader.size("norm_num_groups", 32),
        norm_eps=reader.epsilon("norm_eps", 1e-5),
        flip_sin_to_cos=reader.get("flip_sin_to_cos", bool, True),
        freq_shift=reader.get("freq_shift", float, 0.0),
    )
    depths = config.transformer_depth
    blocks = sum((2 * config.layers_per_block + 1) * (1 + depth) for depth in depths)
    if blocks > MAX_BLOCKS:
        raise SourceCorrupt(f"{path}: {blocks} blocks in all, at most {MAX_BLOCKS} make sense")
    for width, count in zip(channels, heads, strict=True):
        if width % count or width % config.norm_groups:
            raise SourceCorrupt(
                f"{path}: {width} channels divide neither into {count} heads "
                f"nor into {config.norm_groups} groups"
                if width % count and width % config.norm_groups
                else f"{path}: {width} channels do not divide into "
                + (f"{count} heads" if width % count else f"{config.norm_groups} groups")
            )
    check_family(str(path), config)
    return config


def check_family(where: str, config: UnetConfig) -> None:
    """Raise ``UnknownFamily`` for a U-Net that belongs to a family that is not supported yet."""
    seen = None
    if config.in_channels == 9:
        seen = "an inpainting model (9 channels in)"
    elif config.in_channels == 8:
        seen = "an instruct-pix2pix model (8 channels in)"
    elif config.in_channels != 4 or config.out_channels != 4:
        seen = f"a U-Net with {config.in_channels} channels in and {config.out_channels} out"
    elif config.linear_projection and config.cross_dim == 1024:
        seen = "Stable Diffusion 2.x (cross-attention 1024 wide)"
    elif config.cross_dim == 2048:
        seen = "Stable Diffusion XL (cross-attention 2048 wide)"
    if seen is not None:
        raise UnknownFamily(f"{where}: this is {seen}; supported so far: {SUPPORTED}")


def _attention(
    reader: _Reader, key: str, kinds: Mapping[str, bool], count: int
) -> tuple[bool, ...]:
    names = reader.names(key, count)
    odd = [name for name in names if name not in kinds]
    if odd:
        raise UnknownFamily(
            f"{reader.path}: block {odd[0]!r} is not supported; known: {', '.join(kinds)}"
        )
    return tuple(kinds[name] for name in names)


def read_vae(path: Path) -> VaeConfig:
    """An autoencoder's numbers; raises ``UnknownFamily`` for features beyond the family."""
    reader = _Reader(path)
    reader.refuse(VAE_FIXED, VAE_READ | VAE_HARMLESS)
    channels = reader.sizes("block_out_channels")
    _attention(reader, "down_block_types", {"DownEncoderBlock2D": False}, len(channels))
    _attention(reader, "up_block_types", {"UpDecoderBlock2D": False}, len(channels))
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
    )
    for width in channels:
        if width % config.norm_groups:
            raise SourceCorrupt(
                f"{path}: {width} channels do not divide into {config.norm_groups} groups"
            )
    if not 0 < config.scale < 100:
        raise SourceCorrupt(f"{path}: scaling_factor {config.scale} makes no sense")
    return config


def read_text(path: Path, eos: int) -> ClipTextConfig:
    """A text encoder's numbers; ``eos`` is the tokenizer's end token."""
    reader = _Reader(path)
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


def check_length(where: str, length: int, config: ClipTextConfig) -> None:
    """Raise ``SourceCorrupt`` when the tokenizer makes more tokens than the encoder can place."""
    if length > config.positions:
        raise SourceCorrupt(
            f"{where}: the tokenizer makes {length} tokens and the text encoder has positions for "
            f"{config.positions}; set model_max_length in tokenizer/tokenizer_config.json to "
            f"{config.positions}"
        )


def read_scheduler(path: Path) -> tuple[NoiseTable, Literal["epsilon", "v_prediction"]]:
    """The noise table and what the U-Net predicts."""
    reader = _Reader(path)
    reader.refuse(SCHEDULER_FIXED, None)
    kind = reader.get("beta_schedule", str)
    if kind not in ("scaled_linear", "linear"):
        raise UnknownFamily(f"{path}: beta_schedule {kind!r}; known: scaled_linear, linear")
    prediction = reader.get("prediction_type", str, "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise UnknownFamily(f"{path}: prediction_type {prediction!r}; known: epsilon, v_prediction")
    table = NoiseTable(
        kind="linear" if kind == "linear" else "scaled_linear",
        beta_start=reader.get("beta_start", float),
        beta_end=reader.get("beta_end", float),
        train_steps=reader.size("num_train_timesteps", 1000),
    )
    if not 0 < table.beta_start <= table.beta_end < 1:
        raise SourceCorrupt(
            f"{path}: betas from {table.beta_start} to {table.beta_end} are not rising in 0..1"
        )
    return table, "v_prediction" if prediction == "v_prediction" else "epsilon"
