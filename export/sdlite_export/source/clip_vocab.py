"""OpenAI CLIP's vocabulary, for checkpoints that do not carry their tokenizer.

The data file holds the merges that OpenAI's CLIP uses, as published with its code (MIT licence, see
``data/NOTICE``). The vocabulary follows from it: 256 bytes, the same at the end of a word, one
token for each of the 48,894 merges, and the two special tokens.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

MERGES = 48_894
"""Merges in use: 49,152 tokens less 256 bytes less the two special tokens."""
VOCAB_SIZE = 49_408
"""256 bytes, 256 bytes at the end of a word, the merges, begin and end."""
BOS = 49_406
EOS = 49_407
LENGTH = 77


def byte_letters() -> dict[int, str]:
    """The printable letter that stands for each byte in byte-level BPE (GPT-2's table).

    Printable Latin-1 stands for itself; the other bytes get letters from U+0100 on. The order is
    that of the vocabulary: printable bytes first.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return letters


@cache
def tokenizer_files() -> Mapping[str, bytes]:
    """``vocab.json`` and ``merges.txt`` as transformers' CLIP tokenizer has them."""
    packed = resources.files("sdlite_export") / "data" / "clip_merges.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode("utf-8").splitlines()
    assert len(merges) == MERGES
    letters = list(byte_letters().values())
    tokens = letters + [f"{letter}</w>" for letter in letters]
    tokens += [line.replace(" ", "") for line in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = json.dumps({token: number for number, token in enumerate(tokens)}, ensure_ascii=False)
    text = "#version: 0.2\n" + "\n".join(merges) + "\n"
    return {"vocab.json": vocab.encode("utf-8"), "merges.txt": text.encode("utf-8")}
