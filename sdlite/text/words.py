"""Words of a prompt whose vectors are not the text encoder's own: textual inversion.

Gal et al. 2022. A word stands for one or several token embeddings, which are put in the place of
the tokens its name is made of, wherever these follow each other in a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sdlite.types import Array, Float32


class Words:
    """Such words, for one text encoder.

    Args:
        table: the encoder's token embeddings, ``(vocabulary, width)``, of any float dtype.
        vectors: ``(n, width)`` float32 by the tokens of the word's name.
    """

    def __init__(self, table: Array, vectors: Mapping[tuple[int, ...], Float32]) -> None:
        self._table = table
        self._names: dict[tuple[int, ...], range] = {}
        self._rows: list[Float32] = []
        position = len(table)
        # Longer names first: "cat-toy-2" is not "cat-toy" and a "-2".
        for name in sorted(vectors, key=len, reverse=True):
            self._names[name] = range(position, position + len(vectors[name]))
            self._rows.extend(vectors[name])
            position += len(vectors[name])

    @property
    def lengths(self) -> dict[int, int]:
        """How many tokens a word takes, by its first token."""
        return {tokens.start: len(tokens) for tokens in self._names.values()}

    def put_in(self, ids: Sequence[int]) -> list[int]:
        """Tokens with those of names replaced by tokens beyond the vocabulary."""
        found: list[int] = []
        position = 0
        while position < len(ids):
            for name, tokens in self._names.items():
                if tuple(ids[position : position + len(name)]) == name:
                    found.extend(tokens)
                    position += len(name)
                    break
            else:
                found.append(ids[position])
                position += 1
        return found

    def look_up(self, ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Float32]:
        """What the graph is fed: tokens within the vocabulary, and every token's embedding.

        Args:
            ids: int64 ``(rows, tokens)``.

        Returns:
            int64 ``(rows, tokens)`` with 0 for those beyond, float32 ``(rows, tokens, width)``.
        """
        beyond = ids >= len(self._table)
        plain = np.where(beyond, 0, ids)
        embeds = self._table[plain].astype(np.float32)
        if beyond.any():
            embeds[beyond] = np.stack(self._rows)[ids[beyond] - len(self._table)]
        return plain, embeds
