"""Which layer of a package a key of an adapter file means.

The same layer has a name for each program that trains: ``unet.down_blocks.0.attentions.0.proj_in``
(diffusers), ``base_model.model.down_blocks...`` (PEFT), ``lora_unet_down_blocks_0_attentions_0...``
(kohya), ``lora_unet_input_blocks_1_1_proj_in`` and ``diffusion_model.input_blocks.1.1.proj_in``
(Stable Diffusion's own names, LDM). All are derived from the names in the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
COMPONENTS = ("unet", *TEXT_ENCODERS)
"""Components an adapter may change."""

UNET_DOTTED = ("unet.", "", "base_model.model.", "base_model.model.unet.")
UNET_UNDERSCORED = ("lora_unet_", "lycoris_", "lycoris_unet_")
LDM_DOTTED = ("diffusion_model.", "model.diffusion_model.")
TEXT_DOTTED = {
    "text_encoder": (
        "text_encoder.", "te1.", "", "base_model.model.", "cond_stage_model.transformer.",
        "conditioner.embedders.0.transformer.", "clip_l.transformer.",
    ),
    "text_encoder_2": (
        "text_encoder_2.", "te2.", "", "base_model.model.", "clip_g.transformer.",
    ),
}  # fmt: skip
TEXT_UNDERSCORED = {
    "text_encoder": ("lora_te_", "lora_te1_", "lycoris_"),
    "text_encoder_2": ("lora_te2_", "lora_te_", "lycoris_"),
}
OLD_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
"""What diffusers called a text encoder's attention layers while it had LoRA code of its own."""

PARAMETERS = (
    (r"[._]lora(?:_linear_layer)?\.(?P<end>down|up)\.weight", None),
    (r"\.lora_(?P<end>down|up|mid)\.weight", None),
    (r"\.lora_A(?:\.\w+)?\.weight", "down"),
    (r"\.lora_B(?:\.\w+)?\.weight", "up"),
    (r"\.lora_B(?:\.\w+)?\.bias", "up_bias"),
    (r"\.lora_magnitude_vector(?:\.\w+)*", "magnitude"),
    (r"\.dora_scale", "dora_scale"),
    (r"\.alpha", "alpha"),
    (r"\.(?P<end>hada_(?:w[12]_[ab]|t[12]))", None),
    (r"\.(?P<end>lokr_(?:w[12](?:_[ab])?|t2))", None),
    (r"\.(?P<end>diff|diff_b|w_norm|b_norm|on_input|ia3_l|weight)", None),
)
"""Ends of keys, and what they hold; without a name it is the end itself."""
_ENDS = [(re.compile(rf"(?P<stem>.{{1,400}}?){end}"), name) for end, name in PARAMETERS]
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


@dataclass(frozen=True, order=True)
class Target:
    """A layer of a package."""

    component: str
    """``unet``, ``text_encoder`` or ``text_encoder_2``."""
    module: str
    """Its tensors' name without ``.weight`` and ``.bias``."""


def split_key(key: str) -> tuple[str, str] | None:
    """The layer a key names and what of it, e.g. ``up``; None when its end is not known."""
    for pattern, name in _ENDS:
        if match := pattern.fullmatch(key):
            return match["stem"].replace(".processor.", "."), name or match["end"]
    return None


class Names:
    """Every name of every layer of a package.

    Args:
        tensors: names of tensors by component.
    """

    def __init__(self, tensors: Mapping[str, Iterable[str]]) -> None:
        self._found: dict[str, Target] = {}
        self._blocks: dict[Target, str] = {}
        for component in COMPONENTS:
            modules = list(
                dict.fromkeys(
                    name.removesuffix(".weight").removesuffix(".bias")
                    for name in tensors.get(component, ())
                )
            )
            layers = len(
                {m.split(".")[3] for m in modules if m.startswith("down_blocks.0.resnets")}
            )
            crowded = {m.split(".")[1] for m in modules if re.match(r"up_blocks\.\d+\.att", m)}
            for module in modules:
                target = Target(component, module)
                ldm = None
                if component == "unet":
                    ldm = ldm_module(module, layers, crowded)
                    names = _unet_names(module, ldm)
                else:
                    names = _text_names(component, module)
                self._blocks[target] = _block(ldm)
                for name in names:
                    self._found.setdefault(name, target)

    def find(self, stem: str) -> Target | None:
        """The layer of a name; None when the package has no such layer."""
        return self._found.get(stem)

    def block(self, target: Target) -> str:
        """``IN04``, ``M00``, ``OUT11``; ``BASE`` for text encoders and what is in no block."""
        return self._blocks[target]


def _unet_names(module: str, ldm: str | None) -> Iterator[str]:
    for name in (module, module.removesuffix(".0") if module.endswith("to_out.0") else module):
        yield from (prefix + name for prefix in UNET_DOTTED)
        yield from (prefix + name.replace(".", "_") for prefix in UNET_UNDERSCORED)
    if ldm is not None:
        yield from (prefix + ldm for prefix in LDM_DOTTED)
        yield from (prefix + ldm.replace(".", "_") for prefix in UNET_UNDERSCORED)


def _text_names(component: str, module: str) -> Iterator[str]:
    head, _, last = module.rpartition(".")
    forms = [module]
    if last in OLD_ATTENTION and head.endswith("self_attn"):
        forms.append(f"{head}.{OLD_ATTENTION[last]}")
    forms += [form.removeprefix("text_model.") for form in forms]
    for form in forms:
        yield from (prefix + form for prefix in TEXT_DOTTED[component])
        yield from (prefix + form.replace(".", "_") for prefix in TEXT_UNDERSCORED[component])


def ldm_module(module: str, layers: int, crowded: Iterable[str] = ()) -> str | None:
    """The name a layer of a U-Net has in Stable Diffusion's own files; None when it has none.

    Args:
        module: diffusers' name.
        layers: ResNets of a down block.
        crowded: numbers of the up blocks that have attention, where the upsampler comes third.
    """
    if module in _OUTSIDE:
        return _OUTSIDE[module]
    parts = module.split(".")
    if parts[0] == "mid_block" and len(parts) > 3:
        place = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}.get(".".join(parts[1:3]))
        return None if place is None else f"middle_block.{place}.{_inside(parts[1], parts[3:])}"
    if parts[0] not in ("down_blocks", "up_blocks") or len(parts) < 5:
        return None
    block, kind, layer = int(parts[1]), parts[2], int(parts[3])
    inner = _inside(kind, parts[4:])
    if parts[0] == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op"
        number, name = 1 + block * (layers + 1) + layer, "input_blocks"
    else:
        if kind == "upsamplers":
            place = 2 if parts[1] in crowded else 1
            return f"output_blocks.{block * (layers + 1) + layers}.{place}.conv"
        number, name = block * (layers + 1) + layer, "output_blocks"
    return f"{name}.{number}.{int(kind == 'attentions')}.{inner}"


def _inside(kind: str, parts: list[str]) -> str:
    name = ".".join(parts)
    return _RESNET.get(name, name) if kind == "resnets" else name


def _block(ldm: str | None) -> str:
    match = re.match(r"(input|output)_blocks\.(\d+)\.", ldm or "")
    if match:
        return f"{'IN' if match[1] == 'input' else 'OUT'}{int(match[2]):02d}"
    return "M00" if (ldm or "").startswith("middle_block") else "BASE"
