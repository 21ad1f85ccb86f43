"""CLIP's tokenizer on a vocabulary small enough to read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sdlite.errors import PackageInvalid
from sdlite.manifest import Tokenizer
from sdlite.text.conditioning import Conditioning, condition
from sdlite.text.tokenizer import ClipTokenizer
from sdlite.types import Cond, StepConds

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
    ids = tokenizer.encode(text).ids
    names = [tokenizer.names[int(index)] for index in ids]  # type: ignore[attr-defined]
    assert names[0] == "<|startoftext|>"
    return names[1 : names.index("<|endoftext|>")]


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


def test_pads_to_length() -> None:
    tokens = make().encode("a cat")
    assert tokens.ids.dtype == np.int64
    assert tokens.ids.shape == (8,)
    assert len(set(tokens.ids[3:].tolist())) == 1
    assert tokens.dropped == ""


def test_says_what_was_cut_off() -> None:
    tokens = make(length=5).encode("a red cat, a RED cat")
    assert tokens.ids.shape == (5,)
    assert tokens.dropped == ", a RED cat"


def test_a_prompt_of_ten_thousand_words() -> None:
    tokens = make(length=77).encode("red " * 10_000)
    assert tokens.ids.shape == (77,)
    assert len(tokens.dropped.split()) == 10_000 - 75


def test_a_batch_has_a_row_a_prompt() -> None:
    tokenizer = make()
    rows = tokenizer.encode_batch(["a", "a red cat"])
    assert rows.shape == (2, 8)
    assert (rows[1] == tokenizer.encode("a red cat").ids).all()


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


def test_conditioning_encodes_both_prompts_in_one_call() -> None:
    calls = []

    def encode(ids: np.ndarray) -> np.ndarray:
        calls.append(ids.shape)
        return np.repeat(ids[:, :, None], 3, axis=2).astype(np.float32)

    made = condition(encode, make(length=5), "a red cat, cat", "a", guided=True)
    assert calls == [(2, 5)]
    step = made.at(0)
    ((cond, weight),) = step.parts
    assert weight == 1.0
    assert cond.context.shape == (1, 5, 3)
    assert step.negative is not None
    assert step.negative.context.shape == (1, 5, 3)
    assert made.notes == ("prompt is longer than the text encoder reads; ignored from ', cat' on",)
    alone = condition(encode, make(length=5), "a", "unused", guided=False)
    assert alone.at(0).negative is None
    assert calls[-1] == (1, 5)


@pytest.mark.parametrize("text", ["a (red:1.2) cat", "cat <lora:red:0.8>"])
def test_syntax_that_is_not_spoken_yet_is_told(text: str) -> None:
    def encode(ids: np.ndarray) -> np.ndarray:
        return np.zeros((*ids.shape, 3), np.float32)

    (note,) = condition(encode, make(length=40), text, "a (cat)", guided=True).notes
    assert note.startswith("prompt has ")
    assert "plain words" in note


def test_conditions_follow_the_steps_of_a_run() -> None:
    first, second, other, negative = (Cond(np.full((1, 2, 3), v, np.float32)) for v in range(4))
    timeline = ((1, first), (3, second))
    made = Conditioning(((timeline, 1.0), (((9, other),), 0.5)), ((0, negative),))
    for step, cond in ((0, first), (1, first), (2, second), (3, second), (7, second)):
        assert made.at(step) == StepConds(((cond, 1.0), (other, 0.5)), negative)
    sigmas = np.array([8.0, 4.1, 2.0, 1.0, 0.0], np.float32)
    conditions = made.over(sigmas)
    # At a level its own step; between two levels the step that leads from one to the other.
    for sigma, cond in ((9.0, first), (8.0, first), (5.0, first), (float(sigmas[1]), first)):
        assert conditions(sigma).parts[0][0] is cond
    for sigma in (2.0, 1.5, 1.0, 0.5, 0.0):
        assert conditions(sigma).parts[0][0] is second
