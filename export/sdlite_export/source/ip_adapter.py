"""The numbers of an IP-Adapter, from the shapes of its tensors, and which tensors it has.

Its authors' files hold two mappings, ``image_proj`` and ``ip_adapter``; diffusers reads and writes
the same, with dots where they are ``.safetensors``. Keys and values of the U-Net's cross-attentions
have odd numbers, counted over the way down, the way up, the middle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sdlite.errors import SourceCorrupt, UnknownFamily
from sdlite_export.configs import IPAdapterConfig
from sdlite_export.source.config_reader import MAX_LAYERS
from sdlite_export.source.gather import Found
from sdlite_export.source.layout import Shape
from sdlite_export.source.ldm_config import Lookup

PROJECTION, LAYERS = "image_proj.", "ip_adapter."
"""Starts of the names of its two parts."""
HEAD_WIDTH = 64
"""Channels of an attention head of the resampler; no shape shows them."""
KEYS = "ip_adapter.{}.to_k_ip.weight"
VALUES = "ip_adapter.{}.to_v_ip.weight"
MAX_CROSSES = 256


def is_ip_adapter(names: Iterable[str]) -> bool:
    """Whether tensors of these names are one."""
    return any(name.startswith((PROJECTION, LAYERS)) for name in names)


def derive_ip_adapter(where: str, found: Mapping[str, Found]) -> IPAdapterConfig:
    """The numbers of an IP-Adapter.

    Raises ``SourceCorrupt`` when tensors are missing or misshapen, ``UnknownFamily`` for FaceID,
    which looks at faces with a network of another kind.
    """
    lookup = Lookup(found, naming="diffusers")
    if lookup.shape(KEYS.format(1)) is None:
        raise SourceCorrupt(f"{where}: tensor {KEYS.format(1)} is missing; the file is incomplete")
    cross_dim = lookup.size(where, KEYS.format(1), 1)
    crosses: list[int] = []
    while len(crosses) < MAX_CROSSES and lookup.shape(KEYS.format(2 * len(crosses) + 1)):
        crosses.append(lookup.size(where, KEYS.format(2 * len(crosses) + 1)))

    def size(name: str, axis: int = 0) -> int:
        return lookup.size(where, f"{PROJECTION}{name}", axis)

    def has(name: str) -> bool:
        return lookup.shape(f"{PROJECTION}{name}") is not None

    if has("latents"):
        width = size("layers.0.0.to_q.weight")
        if width % HEAD_WIDTH:
            raise SourceCorrupt(
                f"{where}: a resampler {width} wide, which heads of {HEAD_WIDTH} do not divide"
            )
        return IPAdapterConfig(
            "plus",
            size("proj_in.weight", 1),
            cross_dim,
            tuple(crosses),
            tokens=size("latents", 1),
            inner=size("latents", 2),
            feed=size("layers.0.1.1.weight"),
            heads=width // HEAD_WIDTH,
            depth=lookup.count(f"{PROJECTION}layers.{{}}.0.to_q.weight", MAX_LAYERS),
        )
    if has("proj.3.weight"):
        width, inner = size("proj.0.weight", 1), size("proj.0.weight")
        return IPAdapterConfig("full", width, cross_dim, tuple(crosses), inner=inner)
    if not has("proj.weight"):
        face = has("proj.0.weight") or any("perceiver_resampler" in name for name in found)
        what = "an IP-Adapter FaceID, which looks at faces with a network of another kind"
        raise UnknownFamily(
            f"{where}: {what if face else 'an IP-Adapter of an unknown kind'}; known: plain, plus "
            "and full (for faces), which look with CLIP"
        )
    rows = size("proj.weight")
    if rows % cross_dim:
        raise SourceCorrupt(
            f"{where}: {PROJECTION}proj.weight gives {rows} numbers, no whole tokens of {cross_dim}"
        )
    tokens = rows // cross_dim
    return IPAdapterConfig(
        "plain", size("proj.weight", 1), cross_dim, tuple(crosses), tokens=tokens
    )


def ip_adapter_slots(config: IPAdapterConfig) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of an IP-Adapter's tensors."""
    for name, shape in _projection(config):
        yield f"{PROJECTION}{name}", shape
    for place, channels in enumerate(config.crosses):
        for pattern in (KEYS, VALUES):
            yield pattern.format(2 * place + 1), (channels, config.cross_dim)


def _projection(config: IPAdapterConfig) -> Iterator[tuple[str, Shape]]:
    width, cross, inner = config.width, config.cross_dim, config.inner
    if config.kind == "plain":
        yield from _linear("proj", config.tokens * cross, width)
        yield from _norm("norm", cross)
        return
    if config.kind == "full":
        yield from _linear("proj.0", inner, width)
        yield from _linear("proj.2", cross, inner)
        yield from _norm("proj.3", cross)
        return
    yield "latents", (1, config.tokens, inner)
    yield from _linear("proj_in", inner, width)
    yield from _linear("proj_out", cross, inner)
    yield from _norm("norm_out", cross)
    attention = HEAD_WIDTH * config.heads
    for index in range(config.depth):
        first, second = f"layers.{index}.0", f"layers.{index}.1"
        yield from _norm(f"{first}.norm1", inner)
        yield from _norm(f"{first}.norm2", inner)
        yield f"{first}.to_q.weight", (attention, inner)
        yield f"{first}.to_kv.weight", (2 * attention, inner)
        yield f"{first}.to_out.weight", (inner, attention)
        yield from _norm(f"{second}.0", inner)
        yield f"{second}.1.weight", (config.feed, inner)
        yield f"{second}.3.weight", (inner, config.feed)


def _linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
