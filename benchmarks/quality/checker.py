"""Judges whether a picture shows what its caption says; numpy and Pillow only.

    from benchmarks.quality.checker import judge, read_scene
    verdict = judge("a red circle on a blue background", image)
    verdict.wholly_right, verdict.wrong

It shares no code with the renderer that draws the training scenes: colours, shapes, captions and
limits are written again here from the words that describe them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations

from PIL import Image

from benchmarks.quality.captions import CaptionError, Wanted, WantedObject, parse_caption
from benchmarks.quality.scene import Reading, SceneObject, read_scene

__all__ = [
    "ATTRIBUTES",
    "CaptionError",
    "Reading",
    "SceneObject",
    "Verdict",
    "judge",
    "judge_reading",
    "parse_caption",
    "place",
    "read_scene",
    "shares",
]

ATTRIBUTES: tuple[str, ...] = (
    "count",
    "colour",
    "shape",
    "size",
    "relation",
    "background",
    "style",
    "clean",
)

STAIN_LIMIT = 0.06
CLUTTER_LIMIT = 0.003
_LEAST_APART = 0.2
_LEANING = 1.4


@dataclass(frozen=True)
class Verdict:
    """How a picture compares with its caption."""

    wholly_right: bool
    """All that the caption names is there and right, nothing else is, and the picture is clean."""
    attributes: Mapping[str, bool]
    """Result for each of ATTRIBUTES that the caption says something about.

    count: as many objects as named · colour, shape, size: of every object, matched so that most
    agrees · relation · background · style (with sharp edges unless soft) · clean: no stains, no
    clutter.
    """
    wrong: tuple[str, ...]
    """One short phrase for each thing that is wrong, empty when wholly right."""
    reading: Reading
    """What was read off the picture."""


def judge(prompt: str, image: Image.Image) -> Verdict:
    """Judge a 128x128 picture against its caption.

    Raises CaptionError for a caption outside the grammar of captions.py and ValueError for a
    picture of another size.
    """
    return judge_reading(parse_caption(prompt), read_scene(image))


def judge_reading(wanted: Wanted, reading: Reading) -> Verdict:
    """Judge what was read off a picture against a caption already understood."""
    results: dict[str, bool] = {}
    wrong: list[str] = []

    def note(attribute: str, right: bool, phrase: str) -> None:
        results[attribute] = results.get(attribute, True) and right
        if not right:
            wrong.append(phrase)

    note(
        "count",
        len(reading.objects) == len(wanted.objects),
        f"{len(reading.objects)} objects, not {len(wanted.objects)}",
    )
    matched = _match(wanted, reading)
    for named, seen in zip(wanted.objects, matched, strict=True):
        if named.colour is not None:
            colour = seen.colour if seen else None
            note("colour", colour == named.colour, f"{_a(colour)}, not {named.colour}")
        elif seen is not None and seen.colour is None:
            note("colour", False, "a colour without name")
        if named.shape is not None:
            shape = seen.shape if seen else None
            note("shape", shape == named.shape, f"{_a(shape)}, not {named.shape}")
        size = seen.size if seen else None
        note("size", size == named.size, f"{_a(size)}, not {named.size}")
    if wanted.relation is not None:
        first, second = matched[0], matched[1]
        seen_place = place(first, second) if first and second else None
        note("relation", seen_place == wanted.relation, f"{_a(seen_place)}, not {wanted.relation}")
    if wanted.background is not None:
        note(
            "background",
            reading.background == wanted.background,
            f"{_a(reading.background)} background, not {wanted.background}",
        )
    for seen in (item for item in matched if item is not None):
        note("style", seen.style == wanted.style, f"{seen.style or 'blurred'}, not {wanted.style}")
    stain = max((item.stain for item in reading.objects), default=0.0)
    note("clean", stain <= STAIN_LIMIT, f"stains over {stain:.0%} of an object")
    note("clean", reading.clutter <= CLUTTER_LIMIT, f"clutter over {reading.clutter:.1%}")
    return Verdict(all(results.values()), results, tuple(wrong), reading)


def place(first: SceneObject, second: SceneObject) -> str | None:
    """Where the first object lies, seen from the second; None when too near or on a diagonal."""
    across, down = first.x - second.x, first.y - second.y
    if max(abs(across), abs(down)) < _LEAST_APART:
        return None
    if abs(across) > _LEANING * abs(down):
        return "left of" if across < 0 else "right of"
    if abs(down) > _LEANING * abs(across):
        return "above" if down < 0 else "below"
    return None


def shares(verdicts: Iterable[Verdict]) -> dict[str, float | int]:
    """Count and shares of right pictures: `wholly_right` and each attribute that was asked for."""
    listed = list(verdicts)
    summary: dict[str, float | int] = {"count": len(listed)}
    if listed:
        summary["wholly_right"] = round(sum(v.wholly_right for v in listed) / len(listed), 4)
    for name in ATTRIBUTES:
        asked = [v.attributes[name] for v in listed if name in v.attributes]
        if asked:
            summary["right_count" if name == "count" else name] = round(sum(asked) / len(asked), 4)
    return summary


def _a(value: str | None) -> str:
    return value if value is not None else "unclear"


def _agreement(named: WantedObject, seen: SceneObject | None) -> int:
    """How many of colour, shape and size agree, the colour and the shape counting more."""
    if seen is None:
        return 0
    return (
        3 * (named.colour is not None and named.colour == seen.colour)
        + 3 * (named.shape is not None and named.shape == seen.shape)
        + (named.size == seen.size)
    )


def _match(wanted: Wanted, reading: Reading) -> tuple[SceneObject | None, ...]:
    """Give each named object the picture's object that makes most of the caption true."""
    candidates: list[SceneObject | None] = [*reading.objects[:4]]
    candidates += [None] * (len(wanted.objects) - len(candidates))

    def score(chosen: tuple[SceneObject | None, ...]) -> int:
        total = sum(_agreement(n, s) for n, s in zip(wanted.objects, chosen, strict=True))
        if wanted.relation is not None and chosen[0] is not None and chosen[1] is not None:
            total += 2 * (place(chosen[0], chosen[1]) == wanted.relation)
        return total

    return max(permutations(candidates, len(wanted.objects)), key=score)
