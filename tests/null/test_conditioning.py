"""Prompts to what the U-Net is told, against values worked out by hand from A1111's rules."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlite.choices import EMPHASES, find_emphasis
from sdlite.errors import RequestError, UnknownName
from sdlite.ports import TextFeatures
from sdlite.text.chunks import Piece, cut_chunks
from sdlite.text.conditioning import Conditioning, condition
from sdlite.text.encoder import Encoder
from sdlite.text.weighting import BY_NAME
from sdlite.types import Cond, Float32, StepConds
from tests.null.test_tokenizer import make

WIDTH = 4
COMMA = 9


class TextModel:
    """Features depend on every token before, as in CLIP; counts its calls and rows."""

    def __init__(self, length: int = 8) -> None:
        self.tokenizer = make(length)
        self.calls: list[tuple[int, ...]] = []

    def features(self, ids: Sequence[int]) -> Float32:
        sums = np.cumsum(np.asarray(ids, np.float64))
        values = np.sin(sums[:, None] * (1 + np.arange(WIDTH)) * 0.37) + 0.2
        return values.astype(np.float32)

    def encode(self, ids: np.ndarray) -> TextFeatures:
        assert ids.dtype == np.int64
        self.calls.append(ids.shape)
        hidden = np.stack([self.features(row) for row in ids])
        return TextFeatures(hidden, hidden[:, -1])

    def chunk(self, text: str) -> Float32:
        """Features of a text without weights that fits into one chunk."""
        (tokens,) = self.tokenizer.tokenize([text])
        return self.features(self.tokenizer.chunk_ids(tokens))

    def condition(self, prompt: str, negative: str = "", **options: object) -> Conditioning:
        chosen = {"guided": True, "steps": 4, **options}
        return condition([Encoder(self.tokenizer, self.encode)], prompt, negative, **chosen)

    def context(self, prompt: str, emphasis: str = "Original") -> Float32:
        """Features of a prompt that does not change."""
        ((cond, weight),) = self.condition(prompt, guided=False, emphasis=emphasis).at(0).parts
        assert weight == 1.0
        assert cond.context.dtype == np.float32
        return cond.context[0]


@pytest.fixture
def model() -> TextModel:
    return TextModel()


def test_prompt_and_negative_go_in_one_call(model: TextModel) -> None:
    made = model.condition("a red cat", "a")
    assert model.calls == [(2, 8)]
    ((cond, weight),) = made.at(0).parts
    assert weight == 1.0
    assert cond.added == {}
    np.testing.assert_array_equal(cond.context[0], model.chunk("a red cat"))
    negative = made.at(3).negative
    assert negative is not None
    np.testing.assert_array_equal(negative.context[0], model.chunk("a"))
    assert made.notes == ()
    assert model.condition("a", "unused", guided=False).at(0).negative is None
    assert model.calls[-1] == (1, 8)


def test_empty_prompts(model: TextModel) -> None:
    step = model.condition("", "").at(0)
    assert step.negative is not None
    np.testing.assert_array_equal(step.parts[0][0].context[0], model.chunk(""))
    np.testing.assert_array_equal(step.negative.context[0], model.chunk(""))


def weights_of(model: TextModel, *spans: tuple[str, float]) -> Float32:
    """Weight of each of the 8 places of a chunk: begin, tokens, end and padding."""
    weights = [1.0]
    for words, weight in spans:
        weights += [weight] * len(model.tokenizer.tokenize([words])[0])
    return np.array(weights + [1.0] * (8 - len(weights)), np.float32)[:, None]


def test_original_emphasis_multiplies_and_restores_the_mean(model: TextModel) -> None:
    plain = model.chunk("a red cat")
    scaled = plain * weights_of(model, ("a", 1.0), ("red", 1.5), ("cat", 1 / 1.1))
    found = model.context("a (red:1.5) [cat]")
    np.testing.assert_allclose(found, scaled * plain.mean() / scaled.mean(), rtol=1e-5)
    assert found.mean() == pytest.approx(plain.mean(), rel=1e-5)
    np.testing.assert_array_equal(model.context("a (red:1.5) [cat]", "No norm"), scaled)
    np.testing.assert_array_equal(model.context("a (red:1.5) [cat]", "ignore"), plain)
    literal = model.context("(red)", "None")
    np.testing.assert_array_equal(literal, model.chunk("(red)"))
    assert np.abs(literal - model.chunk("red")).max() > 0.1


def test_comfyui_moves_away_from_the_empty_prompt(model: TextModel) -> None:
    plain, empty = model.chunk("a red cat"), model.chunk("")
    weights = weights_of(model, ("a", 1.0), ("red", 1.5), ("cat", 1.1))
    found = model.context("a (red:1.5) (cat)", "comfyui")
    np.testing.assert_allclose(found, empty + (plain - empty) * weights, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.context("a red cat", "comfyui"), plain)


def test_compel_blends_with_the_text_without_what_weighs_less(model: TextModel) -> None:
    plain, empty, without = model.chunk("a red cat"), model.chunk(""), model.chunk("a cat")
    up = weights_of(model, ("a red", 1.0), ("cat", 1.1**2))
    found = model.context("a red cat++", "compel")
    np.testing.assert_allclose(found, empty + (plain - empty) * up, rtol=1e-5, atol=1e-6)
    down = weights_of(model, ("a", 1.0), ("red", 0.5), ("cat", 1.0))
    base = empty + (plain - empty) * down
    # tan(pi / 4) is 1: as much of the text without the word as of the text with it.
    np.testing.assert_allclose(
        model.context("a (red)0.5 cat", "compel"), (base + without) / 2, rtol=1e-5, atol=1e-6
    )
    gone = model.context("a (red)0 cat", "compel")
    np.testing.assert_allclose(gone, without, atol=1e-3)
    share = math.tan((1 - 0.9) * math.pi / 2)
    base = empty + (plain - empty) * weights_of(model, ("a", 1.0), ("red", 0.9), ("cat", 1.0))
    np.testing.assert_allclose(
        model.context("a red- cat", "compel"),
        (base + without * share) / (1 + share),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("weight", ["9" * 60, "-" + "9" * 400])
def test_a_weight_that_is_too_large(model: TextModel, weight: str) -> None:
    with pytest.raises(RequestError, match=r"the weight .* of 'cat' is too large"):
        model.context(f"a (cat:{weight})")


def test_compel_encodes_a_text_again_only_so_often(model: TextModel) -> None:
    with pytest.raises(RequestError, match="101 pieces of the prompt weigh less than 1"):
        model.context("a- cat " * 101, "compel")
    assert model.context("a- cat " * 101).shape[1] == WIDTH


def chunks_of(pieces: list[Piece], size: int = 75) -> list[tuple[int, ...]]:
    chunks = cut_chunks(pieces, size, COMMA)
    assert all(len(chunk.weights) == len(chunk.tokens) for chunk in chunks)
    return [chunk.tokens for chunk in chunks]


def test_chunks_without_commas_are_full() -> None:
    tokens = list(range(100, 260))
    assert chunks_of([(tokens, 1.0)]) == [
        tuple(tokens[:75]),
        tuple(tokens[75:150]),
        tuple(tokens[150:]),
    ]
    assert chunks_of([(tokens[:75], 1.0)]) == [tuple(tokens[:75])]
    assert chunks_of([([], 1.0)]) == [()]
    assert chunks_of([]) == [()]


@pytest.mark.parametrize(
    ("place", "first"),
    [
        (74, 75),  # the comma is the last token: nothing to move
        (60, 61),
        (55, 56),  # 20 tokens back: the farthest
        (54, 75),  # 21 back: cut where the chunk is full
    ],
)
def test_a_phrase_behind_a_comma_moves_to_the_next_chunk(place: int, first: int) -> None:
    tokens = list(range(100, 190))
    tokens[place] = COMMA
    assert chunks_of([(tokens, 1.0)]) == [tuple(tokens[:first]), tuple(tokens[first:])]


def test_a_comma_that_would_begin_a_chunk_does() -> None:
    tokens = list(range(100, 190))
    tokens[70] = tokens[75] = COMMA
    assert chunks_of([(tokens, 1.0)]) == [tuple(tokens[:75]), tuple(tokens[75:])]
    # That comma is not looked back for: A1111 forgets it with the chunk it did not fit in.
    longer = [*range(100, 105), COMMA, *range(106, 114)]
    assert chunks_of([(longer, 1.0)], 5) == [
        tuple(longer[:5]),
        tuple(longer[5:10]),
        tuple(longer[10:]),
    ]


@given(
    st.lists(
        st.none()
        | st.tuples(
            st.lists(st.sampled_from([1, 2, COMMA]), max_size=60),
            st.floats(0, 2),
        ),
        max_size=8,
    ),
    st.integers(1, 75),
)
def test_no_token_is_lost_or_moved(pieces: list[Piece], size: int) -> None:
    chunks = cut_chunks(pieces, size, COMMA)
    assert all(len(chunk.tokens) == len(chunk.weights) <= size for chunk in chunks)
    given_tokens = [
        (token, piece[1]) for piece in pieces if piece is not None for token in piece[0]
    ]
    found = [pair for c in chunks for pair in zip(c.tokens, c.weights, strict=True)]
    assert found == given_tokens


def test_weights_move_with_their_tokens() -> None:
    pieces: list[Piece] = [([1] * 70, 1.0), ([COMMA], 1.0), ([2] * 10, 1.3)]
    first, second = cut_chunks(pieces, 75, COMMA)
    assert (len(first.tokens), set(first.weights)) == (71, {1.0})
    assert (second.tokens, second.weights) == ((2,) * 10, (1.3,) * 10)


def test_break_fills_the_chunk_and_starts_another() -> None:
    assert chunks_of([([1, 2], 1.0), None, ([3], 1.0)]) == [(1, 2), (3,)]
    assert chunks_of([([], 1.0), None, ([], 1.0), None, ([3], 1.0)]) == [(), (), (3,)]
    assert chunks_of([([1], 1.0), None, ([], 1.0)]) == [(1,)]


def test_long_prompts_and_break_join_chunks(model: TextModel) -> None:
    found = model.context("a red cat BREAK cat a")
    expected = np.concatenate([model.chunk("a red cat"), model.chunk("cat a")])
    np.testing.assert_array_equal(found, expected)
    long = model.context("cat " * 8)
    np.testing.assert_array_equal(
        long, np.concatenate([model.chunk("cat " * 6), model.chunk("cat cat")])
    )


def test_each_chunk_restores_its_own_mean(model: TextModel) -> None:
    found = model.context("(red:1.4) BREAK (cat:0.6)")
    expected = [model.context("(red:1.4)"), model.context("(cat:0.6)")]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-6)


def test_a_prompt_that_changes(model: TextModel) -> None:
    made = model.condition("a [red:cat:2]", "[a:cat:0.5]", steps=4)
    for step in range(6):
        # As in A1111, which counts steps from 1 but looks them up counting from 0.
        now = "red" if step <= 2 else "cat"
        ((cond, _),) = made.at(step).parts
        np.testing.assert_array_equal(cond.context[0], model.chunk(f"a {now}"))
        negative = made.at(step).negative
        assert negative is not None
        np.testing.assert_array_equal(negative.context[0], model.chunk("a" if step <= 2 else "cat"))
    assert made.notes == ()
    # Four different texts, each encoded once, two a call.
    assert model.calls == [(2, 8), (2, 8)]


def test_a_prompt_that_alternates(model: TextModel) -> None:
    made = model.condition("[a|cat]", steps=6)
    found = [
        "a" if (made.at(step).parts[0][0].context[0] == model.chunk("a")).all() else "cat"
        for step in range(6)
    ]
    assert found == ["a", "a", "cat", "a", "cat", "a"]


def test_texts_of_a_changing_prompt_are_equally_long(model: TextModel) -> None:
    made = model.condition("a [red BREAK cat:cat:2]")
    early, late = (made.at(step).parts[0][0].context[0] for step in (0, 3))
    np.testing.assert_array_equal(early, np.concatenate([model.chunk("a red"), model.chunk("cat")]))
    np.testing.assert_array_equal(late, np.concatenate([model.chunk("a cat"), model.chunk("")]))


def test_a_changing_prompt_has_one_mean_over_all_its_texts(model: TextModel) -> None:
    """A1111 encodes the texts of a schedule as one batch and restores the mean of the batch."""
    made = model.condition("(red:1.5) [a|cat|cat]", steps=4)
    texts = ("red a", "red cat", "red cat", "red a")
    plain = np.stack([model.chunk(text) for text in texts])
    scaled = plain * weights_of(model, ("red", 1.5))
    expected = scaled * plain.mean() / scaled.mean()
    np.testing.assert_allclose(made.at(1).parts[0][0].context[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(made.at(2).parts[0][0].context[0], expected[1], rtol=1e-5)


def test_composition(model: TextModel) -> None:
    made = model.condition("a cat :1.2 AND red BREAK a AND cat:-0.5", "a")
    parts = made.at(0).parts
    assert [weight for _, weight in parts] == [1.2, 1.0, -0.5]
    # The shorter ones repeat their last token, as in A1111; the negative stays as it is.
    assert [cond.context.shape for cond, _ in parts] == [(1, 16, WIDTH)] * 3
    first = model.chunk("a cat")
    np.testing.assert_array_equal(
        parts[0][0].context[0], np.concatenate([first, np.repeat(first[-1:], 8, axis=0)])
    )
    negative = made.at(0).negative
    assert negative is not None
    assert negative.context.shape == (1, 8, WIDTH)
    with pytest.raises(RequestError, match=r"the weight .* of ' cat' is too large"):
        model.condition("a AND cat:" + "9" * 400)


def test_and_and_tags_are_words_in_a_negative_prompt(model: TextModel) -> None:
    made = model.condition("a", "a AND cat")
    negative = made.at(0).negative
    assert negative is not None
    np.testing.assert_array_equal(negative.context[0], model.chunk("a AND cat"))


def test_features_of_several_encoders_are_joined_along_their_width(model: TextModel) -> None:
    encoder = Encoder(model.tokenizer, model.encode)
    made = condition([encoder, encoder], "a (red:1.3)", "", guided=True, steps=4)
    ((cond, _),) = made.at(0).parts
    one = model.context("a (red:1.3)")
    np.testing.assert_array_equal(cond.context[0], np.concatenate([one, one], axis=1))


@pytest.mark.parametrize(
    ("prompt", "notes"),
    [
        ("a [red:cat:3]", []),
        ("[red:cat:4]", ["prompt changes at 4, which is not within the run of 4 steps"]),
        ("[red:cat:0.1]", ["prompt changes at 0.1, which is not within the run of 4 steps"]),
        ("[[red:cat:9]:a:2]", ["prompt changes at 9, which is not within the run of 4 steps"]),
        ("cat <lora:x:0.8>", []),
        ("cat <hypernet:x:0.8>", ["<hypernet:x:0.8> in the prompt is not applied"]),
        (
            "cat at 12:30",
            ["the prompt ends in ':30', which gives the whole of it that weight, as in A1111"],
        ),
        ("a:2 AND cat", []),
        ("cat " * 48, []),
        (
            "cat " * 49,
            [
                "prompt takes 9 chunks of 6 tokens; every step reads all of them, which takes time "
                "and memory"
            ],
        ),
    ],
)
def test_notes(model: TextModel, prompt: str, notes: list[str]) -> None:
    assert list(model.condition(prompt).notes) == notes


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


@pytest.mark.parametrize(
    ("name", "found"),
    [("no norm", "No norm"), ("NoNorm", "No norm"), ("no-norm", "No norm"), ("COMPEL", "compel")],
)
def test_emphasis_by_name(name: str, found: str) -> None:
    assert find_emphasis(name) == found


def test_every_emphasis_is_there() -> None:
    assert tuple(BY_NAME) == EMPHASES


def test_unknown_emphasis() -> None:
    with pytest.raises(UnknownName, match=r"emphasis .*orignal.*Original"):
        find_emphasis("orignal")


def test_ten_thousand_words(model: TextModel) -> None:
    model = TextModel(77)
    prompt = "a red cat, (cat:1.2) a [red] cat a red, " * 1112
    start = time.process_time()
    made = model.condition(prompt, "", guided=False)
    assert time.process_time() - start < 1.0
    ((cond, _),) = made.at(0).parts
    assert cond.context.shape[1] % 77 == 0
    assert cond.context.shape[1] > 10_000


@pytest.mark.parametrize(
    "prompt", ["猫が座っている", "кошка", "🐈‍⬛ 🏠", "\x00\x01", "é" * 50, "<|endoftext|>"]
)
def test_any_script(model: TextModel, prompt: str) -> None:
    assert np.isfinite(model.context(f"({prompt}:1.2)")).all()
