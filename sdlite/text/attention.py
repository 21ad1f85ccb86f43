"""A1111's attention brackets: ``(more)``, ``[less]``, ``(this much:1.3)``, ``\\(plain\\)``, BREAK.

Every text can be read. What is no complete bracket counts as it does in A1111: an unclosed one
applies to the end of the text, a closing one without its opening one is a letter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Span: TypeAlias = tuple[str, float]
"""A piece of text and its weight."""

BREAK: Span = ("BREAK", -1.0)
"""Stands for the word BREAK: what follows goes into a new chunk."""
ROUND = 1.1
SQUARE = 1 / 1.1
MAX_DEPTH = 100
"""Brackets nested deeper no longer change weights: 1.1**100 is beyond any use, and the time to read
a text stays in proportion to its length."""
NO_EFFECT = -1

_TOKEN = re.compile(
    r"\\[()\[\]\\]|[()\[\]\\]|:\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*\)|[^\\()\[\]:]+|:"
)
_BREAK = re.compile(r"\bBREAK\b")


def parse_attention(text: str) -> list[Span]:
    """Cut a text into spans of equal weight, in order; the word BREAK becomes the span ``BREAK``.

    ``(x)`` multiplies by 1.1, ``[x]`` divides by it, ``(x:n)`` multiplies by n. A backslash makes
    the bracket or backslash after it plain and is dropped elsewhere. There is at least one span.
    Other than in A1111, BREAK works inside brackets too, and a weight that is no number
    (``(x:1.2.3)``) is text.
    """
    pieces: list[str | None] = []  # None is BREAK
    factors: list[tuple[int, int, float]] = []  # pieces from, to, and times what, in A1111's order
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(kind: str, factor: float) -> None:
        start = opened[kind].pop()
        if start != NO_EFFECT:
            factors.append((start, len(pieces), factor))

    for match in _TOKEN.finditer(text):
        token, weight = match[0], match[1]
        if token[0] == "\\":
            pieces.append(token[1:])
        elif token in opened:
            depth = len(opened["("]) + len(opened["["])
            opened[token].append(len(pieces) if depth < MAX_DEPTH else NO_EFFECT)
        elif weight is not None and opened["("]:
            close("(", float(weight))
        elif token == ")" and opened["("]:
            close("(", ROUND)
        elif token == "]" and opened["["]:
            close("[", SQUARE)
        else:
            pieces.extend(split_break(token))
    for kind, factor in (("(", ROUND), ("[", SQUARE)):
        starts = [start for start in opened[kind] if start != NO_EFFECT]
        factors.extend((start, len(pieces), factor) for start in starts)
    # Multiplied one after the other, as A1111 does: products round the same.
    weights = np.ones(len(pieces))
    for start, end, factor in factors:
        weights[start:end] *= factor
    return join_spans(pieces, weights.tolist())


def split_break(text: str) -> list[str | None]:
    """A text cut at the words BREAK, which become None; white space around them goes."""
    first, *others = _BREAK.split(text)
    pieces: list[str | None] = [first]
    for part in others:
        pieces[-1] = str(pieces[-1]).rstrip()
        pieces += [None, part.lstrip()]
    return pieces


def join_spans(pieces: Sequence[str | None], weights: Sequence[float]) -> list[Span]:
    """Pieces and their weights with neighbours of equal weight made one; at least one span.

    Args:
        pieces: texts, and None for BREAK.
        weights: of each piece; that of a BREAK does not matter.
    """
    spans: list[tuple[list[str], float] | None] = []
    for piece, weight in zip(pieces, weights, strict=True):
        last = spans[-1] if spans else None
        if piece is None:
            spans.append(None)
        elif last is not None and last[1] == weight:
            last[0].append(piece)
        else:
            spans.append(([piece], weight))
    if not spans:
        return [("", 1.0)]
    return [BREAK if span is None else ("".join(span[0]), span[1]) for span in spans]
