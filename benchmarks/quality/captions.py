"""What a caption of the shapes model asks for.

A small grammar of its own, wide enough for every way the model's captions are worded:

    [a] [style] [size] [COLOUR] SHAPE [[to the] left of|right of|above|below OBJECT]
    OBJECT and OBJECT · OBJECT with OBJECT to its left|to its right|above it|below it
    [on a COLOUR background | , COLOUR background] [, STYLE style]

What a caption leaves out is None, which means free; only size and style have defaults (plain,
flat), because the captions say nothing else for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks.quality.outlines import SHAPES
from benchmarks.quality.palette import NAMES

SIZES: tuple[str, ...] = ("small", "plain", "large")
STYLES: tuple[str, ...] = ("flat", "outline", "soft")
RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")
INVERSE: dict[str, str] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
_SIDES: dict[str, str] = {
    "to its left": "left of",
    "to its right": "right of",
    "above it": "above",
    "below it": "below",
}


@dataclass(frozen=True)
class WantedObject:
    """One object of a caption."""

    colour: str | None
    """Colour name, None when the caption leaves it free."""
    shape: str | None
    """Shape name, None when the caption leaves it free."""
    size: str
    """small, plain or large."""


@dataclass(frozen=True)
class Wanted:
    """A caption understood."""

    objects: tuple[WantedObject, ...]
    """One or two objects, in the order of the caption."""
    relation: str | None
    """Where the first object is, seen from the second; None when free."""
    background: str | None
    """Colour name, None when free."""
    style: str
    """flat, outline or soft."""


class CaptionError(ValueError):
    """A caption outside the grammar; the message names the caption and the part."""


def parse_caption(caption: str) -> Wanted:
    """Read a caption; raises CaptionError naming the words it does not know."""
    text = re.sub(r"\s+", " ", caption.strip().lower()).rstrip(". ")
    styles: list[str] = []
    text, style = _cut(text, rf",? ({'|'.join(STYLES)}) style$")
    if style:
        styles.append(style)
    text, background = _cut(text, rf"(?:,| on)(?: an?)? ({'|'.join(NAMES)}) background$")

    relation: str | None = None
    parts = [text]
    placed = re.fullmatch(r"(.+) with (.+) (to its left|to its right|above it|below it)", text)
    beside = re.fullmatch(r"(.+?) (?:to the )?(left of|right of|above|below) (.+)", text)
    joined = re.fullmatch(r"(.+) and (.+)", text)
    if placed:
        parts = [placed[1], placed[2]]
        relation = INVERSE[_SIDES[placed[3]]]
    elif beside:
        parts = [beside[1], beside[3]]
        relation = beside[2]
    elif joined:
        parts = [joined[1], joined[2]]

    objects = []
    for part in parts:
        wanted, style = _object(part, caption)
        objects.append(wanted)
        if style:
            styles.append(style)
    if len(set(styles)) > 1:
        raise CaptionError(
            f"caption {caption!r} names two styles: {', '.join(sorted(set(styles)))}"
        )
    return Wanted(tuple(objects), relation, background, styles[0] if styles else "flat")


def _cut(text: str, pattern: str) -> tuple[str, str | None]:
    """Cut a pattern with one group off the text; returns the rest and the group."""
    found = re.search(pattern, text)
    if not found:
        return text, None
    return text[: found.start()], found[1]


def _object(part: str, caption: str) -> tuple[WantedObject, str | None]:
    """Read the words of one object; returns it and its style word."""
    words = part.split()
    if words and words[0] in ("a", "an", "the"):
        words = words[1:]
    if not words:
        raise CaptionError(f"caption {caption!r}: an object without words")
    found: dict[str, str] = {}
    kinds = (("style", STYLES), ("size", ("small", "large")), ("colour", NAMES), ("shape", SHAPES))
    for word in words:
        kind = next((name for name, known in kinds if word in known), None)
        if kind is None or kind in found:
            why = "is not known" if kind is None else f"is a second {kind}"
            raise CaptionError(f"caption {caption!r}: {word!r} in {part!r} {why}")
        found[kind] = word
    wanted = WantedObject(found.get("colour"), found.get("shape"), found.get("size", "plain"))
    return wanted, found.get("style")
