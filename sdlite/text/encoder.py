"""A text encoder with its tokenizer: texts to weighted features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sdlite.errors import RequestError
from sdlite.ports import TextFeatures
from sdlite.text.attention import BREAK, Span
from sdlite.text.chunks import Chunk, cut_chunks
from sdlite.text.tokenizer import ClipTokenizer
from sdlite.text.weighting import Emphasis, blend, leave_empty, scale
from sdlite.text.words import Words
from sdlite.types import Float32

ROWS_PER_CALL = 2
"""Chunks in one call of the text encoder: a prompt and its negative, as plans count."""
MAX_WEIGHT = 1e6
MAX_BLENDS = 100
EMPTY = Chunk((), ())


Encode: TypeAlias = Callable[[npt.NDArray[np.int64]], TextFeatures]
"""Token ids ``(rows, length)`` to features."""


@dataclass(frozen=True)
class Encoder:
    """A text encoder and its tokenizer."""

    tokenizer: ClipTokenizer
    """Texts to tokens."""
    encode: Encode
    """The graph."""
    words: Words | None = None
    """Words with vectors of their own; None when the prompts have none."""


@dataclass(frozen=True)
class Group:
    """The texts one prompt is in the steps of a run; most prompts are one text."""

    texts: tuple[str, ...]
    """Each text once."""
    counts: tuple[int, ...]
    """How many entries of the prompt's schedule have it."""


@dataclass(frozen=True)
class Encoded:
    """What an encoder says of one text."""

    context: Float32
    """``(1, chunks * length, width)``."""
    pooled: Float32 | None
    """Of the first chunk, ``(1, width)``; None when the graph does not give it."""


@dataclass(frozen=True)
class _Text:
    """One text in chunks, and for compel also without each span that weighs less than 1."""

    chunks: list[Chunk]
    without: list[tuple[float, list[Chunk]]]


def encode_groups(
    encoder: Encoder, groups: Sequence[Group], emphasis: Emphasis
) -> list[list[Encoded]]:
    """Encode every text of every group.

    The texts of a group come out equally long: shorter ones end in empty chunks, as in A1111.

    Raises:
        RequestError: a weight is too large to compute with.
        EngineError: the engine failed.
    """
    texts = [[_cut(encoder, text, emphasis) for text in g.texts] for g in groups]
    rows = _Rows(encoder)
    for group in texts:
        count = max(len(version) for text in group for version in _versions(text))
        for text in group:
            for version in _versions(text):
                version.extend([EMPTY] * (count - len(version)))
    every = [text for group in texts for text in group]
    # Whole texts first: a prompt and its negative share a call.
    for text in every:
        rows.add(text.chunks)
    for text in every:
        for _, chunks in text.without:
            rows.add(chunks)
    weighted = any(weight != 1.0 for text in every for c in text.chunks for weight in c.weights)
    if emphasis.leaves_empty and weighted:
        rows.add([EMPTY])
    rows.run()
    return [_weigh(group, g.counts, rows, emphasis) for group, g in zip(texts, groups, strict=True)]


def check_weight(words: str, weight: float) -> None:
    """Raise ``RequestError`` for a weight that nothing can be computed with."""
    if not abs(weight) <= MAX_WEIGHT:
        raise RequestError(f"the weight {weight:g} of {words[:40]!r} is too large; 2 is a lot")


def _versions(text: _Text) -> list[list[Chunk]]:
    return [text.chunks, *(chunks for _, chunks in text.without)]


def _cut(encoder: Encoder, text: str, emphasis: Emphasis) -> _Text:
    spans = emphasis.parse(text)
    for words, weight in spans:
        check_weight(words, weight)
    weak = [i for i, span in enumerate(spans) if span != BREAK and span[1] < 1.0]
    if not emphasis.blends:
        weak = []
    elif len(weak) > MAX_BLENDS:
        raise RequestError(
            f"{len(weak)} pieces of the prompt weigh less than 1: for each the text is encoded "
            f"again without it, at most {MAX_BLENDS} times; use another emphasis"
        )
    without = [(spans[i][1], _chunks(encoder, [*spans[:i], *spans[i + 1 :]])) for i in weak]
    return _Text(_chunks(encoder, spans), without)


def _chunks(encoder: Encoder, spans: Sequence[Span]) -> list[Chunk]:
    tokens = encoder.tokenizer.tokenize([words for words, _ in spans])
    if encoder.words is not None:
        tokens = [encoder.words.put_in(ids) for ids in tokens]
    pieces = [
        None if span == BREAK else (ids, span[1]) for span, ids in zip(spans, tokens, strict=True)
    ]
    return cut_chunks(
        pieces,
        encoder.tokenizer.size,
        encoder.tokenizer.comma,
        None if encoder.words is None else encoder.words.lengths,
    )


class _Rows:
    """Different chunks to encode, and what came of them."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._places: dict[tuple[int, ...], int] = {}
        self._hidden: list[Float32] = []
        self._pooled: list[Float32] = []

    def add(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self._places.setdefault(chunk.tokens, len(self._places))

    def run(self) -> None:
        ids = np.array([self._encoder.tokenizer.chunk_ids(t) for t in self._places], np.int64)
        for start in range(0, len(ids), ROWS_PER_CALL):
            features = self._encoder.encode(ids[start : start + ROWS_PER_CALL])
            self._hidden.extend(features.hidden)
            if features.pooled is not None:
                self._pooled.extend(features.pooled)

    def hidden(self, chunks: Sequence[Chunk]) -> Float32:
        """``(chunks, length, width)``."""
        return np.stack([self._hidden[self._places[chunk.tokens]] for chunk in chunks])

    def pooled(self, chunk: Chunk) -> Float32 | None:
        """``(1, width)``."""
        return self._pooled[self._places[chunk.tokens]][None] if self._pooled else None


def _weigh(
    texts: Sequence[_Text], counts: Sequence[int], rows: _Rows, emphasis: Emphasis
) -> list[Encoded]:
    features = [rows.hidden(text.chunks) for text in texts]
    length = features[0].shape[1]
    weights = [_weights(text.chunks, length) for text in texts]
    if emphasis.scales:
        # Chunk by chunk over all texts of the group, as A1111 does.
        stacked = [
            scale(
                np.stack([each[place] for each in features]),
                np.stack([each[place] for each in weights]),
                counts,
                emphasis.restores_mean,
            )
            for place in range(len(features[0]))
        ]
        features = [np.stack([chunk[index] for chunk in stacked]) for index in range(len(texts))]
    elif emphasis.leaves_empty:
        for index, text in enumerate(texts):
            features[index] = _from_empty(text.chunks, rows)
            if text.without:
                others = [(weight, _from_empty(chunks, rows)) for weight, chunks in text.without]
                features[index] = blend(features[index], others)
    return [
        Encoded(each.reshape(1, -1, each.shape[-1]), rows.pooled(text.chunks[0]))
        for each, text in zip(features, texts, strict=True)
    ]


def _from_empty(chunks: Sequence[Chunk], rows: _Rows) -> Float32:
    features = rows.hidden(chunks)
    weights = _weights(chunks, features.shape[1])
    if (weights == 1.0).all():
        return features
    return leave_empty(features, weights, rows.hidden([EMPTY])[0])


def _weights(chunks: Sequence[Chunk], length: int) -> Float32:
    """``(chunks, length)``: 1 for begin, end and padding."""
    weights = np.ones((len(chunks), length), np.float32)
    for row, chunk in zip(weights, chunks, strict=True):
        row[1 : 1 + len(chunk.weights)] = chunk.weights
    return weights
