"""The prompt language: A1111's own examples, its rules worked out by hand, and any text at all."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlite.errors import RequestError
from sdlite.loras import LoraUse
from sdlite.text.attention import BREAK, parse_attention
from sdlite.text.comfyui import parse_comfyui
from sdlite.text.compel import parse_compel
from sdlite.text.composition import split_composition
from sdlite.text.prompt import evaluations, read_prompt
from sdlite.text.schedule import Change, parse_schedule, schedule, walk
from sdlite.text.tags import lora_tags, read_strength, split_tags, with_tags


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.5730000000000004),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641000000000006),
                (".", 1.1),
            ],
        ),
        ("", [("", 1.0)]),
        ("[less]", [("less", 1 / 1.1)]),
        ("(a:1.3", [("a:1.3", 1.1)]),
        ("a:1.3) b", [("a:1.3) b", 1.0)]),
        ("[a:1.3)", [("a:1.3)", 1 / 1.1)]),
        ("(a: 1.3 )", [("a", 1.3)]),
        ("(a:-.5)(b:+2.)", [("a", -0.5), ("b", 2.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        (r"(smile \:\) :1.2)", [("smile :) ", 1.2)]),
        (r"back\\slash \o/", [(r"back\slash o/", 1.0)]),
        ("a BREAK b", [("a", 1.0), BREAK, ("b", 1.0)]),
        ("a\nBREAK\nb", [("a", 1.0), BREAK, ("b", 1.0)]),
        ("BREAKFAST", [("BREAKFAST", 1.0)]),
        ("(a BREAK b:1.3)", [("a", 1.3), BREAK, ("b", 1.3)]),
        ("a BREAK BREAK b", [("a", 1.0), BREAK, ("", 1.0), BREAK, ("b", 1.0)]),
        ("(猫:1.2) 🐈", [("猫", 1.2), (" 🐈", 1.0)]),
    ],
)
def test_attention(text: str, spans: list[tuple[str, float]]) -> None:
    assert parse_attention(text) == spans


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a|(b:1.1)]", [(n, "(b:1.1)" if n % 2 == 0 else "a") for n in range(1, 11)]),
        ("[fe|]male", [(n, "male" if n % 2 == 0 else "female") for n in range(1, 11)]),
        ("[fe|||]male", [(n, "female" if n % 4 == 1 else "male") for n in range(1, 11)]),
        ("a [b::0.3] c", [(3, "a b c"), (10, "a  c")]),
        ("[a:b:30]", [(10, "a")]),
        ("[a:b:0] [c:d:-2]", [(10, "b d")]),
        ("[a:b:1.0]", [(10, "a")]),
        ("[a:b:1]", [(1, "a"), (10, "b")]),
        ("[[a|b]:c:2]", [(1, "a"), (2, "b"), *((n, "c") for n in range(3, 11))]),
        ("x [a:b] [c:d:2]", [(2, "x [a:b] c"), (10, "x [a:b] d")]),
        ("[x [a:b] y:3]", [(10, "[x [a:b] y:3]")]),
        ("(a:b:c:2)", [(10, "(a:b:c:2)")]),
        (r"[a\:b:c:2]", [(2, r"a\:b"), (10, "c")]),
        (r"\[a:b:2\]", [(10, r"\[a:b:2\]")]),
        ("a | b: [c:d:2]", [(2, "a | b: c"), (10, "a | b: d")]),
        ("a\n[b:\nc:2]", [(2, "a\nb"), (10, "a\n\nc")]),
    ],
)
def test_schedule(text: str, expected: list[tuple[int, str]]) -> None:
    assert schedule(parse_schedule(text), 10) == expected


def test_schedule_of_a_second_pass_goes_on_from_the_first() -> None:
    def second(text: str) -> list[tuple[int, str]]:
        return schedule(parse_schedule(text), 10, 10)

    assert second("a [b:.5] c") == [(10, "a b c")]
    assert second("a [b:1.5] c") == [(5, "a  c"), (10, "a b c")]
    assert second("[a:b:8]") == [(10, "b")]
    assert second("[a:b:13]") == [(3, "a"), (10, "b")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a cat :1.2 AND a dog", [("a cat", 1.2), (" a dog", 1.0)]),
        ("a cat", [("a cat", 1.0)]),
        ("", [("", 1.0)]),
        ("a AND b:-1 AND c: +.5 ", [("a", 1.0), (" b", -1.0), (" c", 0.5)]),
        ("BAND ANDY and", [("BAND ANDY and", 1.0)]),
        ("(a:1.2)", [("(a:1.2)", 1.0)]),
        ("best quality:1.2", [("best quality", 1.2)]),
        ("12:30:", [("12:30:", 1.0)]),
    ],
)
def test_composition(text: str, parts: list[tuple[str, float]]) -> None:
    assert split_composition(text) == parts


@pytest.mark.parametrize(
    ("text", "guidance", "expected"),
    [
        ("a", 7.0, (1, True)),
        ("a", 1.0, (1, False)),
        ("a AND b", 7.0, (2, True)),
        ("a:0.5 AND b:0.5", 1.0, (2, False)),
        ("a AND b", 1.0, (2, True)),
        ("a:1.2", 1.0, (1, True)),
    ],
)
def test_evaluations(text: str, guidance: float, expected: tuple[int, bool]) -> None:
    assert evaluations(text, guidance) == expected


def test_tags() -> None:
    text, tags = split_tags(
        "a <lora:one:0.8> cat<hypernet:two> <lyco:three:te=0.5:unet=0.25:dyn=4>"
    )
    assert text == "a  cat "
    assert [tag.kind for tag in tags] == ["lora", "hypernet", "lyco"]
    assert tags[0].text == "<lora:one:0.8>"
    assert lora_tags(tags) == (LoraUse("one", 0.8), LoraUse("three", 0.25, 0.5, rank=4))
    (two,) = lora_tags(split_tags("<lora:a b:0.5:0.7:8>")[1])
    assert two == LoraUse("a b", 0.7, 0.5, rank=8)
    assert split_tags("1 < 2 <3 <> <:> <a>") == ("1 < 2 <3 <> <:> <a>", ())
    factors = ",".join(str(n / 4) for n in range(17))
    (blocks,) = lora_tags(split_tags(f"<lora:x:1:lbw={factors}>")[1])
    assert dict(blocks.blocks)["BASE"] == 0.0 and dict(blocks.blocks)["OUT11"] == 4.0
    for use in (two, blocks, LoraUse("y", -0.5), LoraUse("z", 0.0, 1.0)):
        prompt = with_tags("a cat", (use,))
        assert lora_tags(split_tags(prompt)[1]) == (use,)
    assert read_strength("a=b", "te=0:unet=0.5") == LoraUse("a b", 0.5, 0.0)
    with pytest.raises(RequestError, match="lbw has 3 factors; lists have 12, 17, 20, 26"):
        lora_tags(split_tags("<lora:x:1:lbw=1,2,3>")[1])
    with pytest.raises(RequestError, match="'loud' is not known"):
        lora_tags(split_tags("<lora:x:loud=1>")[1])
    with pytest.raises(RequestError, match=r"<lora:x:much>: 'much' is no number"):
        lora_tags(split_tags("<lora:x:much>")[1])


def test_a_tag_may_stand_beside_a_weight() -> None:
    read = read_prompt("a <lora:x:0.8> AND b :0.7 <lora:y>")
    assert [weight for _, weight in read.parts] == [1.0, 0.7]
    assert [tag.arguments for tag in read.tags] == [("x", "0.8"), ("y",)]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("a (b) c", [("a ", 1.0), ("b", 1.1), (" c", 1.0)]),
        # A number holds whatever is around it, where A1111 multiplies.
        ("(a (b:1.3) c:0.5)", [("a ", 0.5), ("b", 1.3), (" c", 0.5)]),
        ("((x))", [("x", 1.1 * 1.1)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("[a]", [("[a]", 1.0)]),
        (r"\(a\)", [("(a)", 1.0)]),
        ("(open (x)", [("(open ", 1.0), ("x", 1.1)]),
        ("x) y", [("x) y", 1.0)]),
        ("(:1.2)", [(":1.2", 1.1)]),
        ("", [("", 1.0)]),
        ("(a BREAK b:2)", [("a", 2.0), BREAK, ("b", 2.0)]),
    ],
)
def test_comfyui(text: str, spans: list[tuple[str, float]]) -> None:
    assert parse_comfyui(text) == spans


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        (
            "a tall thin man (picking apricots+)++",
            [("a tall thin man ", 1.0), ("picking ", 1.1**2), ("apricots", 1.1 * 1.1**2)],
        ),
        ("apricots--, x", [("apricots", 0.9**2), (", x", 1.0)]),
        ("(picking (apricots)1.3)1.1", [("picking ", 1.1), ("apricots", 1.3 * 1.1)]),
        ('"5 apples"+ x', [("5 apples", 1.1), (" x", 1.0)]),
        ("a well-known 3.5", [("a well-known 3.5", 1.0)]),
        (r"\(my_keyword\) a\+", [("(my_keyword) a+", 1.0)]),
        ("(open ++ x)", [("open ++ x", 1.0)]),
        ("x) (y", [("x) (y", 1.0)]),
        ("(a).5", [("a", 0.5)]),
        ("", [("", 1.0)]),
    ],
)
def test_compel(text: str, spans: list[tuple[str, float]]) -> None:
    found = parse_compel(text)
    assert [words for words, _ in found] == [words for words, _ in spans]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in spans])


SYNTAX = st.sampled_from(
    ["<lora:a:1>", "BREAK", "AND", "cat", "1.3", "0.5", "\n", "🐈", *'()[]:|\\3 +-",猫é']
)
TEXTS = st.one_of(st.text(), st.lists(SYNTAX, max_size=40).map("".join))


def letters(text: str) -> str:
    """What no part of the language can take away: letters outside BREAK."""
    return "".join(re.findall(r"[^\W\d_]", text.replace("BREAK", ""), re.UNICODE))


@given(TEXTS)
@pytest.mark.parametrize("parse", [parse_attention, parse_comfyui, parse_compel])
def test_any_text_can_be_read_and_keeps_its_words(parse, text: str) -> None:
    spans = parse(text)
    assert spans
    assert letters("".join(words for words, _ in spans if (words, _) != BREAK)) == letters(text)


@given(TEXTS)
def test_text_without_syntax_stays_as_it_is(text: str) -> None:
    plain = re.sub(r"[()\[\]\\A]", "", text)
    assert parse_attention(plain) == [(plain, 1.0)]


@given(TEXTS)
def test_escaped_text_is_read_as_typed(text: str) -> None:
    typed = text.replace("BREAK", "break")
    escaped = re.sub(r"([()\[\]\\])", r"\\\1", typed)
    assert parse_attention(escaped) == [(typed, 1.0)]


@given(TEXTS, st.integers(1, 30), st.none() | st.integers(1, 30))
def test_any_text_has_a_schedule(text: str, steps: int, earlier: int | None) -> None:
    nodes = parse_schedule(text)
    entries = schedule(nodes, steps, earlier)
    ends = [end for end, _ in entries]
    assert ends == sorted(set(ends))
    assert ends[-1] == steps
    assert ends[0] >= 1
    if not walk(nodes):
        assert entries == [(steps, text)]


@given(TEXTS)
def test_any_text_can_be_taken_apart(text: str) -> None:
    read = read_prompt(text)
    assert read.parts
    kept = "".join(
        letters(words) for nodes, _ in read.parts for words in nodes if isinstance(words, str)
    )
    if not read.tags and not any(walk(nodes) for nodes, _ in read.parts):
        assert kept == letters(text.replace("AND", "")) or "AND" in letters(text)


def test_ten_thousand_words_are_read_in_a_second() -> None:
    words = "a (red:1.2) cat, [on|under] the [mat:roof:0.5] \\(of\\) a house BREAK " * 900
    start = time.process_time()
    read = read_prompt(words)
    for _, text in schedule(read.parts[0][0], 20):
        parse_attention(text)
    assert time.process_time() - start < 20  # one text takes a 20th of it


@pytest.mark.parametrize(
    "text", ["(" * 20000, "[a" * 20000, ")" * 20000, "(a:" * 20000, "|" * 9999]
)
def test_brackets_without_end(text: str) -> None:
    assert parse_attention(text)
    assert parse_comfyui(text)
    assert parse_compel(text)
    assert schedule(parse_schedule(text), 5) == [(5, text)]


def test_nested_changes() -> None:
    changes = [
        node for node in walk(parse_schedule("[a:[b:c:4]:[d|[e:7]]]")) if isinstance(node, Change)
    ]
    assert [change.when for change in changes] == ["4", "7"]
