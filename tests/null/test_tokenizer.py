"""CLIP's tokenizer on a vocabulary small enough to read."""

from __future__ import annotations

import json

import pytest

from sdlite.errors import PackageInvalid
from sdlite.manifest import Tokenizer
from sdlite.text.tokenizer import ClipTokenizer

WORDS = ["a", "red", "cat"]
LETTERS = sorted(set("".join(WORDS)) | set(".,19é"))


def byte_letters(text: str) -> list[str]:
    """Byte-level BPE writes the two bytes of é as two letters."""
    return ["Ã", "©"] if text == "é" else [text]


def make(length: int = 8) -> ClipTokenizer:
    tokens = [letter for text in LETTERS for letter in byte_letters(text)]
    tokens += [letter + "</w>" for letter in list(tokens)]
    merges = [("r", "e"), ("re", "d</w>"), ("c", "a"), ("ca", "t</w>")]
    tokens += ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    files = {
        "vocab.json": json.dumps(vocabulary).encode(),
        "merges.txt": b"#version: 0.2\n" + "\n".join(map(" ".join, merges)).encode(),
    }
    bos, eos = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    made = ClipTokenizer(Tokenizer("tokenizer", "clip", (), length, bos, eos, eos), files)
    made.names = {index: token for token, index in vocabulary.items()}  # type: ignore[attr-defined]
    return made


def spelled(tokenizer: ClipTokenizer, text: str) -> list[str]:
    (ids,) = tokenizer.tokenize([text])
    return [tokenizer.names[index] for index in ids]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("a red cat", ["a</w>", "red</w>", "cat</w>"]),
        ("  A\tRED \n cat ", ["a</w>", "red</w>", "cat</w>"]),
        ("red,cat.", ["red</w>", ",</w>", "cat</w>", ".</w>"]),
        ("19", ["1</w>", "9</w>"]),
        ("é", ["Ã", "©</w>"]),
        ("e\u0301", ["Ã", "©</w>"]),
        ("redcat", ["re", "d", "cat</w>"]),
    ],
)
def test_cuts_as_clip_does(text: str, tokens: list[str]) -> None:
    assert spelled(make(), text) == tokens


def test_a_chunk_has_begin_end_and_padding() -> None:
    tokenizer = make()
    assert tokenizer.size == 6
    (tokens,) = tokenizer.tokenize(["a cat"])
    ids = tokenizer.chunk_ids(tokens)
    names = [tokenizer.names[index] for index in ids]  # type: ignore[attr-defined]
    assert names[:4] == ["<|startoftext|>", "a</w>", "cat</w>", "<|endoftext|>"]
    assert set(names[4:]) == {"<|endoftext|>"}
    assert len(ids) == 8


def test_knows_the_comma() -> None:
    tokenizer = make()
    assert tokenizer.names[tokenizer.comma] == ",</w>"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "needs vocab.json and merges.txt"),
        ({"vocab.json": b"{}"}, "needs vocab.json and merges.txt"),
        ({"vocab.json": b"{", "merges.txt": b""}, "cannot be read"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"x y"}, "cannot be read"),
        ({"tokenizer.json": b"nothing"}, "cannot be read"),
    ],
)
def test_broken_files(files: dict[str, bytes], message: str) -> None:
    spec = Tokenizer("tokenizer", "clip", (), 8, 0, 1, 1)
    with pytest.raises(PackageInvalid, match=message):
        ClipTokenizer(spec, files)
