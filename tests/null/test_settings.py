"""Option before variable before file before default; the file is edited with care."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlite import settings
from sdlite.errors import OutputError, RequestError, UnknownName


def test_precedence(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    assert settings.read(path, {}).get("rng").origin == "default"
    path.write_text('steps = 30\nrng = "nv"\n')
    both = settings.read(path, {"SDLITE_STEPS": "40"})
    from_file = settings.read(path, {}).get("steps")
    assert (from_file.value, from_file.origin, from_file.where) == (30, "file", str(path))
    from_variable = both.get("steps")
    assert (from_variable.value, from_variable.origin) == (40, "variable")
    assert from_variable.where == "SDLITE_STEPS"
    from_option = both.get("steps", "50")
    assert (from_option.value, from_option.origin) == (50, "option")
    assert both.get("rng").value == "nv"
    assert both.get("sampler").value is None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("size", "512x768", (512, 768)),
        ("size", " 512 X 768 ", (512, 768)),
        ("max-memory", "1.5G", 3 << 29),
        ("max-memory", "900m", 900 << 20),
        ("max-memory", "512MiB", 512 << 20),
        ("max-memory", "1000000", 1_000_000),
        ("seed", "-1", -1),
        ("seed", str(2**64 - 1), 2**64 - 1),
        ("guidance", "7.5", 7.5),
        ("rng", "NV", "nv"),
        ("rng", "GPU", "nv"),
        ("metadata", "off", False),
        ("negative", "", ""),
    ],
)
def test_values(name: str, text: str, value: object) -> None:
    assert settings.find_option(name).parse(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("steps", "0", "steps '0' is not a whole number from 1 to 1000"),
        ("steps", "many", "whole number"),
        ("steps", "9" * 5000, r"\.\.\."),
        ("seed", "-2", "from -1 to 18446744073709551615"),
        ("seed", str(2**64), "from -1 to"),
        ("size", "512", "WIDTHxHEIGHT"),
        ("size", "axb", "WIDTHxHEIGHT"),
        ("guidance", "nan", "number from 0 to 100"),
        ("guidance", "inf", "number from 0 to 100"),
        ("max-memory", "lots", "amount of memory"),
        ("max-memory", "0", "amount of memory"),
        ("max-memory", "1.5P", "amount of memory"),
        ("precision", "fp61", "Did you mean 'fp16'"),
        ("memory-mode", "maped", "Did you mean 'mapped'"),
        ("format", "pgn", "Did you mean 'png'"),
        ("preview", "maybe", "neither true nor false"),
    ],
)
def test_refused_values(name: str, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        settings.find_option(name).parse(name, text)


def test_unknown_settings(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'steps'"):
        settings.find_option("stpes")
    path = tmp_path / "settings.toml"
    path.write_text("stpes = 3\n")
    with pytest.raises(UnknownName, match="Did you mean 'steps'"):
        settings.read(path)
    with pytest.raises(UnknownName):
        settings.write(path, "nonsense", "1")
    assert path.read_text() == "stpes = 3\n"


@pytest.mark.parametrize("text", ["steps = ", "[a]\n", "steps = {a = 1}", "steps = [1]", "\xff"])
def test_a_broken_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RequestError, match=r"settings\.toml"):
        settings.read(path)
    with pytest.raises(RequestError):
        settings.write(path, "rng", "nv")
    assert path.read_bytes() == text.encode("latin-1")


def test_a_value_that_is_not_allowed_says_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("steps = 0\n")
    with pytest.raises(RequestError, match=r"settings\.toml: steps '0'"):
        settings.read(path, {}).get("steps")
    with pytest.raises(RequestError, match="SDLITE_STEPS '0'"):
        settings.read(path, {"SDLITE_STEPS": "0"}).get("steps")
    with pytest.raises(RequestError, match="--steps '0'"):
        settings.read(path, {}).get("steps", "0")


def test_writing_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "settings.toml"
    settings.write(path, "steps", "30")
    path.write_text("# my notes\nsteps = 30  # enough\nrng = 'nv'\n")
    settings.write(path, "steps", "25")
    assert path.read_text() == "# my notes\nrng = 'nv'\nsteps = 25\n"
    settings.write(path, "rng", None)
    assert path.read_text() == "# my notes\nsteps = 25\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["settings.toml"]


def test_values_of_several_lines_are_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('negative = """a\nb"""\nsteps = 3\n')
    settings.write(path, "negative", "c")
    assert tomllib.loads(path.read_text()) == {"negative": "c", "steps": 3}


def test_refused_values_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    with pytest.raises(RequestError):
        settings.write(path, "steps", "0")
    with pytest.raises(RequestError, match="Unicode"):
        settings.write(path, "negative", "\udce9")
    assert not path.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((OutputError, RequestError)):
        settings.write(tmp_path / "file" / "settings.toml", "steps", "3")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_linked_settings_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text("")
    (tmp_path / "settings.toml").symlink_to(tmp_path / "real.toml")
    settings.write(tmp_path / "settings.toml", "steps", "3")
    assert (tmp_path / "settings.toml").is_symlink()
    assert (tmp_path / "real.toml").read_text() == "steps = 3\n"


@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    settings.write(path, "negative", text)
    assert settings.read(path, {}).get("negative").value == text


@given(st.text(max_size=30), st.sampled_from(sorted(settings.OPTIONS)))
def test_any_value_is_read_or_refused(text: str, name: str) -> None:
    try:
        settings.find_option(name).parse(name, text)
    except RequestError as error:
        assert "\n" not in str(error)
