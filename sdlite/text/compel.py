"""compel's weights: ``word++``, ``(some words)1.3``, ``"some words"--``, nested as one likes.

What joins whole prompts there (``.and()``, ``.blend()``, ``.swap()``) is not read.
"""

from __future__ import annotations

import re

import numpy as np

from sdlite.text.attention import MAX_DEPTH, Span, join_spans, split_break

PLUS = 1.1
MINUS = 0.9
_SIGN = re.compile(r"\++|-+|[0-9]+\.?[0-9]*|\.[0-9]+|")
_TOKEN = re.compile(
    r"""\\[()"+\-]|[()"]|([^\s()"\\+\-,.]+(?:[+\-.,]+[^\s()"\\+\-,.]+)*)(\++|-+)?|\s+|.""",
    re.DOTALL,
)


def parse_compel(text: str) -> list[Span]:
    """Cut a text into spans of equal weight, in order; at least one.

    ``+`` multiplies by 1.1 and ``-`` by 0.9, each as often as it stands there; a number behind a
    bracket or quotation is a factor. Factors of nested brackets multiply. A backslash makes a
    bracket, quotation mark or sign plain. A bracket or quotation mark without its partner is a
    letter. The word BREAK starts a new chunk, which compel's own language cannot.
    """
    pieces: list[str | None] = []
    factors: list[tuple[int, int, float]] = []
    opened: list[tuple[str, int]] = []  # what, and the piece that holds it
    place = 0
    while (match := _TOKEN.match(text, place)) is not None:
        token, place = match[0], match.end()
        closes = bool(opened) and (opened[-1][0], token) in (("(", ")"), ('"', '"'))
        if match[1]:
            start = len(pieces)
            pieces += split_break(match[1])
            factors.append((start, len(pieces), _factor(match[2] or "")))
        elif closes:
            sign = _SIGN.match(text, place)
            start = opened.pop()[1]
            pieces[start] = ""
            if sign is not None:
                place = sign.end()
                factors.append((start, len(pieces), _factor(sign[0])))
        else:
            if token in ("(", '"') and len(opened) < MAX_DEPTH:
                opened.append((token, len(pieces)))
            pieces.append(token[1] if len(token) == 2 and token[0] == "\\" else token)
    weights = np.ones(len(pieces))
    for start, end, factor in factors:
        weights[start:end] *= factor
    return join_spans(pieces, weights.tolist())


def _factor(sign: str) -> float:
    if not sign:
        return 1.0
    if sign[0] in "+-":
        return float((PLUS if sign[0] == "+" else MINUS) ** len(sign))
    return float(sign)
