"""Tags for extra networks: ``<lora:name:0.8>``, found and taken out of a prompt."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sdlite.errors import RequestError
from sdlite.loras import LoraUse

LORA_KINDS = ("lora", "lyco")
"""A1111 reads both as LoRA and its relatives."""
_TAG = re.compile(r"<(\w+):([^>]+)>")
BLOCK_LISTS: dict[int, tuple[str, ...]] = {
    26: ("BASE", *(f"IN{n:02d}" for n in range(12)), "M00", *(f"OUT{n:02d}" for n in range(12))),
    20: ("BASE", *(f"IN{n:02d}" for n in range(9)), "M00", *(f"OUT{n:02d}" for n in range(9))),
    17: (
        *("BASE", "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00"),
        *(f"OUT{n:02d}" for n in range(3, 12)),
    ),
    12: ("BASE", "IN04", "IN05", "IN07", "IN08", "M00", *(f"OUT{n:02d}" for n in range(6))),
}
"""Blocks that lists of so many factors mean: all of SD 1 and 2, all of SDXL, and of each those that
have attention."""


@dataclass(frozen=True)
class Tag:
    """``<kind:argument:name=argument>``."""

    kind: str
    """``lora``, ``hypernet`` ..."""
    arguments: tuple[str, ...]
    """What follows the kind, cut at colons."""
    text: str
    """As typed."""


def split_tags(prompt: str) -> tuple[str, tuple[Tag, ...]]:
    """The prompt without its tags, and the tags in order."""
    tags = tuple(Tag(m[1], tuple(m[2].split(":")), m[0]) for m in _TAG.finditer(prompt))
    return _TAG.sub("", prompt), tags


def lora_tags(tags: Sequence[Tag]) -> tuple[LoraUse, ...]:
    """Those that name a LoRA, read as A1111 does: name, text strength (which the U-Net's follows),
    U-Net strength, ranks; each also as ``te=``, ``unet=``, ``dyn=``; and ``lbw=``, factors by
    block as the extension LoRA Block Weight lists them.

    Raises ``RequestError`` for a strength that is no number.
    """
    return tuple(_lora(tag.arguments, tag.text) for tag in tags if tag.kind in LORA_KINDS)


def read_strength(name: str, text: str) -> LoraUse:
    """A LoRA by name with what follows it outside a prompt: ``0.8``, ``0.5:1``, ``te=0:unet=1``.

    Raises ``RequestError``.
    """
    return _lora((name.replace("=", " "), *text.split(":")), f"{name}={text}")


def with_tags(prompt: str, loras: Sequence[LoraUse]) -> str:
    """A prompt with the tags that say the same as ``loras``, for programs that know only tags."""
    return "".join([prompt, *(f" {tag_of(use)}" for use in loras)])


def tag_of(use: LoraUse) -> str:
    """The tag that says the same as a ``LoraUse``."""
    unet, text = use.unet, use.unet if use.text_encoder is None else use.text_encoder
    parts = ["lora", use.name, f"{text:g}", *([] if text == unet else [f"{unet:g}"])]
    if use.rank is not None:
        parts.append(f"dyn={use.rank}")
    if use.blocks:
        factors = dict(use.blocks)
        names = next(
            (names for _, names in sorted(BLOCK_LISTS.items()) if factors.keys() <= set(names)),
            BLOCK_LISTS[26],
        )
        parts.append("lbw=" + ",".join(f"{factors.get(name, 1.0):g}" for name in names))
    return f"<{':'.join(parts)}>"


def _lora(arguments: Sequence[str], text: str) -> LoraUse:
    pairs = [argument.split("=", 1) for argument in arguments if "=" in argument]
    named = {name.strip(): value for name, value in pairs}
    places = [argument for argument in arguments if "=" not in argument]
    given = dict(zip(("name", "te", "unet", "dyn"), places, strict=False)) | named
    unknown = sorted(given.keys() - {"name", "te", "unet", "dyn", "lbw"})
    if unknown:
        raise RequestError(f"{text}: {unknown[0]!r} is not known; te, unet, dyn and lbw are")

    def number(name: str, default: float) -> float:
        return _number(given[name], text) if name in given else default

    text_encoder = number("te", 1.0)
    unet = number("unet", text_encoder)
    rank = int(number("dyn", 0.0))
    return LoraUse(
        given.get("name", "").strip(),
        unet,
        None if text_encoder == unet else text_encoder,
        blocks=_blocks(given["lbw"], text) if "lbw" in given else (),
        rank=rank if rank > 0 else None,
    )


def _number(value: str, text: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise RequestError(f"{text}: {value!r} is no number; e.g. <lora:name:0.8>")
    return found


def _blocks(listed: str, text: str) -> tuple[tuple[str, float], ...]:
    factors = [_number(value, text) for value in listed.split(",")]
    if len(factors) not in BLOCK_LISTS:
        lengths = ", ".join(map(str, sorted(BLOCK_LISTS)))
        raise RequestError(f"{text}: lbw has {len(factors)} factors; lists have {lengths}")
    return tuple(zip(BLOCK_LISTS[len(factors)], factors, strict=True))
