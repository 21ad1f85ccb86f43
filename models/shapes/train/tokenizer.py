"""The tokenizer: CLIP's byte-pair encoding with a vocabulary of the captions' words.

All 256 bytes are in the vocabulary, alone and as the end of a word, so any prompt has tokens; the
merges make one token of every word the captions use.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from captions import vocabulary

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
LENGTH = 77


def byte_characters() -> list[str]:
    """The printable character that stands for each byte, as GPT-2 and CLIP have them."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order = kept + [b for b in range(256) if b not in kept]
    spare = 0
    characters = []
    for byte in order:
        if byte in kept:
            characters.append(chr(byte))
        else:
            characters.append(chr(256 + spare))
            spare += 1
    return characters


def merges() -> list[tuple[str, str]]:
    """Pairs to join, in order: each word from the left, shared beginnings once."""
    pairs: list[tuple[str, str]] = []
    seen = set()
    for word in sorted(w for w in vocabulary() if len(w) > 1):
        letters = [*word[:-1], word[-1] + "</w>"]
        while len(letters) > 1:
            rank, at = min(
                (
                    (pairs.index(pair), i)
                    for i, pair in enumerate(pairwise(letters))
                    if pair in seen
                ),
                default=(-1, 0),
            )
            pair = (letters[at], letters[at + 1])
            if rank < 0:
                pairs.append(pair)
                seen.add(pair)
            letters[at : at + 2] = [pair[0] + pair[1]]
    return pairs


def tables() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges."""
    joins = merges()
    tokens = byte_characters()
    tokens = tokens + [t + "</w>" for t in tokens] + [a + b for a, b in joins] + [BOS, EOS]
    vocabulary_ = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return vocabulary_, joins


def write(folder: Path) -> None:
    """Write the files transformers and tokenizers read."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab, joins = tables()
    text = json.dumps(vocab, ensure_ascii=False, indent=2)
    (folder / "vocab.json").write_text(text + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in joins)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    added = {
        str(vocab[token]): {
            "content": token,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in (BOS, EOS)
    }
    config = {
        "added_tokens_decoder": added,
        **special,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": LENGTH,
        "tokenizer_class": "CLIPTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


class WordCodes:
    """Token ids of words; known words are one token each, others go through the merges."""

    def __init__(self) -> None:
        self.vocab, joins = tables()
        self.bos, self.eos = self.vocab[BOS], self.vocab[EOS]
        self._ranks = {pair: rank for rank, pair in enumerate(joins)}
        self._known: dict[str, list[int]] = {}

    def __call__(self, words: tuple[str, ...] | list[str]) -> list[int]:
        """The 77 ids of a caption; words that no longer fit are left out."""
        ids = [self.bos, *(i for word in words for i in self.word(word))][: LENGTH - 1]
        return ids + [self.eos] * (LENGTH - len(ids))

    def word(self, word: str) -> list[int]:
        """Ids of one lower-case ASCII word."""
        if word not in self._known:
            if len(self._known) > 100_000:
                self._known.clear()
            pieces = [*word[:-1], word[-1] + "</w>"]
            while len(pieces) > 1:
                rank, at = min(
                    (self._ranks.get(pair, len(self._ranks)), i)
                    for i, pair in enumerate(pairwise(pieces))
                )
                if rank == len(self._ranks):
                    break
                pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
            self._known[word] = [self.vocab[piece] for piece in pieces]
        return self._known[word]
