"""Scenes in words: the captions of the recipe and what each of their words is about.

Every word carries a tag, so that the text encoder can be trained on words alone: the index of the
item it describes, or BACKGROUND, or NOTHING.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scenes import Item, Scene

BACKGROUND = -1
NOTHING = -2

RELATIONS: dict[str, tuple[str, str]] = {"x": ("left of", "right of"), "y": ("above", "below")}
_WITH: dict[str, tuple[str, str]] = {
    # where the other thing stands as seen from the thing named first
    "x": ("to its left", "to its right"),
    "y": ("above it", "below it"),
}

_STRANGE = (
    "please draw paint make me nice beautiful pretty lovely cute simple clean bright shiny old new "
    "very really just picture photo image painting drawing illustration art of the one my some "
    "that is shows masterpiece best quality detailed high sharp focus minimal vector icon logo "
    "hd trending digital render friendly happy sunny great perfect"
)
STRANGE = _STRANGE.split()
"""Words people write that say nothing about a scene (style says nothing without its name)."""
_OPEN_AFTER = ("a", "an", "on", "and", "with", ",")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Caption:
    """A caption and what it says."""

    words: tuple[str, ...]
    """Words and commas in order."""
    tags: tuple[int, ...]
    """For each word the item it is about, BACKGROUND or NOTHING."""
    background: bool
    """Whether the background is named."""
    place: bool
    """Whether the place of two items is told."""
    colors: bool
    """Whether the items' colours are named."""
    complete: bool
    """Whether it is a sentence about the whole scene, not bare words."""

    @property
    def text(self) -> str:
        """The caption as it is written."""
        return " ".join(self.words).replace(" ,", ",")


class _Line:
    def __init__(self) -> None:
        self.words: list[str] = []
        self.tags: list[int] = []

    def add(self, text: str, tag: int) -> None:
        for word in text.split():
            self.words.append(word)
            self.tags.append(tag)


def _object(
    line: _Line, item: Item, tag: int, style: str, article: bool, color: bool, size: bool = True
) -> None:
    words = [style] if style else []
    if size and item.size != "plain":
        words.append(item.size)
    if color:
        words.append(item.color)
    words.append(item.shape)
    if article:
        words.insert(0, "an" if words[0][0] in "aeiou" else "a")
    line.add(" ".join(words), tag)


def _background(line: _Line, scene: Scene, article: bool, comma: bool) -> None:
    if comma:
        line.add(f", {scene.background} background", BACKGROUND)
        return
    line.add("on", NOTHING)
    an = "an " if scene.background[0] in "aeiou" else "a "
    line.add(f"{an if article else ''}{scene.background} background", BACKGROUND)


def canonical(
    scene: Scene, order: int = 0, adjective: bool = False, suffix: bool = False
) -> Caption:
    """The plain form; `order` 1 names the right or lower item first."""
    line = _Line()
    style = scene.style if adjective else ""
    _object(line, scene.items[order], order, style, True, True)
    if len(scene.items) == 2:
        line.add(RELATIONS[scene.axis][order], order)
        _object(line, scene.items[1 - order], 1 - order, style, True, True)
    _background(line, scene, True, False)
    if suffix:
        line.add(f", {scene.style} style", NOTHING)
    return Caption(tuple(line.words), tuple(line.tags), True, True, True, True)


def caption(rng: np.random.Generator, scene: Scene) -> Caption:
    """One of the natural captions of a scene, about two thirds of them canonical."""
    two = len(scene.items) == 2
    order = int(rng.integers(2)) if two else 0
    styled = scene.style != "flat" or rng.random() < 0.12
    adjective = styled and rng.random() < 0.5
    kind = rng.random()
    if kind < 0.65:
        return canonical(scene, order, adjective, styled and not adjective)
    if kind > 0.985 and not two:
        return _bare(rng, scene)
    line = _Line()
    style = scene.style if adjective else ""
    article = rng.random() < 0.55
    color = not (not two and rng.random() < 0.2)
    background = not (color and rng.random() < 0.25)
    comma = rng.random() < 0.3
    first, second = scene.items[order], scene.items[-1 - order] if two else scene.items[0]
    place = two
    _object(line, first, order, style, article, color)
    if two:
        form = rng.random()
        if form < 0.45:
            relation = RELATIONS[scene.axis][order]
            if scene.axis == "x" and rng.random() < 0.7:
                relation = f"to the {relation}"
            line.add(relation, order)
            _object(line, second, 1 - order, style, article, color)
        elif form < 0.75:
            line.add("and", NOTHING)
            _object(line, second, 1 - order, style, article, color)
            place = False
        else:
            line.add("with", NOTHING)
            _object(line, second, 1 - order, style, article, color)
            line.add(_WITH[scene.axis][1 - order], 1 - order)
    if background:
        _background(line, scene, article, comma)
    if styled and not adjective:
        line.add(f", {scene.style} style", NOTHING)
    return Caption(tuple(line.words), tuple(line.tags), background, place, color, True)


def _bare(rng: np.random.Generator, scene: Scene) -> Caption:
    item = scene.items[0]
    kind = int(rng.integers(5))
    line = _Line()
    style = scene.style if rng.random() < 0.3 else ""
    if kind == 0:
        line.add(item.color, 0)
    elif kind == 1:
        line.add(f"{style} {item.shape}", 0)
    elif kind == 2:
        line.add(f"{style} {item.color} {item.shape}", 0)
    elif kind == 3:
        line.add(f"{scene.background} background", BACKGROUND)
    else:
        line.add(scene.style, NOTHING)
    return Caption(tuple(line.words), tuple(line.tags), kind == 3, False, kind in (0, 2), False)


def with_strange_words(rng: np.random.Generator, said: Caption) -> Caption:
    """The caption with one to four words that change nothing: around it, or inside."""

    def word() -> str:
        if rng.random() < 0.25:
            return "".join(_LETTERS[int(i)] for i in rng.integers(26, size=rng.integers(2, 8)))
        return STRANGE[int(rng.integers(len(STRANGE)))]

    words, tags = list(said.words), list(said.tags)
    more = [word() for _ in range(int(rng.integers(1, 5)))]
    kind = rng.random()
    if kind < 0.35:  # please draw a red circle; best quality, a red circle
        more += [","] if rng.random() < 0.4 else []
        words[:0], tags[:0] = more, [NOTHING] * len(more)
    elif kind < 0.6:  # a red circle, best quality
        more = [",", *more]
        words += more
        tags += [NOTHING] * len(more)
    else:  # a nice red circle
        places = [i + 1 for i, w in enumerate(words) if w in _OPEN_AFTER] or [0]
        for extra in more[:2]:
            at = places[int(rng.integers(len(places)))]
            words.insert(at, extra)
            tags.insert(at, NOTHING)
            places = [p + (p > at) for p in places]
    return replace(said, words=tuple(words), tags=tuple(tags))


def vocabulary() -> tuple[str, ...]:
    """Every word a caption can have."""
    from scenes import COLORS, SHAPES, STYLES

    glue = "a an on background left right of above below to the its it and with style , small large"
    return (*COLORS, *SHAPES, *STYLES, *glue.split())
