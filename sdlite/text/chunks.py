"""Weighted tokens cut into chunks as long as a text encoder reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

BACKTRACK = 20
"""How far back from the end of a chunk a comma is looked for (A1111's default)."""

Piece: TypeAlias = tuple[Sequence[int], float] | None
"""Tokens of one weight; None is BREAK."""


@dataclass(frozen=True)
class Chunk:
    """What one call of a text encoder reads, without begin, end and padding."""

    tokens: tuple[int, ...]
    """At most as many as fit."""
    weights: tuple[float, ...]
    """Of each token."""


def cut_chunks(
    pieces: Sequence[Piece],
    size: int,
    comma: int | None,
    together: Mapping[int, int] | None = None,
) -> list[Chunk]:
    """Chunks of at most ``size`` tokens, at least one.

    When a chunk is full and its last comma lies at most ``BACKTRACK`` tokens back, what follows
    that comma moves to the next chunk, as in A1111: a phrase stays together.

    Args:
        pieces: tokens with their weights, and BREAKs.
        size: tokens in a chunk, without begin and end.
        comma: the token of a comma; None when there is none.
        together: how many tokens that begin with this one must lie in the same chunk, at most
            ``size``: the vectors of an embedding.
    """
    runs = together or {}
    chunks: list[Chunk] = []
    tokens: list[int] = []
    weights: list[float] = []
    after_comma = 0  # where the text after the last comma of the chunk starts; 0 is no comma

    def finish(end: int) -> None:
        nonlocal after_comma
        chunks.append(Chunk(tuple(tokens[:end]), tuple(weights[:end])))
        del tokens[:end], weights[:end]
        after_comma = 0

    for piece in pieces:
        if piece is None:
            finish(len(tokens))
            continue
        for token in piece[0]:
            full = len(tokens) == size
            if not full and len(tokens) + runs.get(token, 1) > size:
                finish(len(tokens))
            elif full:
                near = token != comma and after_comma > 0 and size - after_comma < BACKTRACK
                finish(after_comma if near else size)
            elif token == comma:
                after_comma = len(tokens) + 1
            tokens.append(token)
            weights.append(piece[1])
    if tokens or not chunks:
        finish(len(tokens))
    return chunks
