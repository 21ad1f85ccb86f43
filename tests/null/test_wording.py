"""Styles and wildcards."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sdlite.errors import RequestError, UnknownName
from sdlite.text.styles import Style, apply_styles, find_styles, read_styles
from sdlite.text.wildcards import expand_wildcards, has_wildcards

CSV = """name,prompt,negative_prompt
Photo,"photo of {prompt}, 35mm","painting, {prompt} drawn"
Bright, "bright, (vivid:1.2)",
Nothing,,
"""


def styles_file(folder: Path, text: str | bytes = CSV) -> Path:
    path = folder / "styles.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8-sig"))
    return path


def test_styles_are_put_around_a_prompt_or_behind_it(tmp_path: Path) -> None:
    styles = read_styles(styles_file(tmp_path))
    assert list(styles) == ["Photo", "Bright", "Nothing"]

    def apply(*names: str, prompt: str = "a cat", negative: str = "dog") -> tuple[str, str]:
        return apply_styles(prompt, negative, find_styles(names, styles))

    assert apply() == ("a cat", "dog")
    assert apply("Photo") == ("photo of a cat, 35mm", "painting, dog drawn")
    assert apply("Bright") == ("a cat, bright, (vivid:1.2)", "dog")
    assert apply("Bright", "Photo")[0] == "photo of a cat, bright, (vivid:1.2), 35mm"
    assert apply("Photo", "Bright")[0] == "photo of a cat, 35mm, bright, (vivid:1.2)"
    assert apply("Nothing", prompt=" a cat ") == (" a cat ", "dog")
    assert apply("Bright", prompt="") == ("bright, (vivid:1.2)", "dog")


def test_styles_as_old_versions_wrote_them(tmp_path: Path) -> None:
    found = read_styles(styles_file(tmp_path, "name,text\nOld,oil on canvas\n"))
    assert found == {"Old": Style("Old", "oil on canvas", "")}


def test_styles_in_any_script_and_over_several_lines(tmp_path: Path) -> None:
    path = styles_file(tmp_path, 'name,prompt,negative_prompt\n水彩,"水彩,\n淡い色",\n')
    assert read_styles(path)["水彩"].prompt == "水彩,\n淡い色"


def test_an_unknown_style(tmp_path: Path) -> None:
    styles = read_styles(styles_file(tmp_path))
    with pytest.raises(UnknownName, match=r"unknown style 'photo'.*Did you mean 'Photo'"):
        find_styles(["photo"], styles)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no columns name and prompt"),
        (b"name,prompt\n\xff,x\n", "not UTF-8"),
        ("name,prompt\nx," + "y" * 200_000, "no CSV file"),
    ],
)
def test_files_that_are_no_styles(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_styles(styles_file(tmp_path, text))


def test_no_styles_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot read styles from .*nowhere.csv"):
        read_styles(tmp_path / "nowhere.csv")


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    folder = tmp_path / "wildcards"
    (folder / "deep").mkdir(parents=True)
    (folder / "colour.txt").write_text("# colours\nred\n\ngreen\nblue\n", encoding="utf-8")
    (folder / "hair_style.txt").write_text("__colour__ hair\n", encoding="utf-8")
    (folder / "deep" / "animal.txt").write_text("cat\n", encoding="utf-8-sig")
    (folder / "loop.txt").write_text("__loop__\n", encoding="utf-8")
    (folder / "two.txt").write_text("__two__ __two__\n", encoding="utf-8")
    (folder / "empty.txt").write_text("# nothing\n\n", encoding="utf-8")
    (folder / "latin.txt").write_bytes(b"\xff\xfe\xff")
    return folder


def test_lines_come_from_the_seed(cards: Path) -> None:
    for seed in range(6):
        source = random.Random(seed)
        first, second = (source.choice(["red", "green", "blue"]) for _ in range(2))
        found = expand_wildcards("a __colour__ and a __colour__ ball", cards, seed)
        assert found == f"a {first} and a {second} ball"
    assert expand_wildcards("__deep/animal__, (__deep/animal__:1.2)", cards, 0) == "cat, (cat:1.2)"


def test_wildcards_in_wildcards(cards: Path) -> None:
    source = random.Random(5)
    source.choice(["__colour__ hair"])
    colour = source.choice(["red", "green", "blue"])
    assert expand_wildcards("__hair_style__", cards, 5) == f"{colour} hair"


@pytest.mark.parametrize("text", ["", "a cat", "snake_case", "____", "__ a __", "_x_", "__a b"])
def test_no_wildcards(cards: Path, text: str) -> None:
    assert not has_wildcards(text)
    assert expand_wildcards(text, cards, 0) == text


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("__color__", UnknownName, "unknown wildcard in .* 'color'.*Did you mean 'colour'"),
        ("__a/../colour__", UnknownName, "unknown wildcard"),
        ("__loop__", RequestError, "contain each other"),
        ("__two__", RequestError, "contain each other"),
        ("__empty__", RequestError, "no lines to choose from"),
        ("__latin__", RequestError, "not UTF-8"),
    ],
)
def test_wildcards_that_cannot_be(
    cards: Path, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        expand_wildcards(text, cards, 0)
