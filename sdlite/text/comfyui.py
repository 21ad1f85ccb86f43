"""ComfyUI's attention brackets: ``(x)`` times 1.1, ``(x:1.3)`` exactly 1.3, ``\\(plain\\)``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sdlite.text.attention import MAX_DEPTH, ROUND, Span, join_spans, split_break

_TOKEN = re.compile(r"\\[()]|[()]|[^\\()]+|\\")
_WEIGHT = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*")


@dataclass
class _Bracket:
    parts: list[str | _Bracket]


def parse_comfyui(text: str) -> list[Span]:
    """Cut a text into spans of equal weight, in order; at least one.

    A weight holds for its bracket whatever is around it; without one it is 1.1 times that of the
    bracket around. Square brackets are letters, and so is a bracket without its partner or nested
    more than 100 deep. The word BREAK starts a new chunk, which ComfyUI's own language cannot.
    """
    stack = [_Bracket([])]
    for token in _TOKEN.findall(text):
        if token == "(" and len(stack) <= MAX_DEPTH:
            stack.append(_Bracket([]))
        elif token == ")" and len(stack) > 1:
            closed = stack.pop()
            stack[-1].parts.append(closed)
        else:
            stack[-1].parts.append(token)
    while len(stack) > 1:
        unclosed = stack.pop()
        stack[-1].parts += ["(", *unclosed.parts]
    pieces: list[str | None] = []
    weights: list[float] = []
    _flatten(stack[0], 1.0, pieces, weights)
    return join_spans(pieces, weights)


def _flatten(
    bracket: _Bracket, weight: float, pieces: list[str | None], weights: list[float]
) -> None:
    for part in bracket.parts:
        if isinstance(part, _Bracket):
            _flatten(part, _take_weight(part, weight * ROUND), pieces, weights)
            continue
        plain = part.removeprefix("\\") if part in ("\\(", "\\)") else part
        found = split_break(plain)
        pieces += found
        weights += [weight] * len(found)


def _take_weight(bracket: _Bracket, default: float) -> float:
    """The number behind the last colon of a bracket, cut off it."""
    last = bracket.parts[-1] if bracket.parts else None
    if not isinstance(last, str):
        return default
    text, colon, number = last.rpartition(":")
    found = _WEIGHT.fullmatch(number) if colon else None
    if found is None or not (text or len(bracket.parts) > 1):
        return default
    bracket.parts[-1] = text
    return float(found[1])
