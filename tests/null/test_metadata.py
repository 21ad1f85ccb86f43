"""Infotext: A1111's format, both ways, in every kind of file."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdlite import metadata
from sdlite.errors import RequestError
from sdlite.output import FORMATS, encode

WRITTEN_BY_A1111 = """\
a cat, (best quality:1.2)
on a mat
Negative prompt: dog, blurry
second line
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 965400086, \
Size: 512x768, Model hash: 45dee52b, Model: name, Lora hashes: "a: 1a2b, b: 3c4d", RNG: CPU, \
Version: v1.9.4"""

line = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=40
).filter(lambda text: text == text.strip() and not text.startswith(metadata.NEGATIVE))
prompt = st.lists(line, min_size=1, max_size=3).map("\n".join)
name = st.from_regex(r"[A-Za-z][A-Za-z0-9 \-/]{0,18}[a-z]", fullmatch=True)
value = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30).map(
    lambda text: metadata._clean(text) or "x"
)


def test_reads_what_a1111_writes() -> None:
    found = metadata.parse(WRITTEN_BY_A1111)
    assert found.prompt == "a cat, (best quality:1.2)\non a mat"
    assert found.negative_prompt == "dog, blurry\nsecond line"
    assert found.fields["Size-1"] == "512"
    assert found.fields["Size-2"] == "768"
    assert found.fields["Lora hashes"] == "a: 1a2b, b: 3c4d"
    assert found.get("Clip skip") == "1"
    assert found.get("RNG") == "CPU"
    assert found.get("Hires upscale") is None


def test_writes_a1111s_line() -> None:
    text = metadata.build(
        "a cat",
        "dog",
        {"Steps": 20, "Sampler": "Euler a", "CFG scale": 7.0, "Note": "a, b", "VAE": None},
    )
    assert text == (
        'a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7.0, Note: "a, b"'
    )


def test_no_line_for_an_empty_negative_prompt() -> None:
    assert metadata.build("a", "", {"Steps": 1}) == "a\nSteps: 1"


def test_a_key_equal_to_its_value_stands_alone() -> None:
    assert metadata.build("a", "", {"Tiling": "Tiling"}) == "a\nTiling"


def test_two_parameters_are_prompt() -> None:
    found = metadata.parse("a cat\nSteps: 20, Sampler: Euler")
    assert found.prompt == "a cat\nSteps: 20, Sampler: Euler"
    assert found.fields == {}


def test_parameters_without_a_prompt() -> None:
    found = metadata.parse("Steps: 20, Sampler: Euler, Seed: 7")
    assert found.prompt == ""
    assert found.fields == {"Steps": "20", "Sampler": "Euler", "Seed": "7"}


@pytest.mark.parametrize("schedule", ["Karras", "Exponential"])
def test_joined_sampler_names_are_taken_apart(schedule: str) -> None:
    found = metadata.parse(f"a\nSteps: 20, Sampler: DPM++ 2M {schedule}, Seed: 7")
    assert found.fields["Sampler"] == "DPM++ 2M"
    assert found.fields["Schedule type"] == schedule


@given(prompt, st.one_of(st.just(""), prompt), st.dictionaries(name, value, min_size=3, max_size=6))
def test_round_trip(positive: str, negative: str, fields: dict[str, str]) -> None:
    fields = {key: text for key, text in fields.items() if key != text}
    fields |= {"Steps": "20", "Seed": "1", "Model": "m"}
    fields.pop("Sampler", None)
    found = metadata.parse(metadata.build(positive, negative, fields))
    assert found.prompt == positive
    assert found.negative_prompt == negative
    sizes = {key for key, text in fields.items() if metadata._SIZE.fullmatch(text)}
    for key in fields.keys() - sizes:
        assert found.fields[key] == fields[key]
    for key in sizes:
        assert f"{found.fields[f'{key}-1']}x{found.fields[f'{key}-2']}" == fields[key]


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    metadata.parse(text)


@given(st.text(st.sampled_from('ab1 -/:,"\\\té'), max_size=16))
def test_parameters_are_found_as_a1111_finds_them(text: str) -> None:
    theirs = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    assert metadata._PARAMETER.findall(text) == theirs.findall(text)


@pytest.mark.parametrize("start", ["", 'ab:"'])
@pytest.mark.parametrize("piece", ["a ", "\t", "- ", '\\"'])
def test_long_lines_take_time_in_proportion(start: str, piece: str) -> None:
    text = start + piece * 100_000  # a search that goes back would take a minute and more
    assert metadata.parse(f"cat\nx{text}x") == metadata.Parameters(f"cat\nx{text}x")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("words", ["a red circle", "ein roter Kreis: größer", "赤い丸 🟥"])
def test_every_format_carries_it(tmp_path: Path, format: str, words: str) -> None:
    text = metadata.build(words, "dog", {"Steps": 20, "Seed": 1, "Size": "64x64"})
    path = tmp_path / f"picture.{format}"
    path.write_bytes(encode(Image.new("RGB", (64, 64), "red"), format, text))
    assert metadata.read(path) == text


@pytest.mark.parametrize("format", FORMATS)
def test_no_text_when_there_is_none(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"picture.{format}"
    path.write_bytes(encode(Image.new("RGB", (64, 64)), format))
    assert metadata.read(path) is None


def test_png_text_is_where_a1111_looks() -> None:
    data = encode(Image.new("RGB", (8, 8)), "png", "a\nSteps: 1, Seed: 2, Size: 8x8")
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["parameters"] == "a\nSteps: 1, Seed: 2, Size: 8x8"


def test_jpeg_comment_is_where_a1111_looks() -> None:
    data = encode(Image.new("RGB", (8, 8)), "jpg", "größer")
    with Image.open(io.BytesIO(data)) as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\0" + "größer".encode("utf-16-be")


def test_a_prompt_too_long_for_jpeg_keeps_its_parameters(tmp_path: Path) -> None:
    text = metadata.build("word " * 10_000, "", {"Steps": 20, "Seed": 1, "Model": "m"})
    path = tmp_path / "picture.jpg"
    path.write_bytes(encode(Image.new("RGB", (8, 8)), "jpg", text))
    found = metadata.parse(str(metadata.read(path)))
    assert found.fields == {"Steps": "20", "Seed": "1", "Model": "m"}
    assert found.prompt.startswith("word word")
    assert found.prompt.endswith("…")
    assert len(found.prompt) > 30_000


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        (b"UNICODE\0" + "a cat".encode("utf-16-be"), "a cat"),
        (b"UNICODE\0" + "a cat".encode("utf-16-le"), "a cat"),
        (b"UNICODE\0" + "a cat".encode("utf-16"), "a cat"),
        (b"ASCII\0\0\0a cat", "a cat"),
        (bytes(8) + b"a cat", "a cat"),
        (b"a cat", "a cat"),
        (b"", ""),
    ],
)
def test_comments_of_other_programs(comment: bytes, text: str) -> None:
    assert metadata.decode_comment(comment) == text


@given(st.binary(max_size=64))
def test_any_comment_can_be_read(comment: bytes) -> None:
    metadata.decode_comment(comment)


def test_undecodable_arguments_do_not_break_the_file() -> None:
    text = metadata.build("caf\udce9 \0 end\r\nline", "", {"Steps": 1})
    assert text == "caf\ufffd  end\nline\nSteps: 1"
    assert encode(Image.new("RGB", (8, 8)), "png", text)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no file"):
        metadata.read(tmp_path / "none.png")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1\x00"])
def test_not_a_picture(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    with pytest.raises(RequestError, match="no picture"):
        metadata.read(path)


@given(cut=st.integers(0, 400), flip=st.integers(0, 400))
def test_damaged_pictures_are_told(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    whole = bytearray(encode(Image.new("RGB", (8, 8)), "png", "a\nSteps: 1, Seed: 2, Size: 8x8"))
    whole[min(flip, len(whole) - 1)] ^= 0x55
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    path.write_bytes(whole[: max(1, len(whole) - cut)])
    try:
        metadata.read(path)
    except RequestError as error:
        assert "\n" not in str(error)
