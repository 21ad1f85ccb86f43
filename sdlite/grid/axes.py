"""Axes of a grid: a setting and the values it takes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from itertools import product
from typing import Any

from sdlite.changes import CHANGES, changed, parse_change, spelled
from sdlite.errors import RequestError, UnknownName
from sdlite.loras import LoraUse
from sdlite.types import Request

MODEL = "model"
REPLACE = "replace"
"""Words of the prompts replaced: the first value is what to look for (A1111's Prompt S/R)."""
LORA = "lora"
"""``lora:NAME``: how strongly it is applied."""
NAMES = (*CHANGES, REPLACE, MODEL, f"{LORA}:NAME")
ALIASES = {
    "cfg": "guidance",
    "cfg-scale": "guidance",
    "negative-prompt": "negative",
    "prompt-s/r": REPLACE,
    "s/r": REPLACE,
    "checkpoint": MODEL,
    "checkpoint-name": MODEL,
    "scheduler": "schedule",
    "schedule-type": "schedule",
    "denoising": "strength",
    "denoising-strength": "strength",
    "var.-seed": "variation-seed",
    "var.-strength": "variation-strength",
    "hires-scale": "hires",
    "eta-noise-seed-delta": "ensd",
}
"""What other programs call them."""
WHOLE = frozenset(
    (
        *("steps", "seed", "clip-skip", "variation-seed", "ensd", "width", "height"),
        *("hires-steps", "noise-level"),
    )
)
REAL = frozenset(
    (
        *("guidance", "guidance-rescale", "variation-strength", "eta", "s-churn", "s-tmin"),
        *("s-tmax", "s-noise", "strength", "image-guidance", "mask-blur", "hires"),
        *("hires-strength", "hires-guidance"),
    )
)
"""Settings whose values may be given as ranges: numbers."""
_NUMBER = r"-?\d{1,20}(?:\.\d{1,10})?"
RANGE = re.compile(
    rf"({_NUMBER})\s*-\s*({_NUMBER})\s*"
    rf"(?:\(\s*\+?({_NUMBER})\s*\)|\[\s*(\d{{1,4}})\s*\])?"
)
"""``1-5``, ``10-50 (+20)``, ``5-1 (-2)``, ``1-10 [4]`` (so many, evenly), as in A1111."""
MOST_VALUES = 500
MOST_CELLS = 10_000


@dataclass(frozen=True)
class Axis:
    """A setting and its values."""

    name: str
    """Which: one of ``NAMES``."""
    texts: tuple[str, ...]
    """The values as they are written."""
    values: tuple[Any, ...]
    """The same, parsed."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What stands beside the pictures."""
        if self.name in (REPLACE, "prompt"):
            return self.texts
        return tuple(f"{self.name} {text}" for text in self.texts)


@dataclass(frozen=True)
class Cell:
    """One picture of a grid."""

    place: tuple[int, ...]
    """Index of its value along each axis."""
    labels: tuple[str, ...]
    """What these values are."""
    request: Request
    """What it is drawn from."""
    model: str | None
    """The model; None is the one the grid is drawn with."""


def read_axis(text: str, option: str = "--x") -> Axis:
    """An axis from ``NAME=VALUE,VALUE,...``; a value with a comma stands in double quotes.

    Raises:
        UnknownName: there is no such setting; offers the nearest.
        RequestError: there are no values, too many, or one cannot be used.
    """
    name, sign, listed = text.partition("=")
    if not sign:
        raise RequestError(f"{option} {text!r} is not NAME=VALUE,VALUE, like steps=10,20,30")
    name = _named(name)
    try:
        rows = list(csv.reader([listed], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise RequestError(f"{option} {text!r}: {error}; close the quotes") from error
    parts = [part if name == REPLACE else part.strip() for part in (rows[0] if rows else [])]
    texts = tuple(expanded for part in parts for expanded in _expanded(name, part, option))
    if not texts or (name != REPLACE and name not in ("prompt", "negative") and "" in texts):
        raise RequestError(f"{option} {text!r} has no value between two commas, or none at all")
    if len(texts) > MOST_VALUES:
        raise RequestError(f"{option} {name} has {len(texts)} values; at most {MOST_VALUES}")
    if name == REPLACE and (len(texts) < 2 or not texts[0]):
        raise RequestError(
            f"{option} {text!r}: give the words to look for and what to put in their place, like "
            "replace=red,green,blue"
        )
    return Axis(name, texts, tuple(_parsed(name, value, option) for value in texts))


def cells(request: Request, axes: Sequence[Axis]) -> tuple[Cell, ...]:
    """Every picture of a grid, those of one model after each other.

    A seed that is to be drawn must be drawn before, so that all have the same.

    Raises:
        RequestError: a setting comes twice, there is nothing it could change, words to be replaced
            are not in the prompts, or there are too many pictures.
    """
    names = [axis.name for axis in axes]
    if not names or len(names) > 3:
        raise RequestError("a grid has one to three axes: --x, --y, --z")
    for name in names:
        if names.count(name) > 1 and name != REPLACE:
            raise RequestError(f"two axes are both {name}; give each another setting")
    count = 1
    for axis in axes:
        count *= len(axis.values)
        if axis.name == REPLACE:
            _check_replace(request, axis, axes)
    if count > MOST_CELLS:
        raise RequestError(f"a grid of {count} pictures; at most {MOST_CELLS}")
    found = list(_cells(request, axes))
    if MODEL in names:
        models = names.index(MODEL)
        found.sort(key=lambda cell: cell.place[models])
    return tuple(found)


def _cells(request: Request, axes: Sequence[Axis]) -> Iterator[Cell]:
    for place in product(*(range(len(axis.values)) for axis in reversed(axes))):
        place = tuple(reversed(place))
        cell, model = request, None
        # Prompts come first: words are replaced in what they say.
        order = sorted(range(len(axes)), key=lambda i: axes[i].name == REPLACE)
        for index in order:
            axis, value = axes[index], axes[index].values[place[index]]
            if axis.name == MODEL:
                model = value
            elif axis.name == REPLACE:
                cell = _replaced(cell, axis.values[0], value)
            elif axis.name.startswith(f"{LORA}:"):
                cell = _with_lora(cell, axis.name.partition(":")[2], value)
            else:
                cell = changed(cell, {axis.name: value})
        labels = tuple(axis.labels[i] for axis, i in zip(axes, place, strict=True))
        yield Cell(place, labels, cell, model)


def _named(name: str) -> str:
    kind, colon, rest = name.strip().partition(":")
    if colon and kind.strip().lower() == LORA and rest.strip():
        return f"{LORA}:{rest.strip()}"
    found = spelled(name)
    found = ALIASES.get(found, found)
    if found not in (*CHANGES, REPLACE, MODEL):
        raise UnknownName("axis", name.strip(), NAMES)
    return found


def _expanded(name: str, text: str, option: str) -> tuple[str, ...]:
    """A range's numbers, or the value itself."""
    lora = name.startswith(f"{LORA}:")
    match = RANGE.fullmatch(text) if lora or name in WHOLE | REAL else None
    if match is None:
        return (text,)
    first, last = Decimal(match[1]), Decimal(match[2])
    if match[4] is not None:
        count = int(match[4])
        if not 1 <= count <= MOST_VALUES:
            raise RequestError(f"{option} {text!r}: 1 to {MOST_VALUES} values can be asked for")
        step = (last - first) / max(count - 1, 1)
        numbers = [first + step * index for index in range(count)]
        if name in WHOLE:
            numbers = [number.to_integral_value() for number in numbers]
        return tuple(_short(number) for number in numbers)
    step = Decimal(match[3]) if match[3] is not None else Decimal(1 if last >= first else -1)
    if step == 0 or (last - first) * step < 0:
        raise RequestError(f"{option} {text!r} never gets from {first} to {last}")
    count = int((last - first) / step) + 1
    if count > MOST_VALUES:
        raise RequestError(f"{option} {text!r} has {count} values; at most {MOST_VALUES}")
    return tuple(_short(first + step * index) for index in range(count))


def _short(number: Decimal) -> str:
    text = f"{number:.6f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _parsed(name: str, text: str, option: str) -> Any:
    if name in (MODEL, REPLACE):
        return text
    if name.startswith(f"{LORA}:"):
        try:
            number = Decimal(text)
        except InvalidOperation:
            number = Decimal("nan")
        if not number.is_finite() or abs(number) > 100:
            raise RequestError(f"{option} {name}: {text!r} is not a number from -100 to 100")
        return float(number)
    return parse_change(name, text, option)


def _check_replace(request: Request, axis: Axis, axes: Sequence[Axis]) -> None:
    prompts = [request.prompt, request.negative_prompt]
    for other in axes:
        if other.name in ("prompt", "negative") or (other.name == REPLACE and other is not axis):
            prompts += other.values
    if not any(axis.values[0] in prompt for prompt in prompts):
        raise RequestError(f"{axis.values[0]!r} is not in the prompt, so nothing can replace it")


def _replaced(request: Request, old: str, new: str) -> Request:
    return replace(
        request,
        prompt=request.prompt.replace(old, new),
        negative_prompt=request.negative_prompt.replace(old, new),
    )


def _with_lora(request: Request, name: str, weight: float) -> Request:
    """A LoRA at a strength, where the prompt or the request has it already in its place."""
    tag = re.compile(rf"<lora:{re.escape(name)}(:[^<>]*)?>", re.IGNORECASE)
    if tag.search(request.prompt):
        return replace(request, prompt=tag.sub(f"<lora:{name}:{weight:g}>", request.prompt))
    if any(lora.name == name for lora in request.loras):
        loras = [
            replace(lora, unet=weight, text_encoder=None) if lora.name == name else lora
            for lora in request.loras
        ]
    else:
        loras = [*request.loras, LoraUse(name, weight)]
    return replace(request, loras=tuple(loras))
