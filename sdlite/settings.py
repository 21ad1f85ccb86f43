"""Settings: what an option means when it is not given on the command line.

An option counts before its environment variable (``SDLITE_STEPS``), that before the settings file
(``settings.toml``, flat: ``steps = 30``), that before the default.
"""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdlite.choices import (
    CACHE_LIMIT,
    COMPUTE_PRECISIONS,
    DECODERS,
    MEMORY_MODES,
    MOST_TILES,
    find_emphasis,
    find_rng,
    find_tiling,
)
from sdlite.errors import RequestError, UnknownName
from sdlite.output import FORMATS, write_whole
from sdlite.profiles import PROFILES

VARIABLE_PREFIX = "SDLITE_"
UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}

Parse = Callable[[str, str], Any]
"""``(name, text) -> value``; raises ``RequestError`` naming both."""


@dataclass(frozen=True)
class Option:
    """One thing that can be set."""

    name: str
    """As on the command line, without the dashes."""
    parse: Parse
    """From text to value."""
    default: str | None
    """As it would be typed; None leaves it to the model or the machine."""
    help: str
    """What it does, one line."""

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return VARIABLE_PREFIX + self.name.upper().replace("-", "_")


@dataclass(frozen=True)
class Setting:
    """The value of an option, and why it has it."""

    option: Option
    """Which option."""
    value: Any
    """Parsed value; None leaves it to the model or the machine."""
    text: str | None
    """The value as typed."""
    origin: str
    """``option``, ``variable``, ``file`` or ``default``."""
    where: str
    """The variable's name or the file's path; empty otherwise."""


def text_value(name: str, text: str) -> str:
    """Any text."""
    return text


def whole(low: int, high: int | None = None) -> Parse:
    """A whole number from ``low`` to ``high``."""
    allowed = f"a whole number of at least {low}"
    if high is not None:
        allowed = f"a whole number from {low} to {high}"

    def parse(name: str, text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise RequestError(f"{name} {_short(text)} is not {allowed}") from None
        if value < low or (high is not None and value > high):
            raise RequestError(f"{name} {_short(text)} is not {allowed}")
        return value

    return parse


def real(low: float, high: float) -> Parse:
    """A finite number from ``low`` to ``high``."""

    def parse(name: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise RequestError(f"{name} {_short(text)} is not a number from {low:g} to {high:g}")
        return value

    return parse


def choice(names: Sequence[str]) -> Parse:
    """One of ``names``, in any case."""

    def parse(name: str, text: str) -> str:
        if text.lower() not in names:
            raise UnknownName(name, text, names)
        return text.lower()

    return parse


def generator(name: str, text: str) -> str:
    """A random number generator, in any usual spelling."""
    return find_rng(text, name)


def emphasis(name: str, text: str) -> str:
    """A way to count weights, in any usual spelling."""
    return find_emphasis(text, name)


def tiling(name: str, text: str) -> str:
    """Axes of a seamless picture."""
    return find_tiling(text, name)


def interval(name: str, text: str) -> tuple[float, float]:
    """``0.3-5.4``: a low and a high noise level."""
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{0,9})?)\s*-\s*(\d{1,9}(?:\.\d{0,9})?)\s*", text)
    if match is None or float(match[1]) > float(match[2]):
        raise RequestError(f"{name} {_short(text)} is not LOW-HIGH in sigmas, like 0.3-5.4")
    return float(match[1]), float(match[2])


def levels(name: str, text: str) -> tuple[float, ...]:
    """``14.6,7,3,1,0.3,0.03``: noise levels, falling."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise RequestError(
            f"{name} {_short(text)} is not a list of noise levels, like 14.6,7,3,1,0.3,0.03"
        ) from None
    return values


def switch(name: str, text: str) -> bool:
    """Yes or no."""
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise RequestError(f"{name} {_short(text)} is neither true nor false")


def size(name: str, text: str) -> tuple[int, int]:
    """``512x768``: width and height in pixels."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*[xX×]\s*(\d{1,9})\s*", text)
    if match is None:
        raise RequestError(f"{name} {_short(text)} is not WIDTHxHEIGHT in pixels, like 512x768")
    return int(match[1]), int(match[2])


def memory(name: str, text: str) -> int:
    """``1.5G``: bytes, with K, M, G or T for powers of 1024."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    count = int(float(match[1]) * 2 ** UNITS[match[2].upper()]) if match else 0
    if count < 1:
        raise RequestError(f"{name} {_short(text)} is not an amount of memory, like 1.5G or 900M")
    return count


def memory_or_none(name: str, text: str) -> int:
    """``2G``, or 0 or ``off`` for none at all."""
    return 0 if text.strip().lower() in ("0", "off") else memory(name, text)


def duration(name: str, text: str) -> float:
    """``30s``: seconds; with s, m or h for seconds, minutes, hours."""
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([smh]?)\s*", text, re.IGNORECASE)
    value = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2].lower()] if match else 0
    if not value > 0:
        raise RequestError(f"{name} {_short(text)} is not a time, like 30s or 2m")
    return value


def folders(name: str, text: str) -> tuple[Path, ...]:
    """Folders, separated as in ``PATH``."""
    return tuple(Path(part) for part in text.split(os.pathsep) if part)


CACHE_LIMIT_TEXT = f"{CACHE_LIMIT >> 30}G"

OPTIONS = {
    option.name: option
    for option in (
        Option("model", text_value, "shapes", "name or path of the model"),
        Option("output", text_value, None, "file or folder for pictures"),
        Option("images", whole(1, 10_000), "1", "pictures per prompt"),
        Option("steps", whole(1, 1000), None, "intervals of the schedule"),
        Option("size", size, None, "WIDTHxHEIGHT in pixels"),
        Option("guidance", real(0, 100), None, "guidance scale"),
        Option("negative", text_value, "", "negative prompt"),
        Option("clip-skip", whole(1, 12), "1", "layer of the text encoder, from the end"),
        Option("emphasis", emphasis, "Original", "how weights in prompts count"),
        Option("guidance-rescale", real(0, 1), None, "contrast taken back from guidance"),
        Option("guidance-interval", interval, None, "LOW-HIGH sigmas at which guidance acts"),
        Option("decoder", choice(DECODERS), None, "what makes the picture of the latents"),
        Option("profile", choice(tuple(PROFILES)), "quality", "how much to save"),
        Option("styles-file", text_value, None, "CSV file of styles"),
        Option("wildcards", text_value, None, "folder of wildcard files"),
        Option("seed", whole(-1, 2**64 - 1), "-1", "seed of the first picture, -1 draws one"),
        Option("variation-strength", real(0, 1), "0", "how far to go to the variation seed"),
        Option("variation-seed", whole(-1, 2**64 - 1), "-1", "variation seed, -1 draws one"),
        Option("seed-resize", size, None, "size the seed was liked at, WIDTHxHEIGHT"),
        Option("ensd", whole(-(2**63), 2**63), "0", "added to the seed for samplers' noise"),
        Option("sampler", text_value, None, "sampler"),
        Option("schedule", text_value, None, "noise schedule"),
        Option("sigmas", levels, None, "noise levels instead of a schedule"),
        Option("eta", real(0, 1), None, "share of fresh noise of samplers that take it"),
        Option("s-churn", real(0, 100), "0", "noise Euler, Heun and DPM2 add to every step"),
        Option("s-tmin", real(0, 1e6), "0", "lowest sigma at which they do"),
        Option("s-tmax", real(0, 1e6), "0", "highest sigma at which they do, 0 is any"),
        Option("s-noise", real(0, 2), "1", "deviation of noise samplers add"),
        Option("tiling", tiling, "none", "axes along which opposite edges fit"),
        Option("safety-checker", switch, "false", "make pictures black that it objects to"),
        Option("rng", generator, "cpu", "random number generator"),
        Option("threads", whole(1, 1024), None, "compute threads"),
        Option("precision", choice(COMPUTE_PRECISIONS), None, "what to compute in"),
        Option("max-memory", memory, None, "most memory to take, like 1.5G"),
        Option("vae", text_value, None, "another autoencoder than the model's"),
        Option("deadline", duration, None, "time all pictures may take, like 30s"),
        Option("max-vram", memory, None, "most memory of a GPU to take"),
        Option("memory-mode", choice(MEMORY_MODES), "auto", "how weights are held"),
        Option("vae-tiles", whole(1, MOST_TILES), None, "tiles the autoencoder works in"),
        Option("runtime", text_value, None, "engine"),
        Option("device", text_value, None, "device of the engine"),
        Option("cache-limit", memory_or_none, CACHE_LIMIT_TEXT, "most disk for compiled graphs"),
        Option("format", choice(FORMATS), None, "picture format"),
        Option("metadata", switch, "true", "write parameters into pictures"),
        Option("preview", switch, "false", "show the growing picture"),
        Option("model-folders", folders, "", "folders with more models"),
    )
}


@dataclass(frozen=True)
class Settings:
    """The settings file and the environment, read once."""

    path: Path
    """The settings file, whether it is there or not."""
    environ: Mapping[str, str]
    """Environment variables."""
    file: Mapping[str, str] = field(default_factory=dict)
    """What the file says, as text."""

    def get(self, name: str, given: str | None = None) -> Setting:
        """The value that counts; ``given`` is the option, when it was given.

        Raises:
            UnknownName: there is no such option.
            RequestError: the value that counts is not allowed; says where it comes from.
        """
        option = find_option(name)
        if given is not None:
            return _setting(option, given, "option", "", f"--{option.name}")
        if option.variable in self.environ:
            text = self.environ[option.variable]
            return _setting(option, text, "variable", option.variable, option.variable)
        if option.name in self.file:
            label = f"{self.path}: {option.name}"
            return _setting(option, self.file[option.name], "file", str(self.path), label)
        return _setting(option, option.default, "default", "", option.name)


def _setting(option: Option, text: str | None, origin: str, where: str, label: str) -> Setting:
    value = None if text is None else option.parse(label, text)
    return Setting(option, value, text, origin, where)


def find_option(name: str) -> Option:
    """An option by name, with - or _; raises ``UnknownName``."""
    wanted = name.lower().replace("_", "-")
    if wanted not in OPTIONS:
        raise UnknownName("setting", name, OPTIONS)
    return OPTIONS[wanted]


def read(path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings file, which need not exist; raises ``RequestError`` if it is not TOML."""
    return Settings(path, os.environ if environ is None else environ, _read_file(path))


def _read_file(path: Path) -> dict[str, str]:
    try:
        parsed = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not valid TOML: {error}") from error
    values = {}
    for name, value in parsed.items():
        if name not in OPTIONS:
            raise UnknownName(f"setting in {path}", name, OPTIONS)
        values[name] = _as_text(path, name, value)
    return values


def _as_text(path: Path, name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return os.pathsep.join(value)
    raise RequestError(f"{path}: {name} is neither text, a number, true, false nor a list of text")


def write(path: Path, name: str, text: str | None) -> None:
    """Set an option in the file, or with None take it out; the rest of the file stays as it is.

    Raises:
        UnknownName: there is no such option.
        RequestError: the value is not allowed, or the file is not TOML.
        OutputError: the file cannot be written; it is as it was.
    """
    option = find_option(name)
    if text is not None:
        option.parse(option.name, text)
    values = _read_file(path)
    values.pop(option.name, None)
    if text is not None:
        values[option.name] = text
    data = _edited(path, option, text)
    if _parsed_or_none(path, data) != values:
        # The old value had several lines or an unusual form: write the file anew.
        data = "".join(_line(OPTIONS[key], value) for key, value in values.items())
    target = path.resolve()  # a link to a file elsewhere stays one
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        encoded = data.encode("utf-8")
    except OSError as error:
        raise RequestError(f"cannot make folder {target.parent}: {error.strerror}") from error
    except UnicodeEncodeError as error:
        raise RequestError(f"{option.name} {_short(str(text))} is not valid Unicode") from error
    write_whole(target, encoded, overwrite=True)


def _edited(path: Path, option: Option, text: str | None) -> str:
    """The file with the line of one option replaced, taken out or added."""
    old = path.read_text(encoding="utf-8-sig") if path.exists() else ""
    starts = re.compile(rf"""\s*["']?{re.escape(option.name)}["']?\s*=""")
    lines = [line for line in old.splitlines(keepends=True) if not starts.match(line)]
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if text is not None:
        lines.append(_line(option, text))
    return "".join(lines)


def _parsed_or_none(path: Path, data: str) -> dict[str, str] | None:
    try:
        parsed = tomllib.loads(data)
        return {name: _as_text(path, name, value) for name, value in parsed.items()}
    except (ValueError, RequestError):
        return None


def _line(option: Option, text: str) -> str:
    value = option.parse(option.name, text)
    if option.parse is folders:
        return f"{option.name} = [{', '.join(_quoted(str(path)) for path in value)}]\n"
    if isinstance(value, bool):
        return f"{option.name} = {'true' if value else 'false'}\n"
    # Numbers beyond 64 bits are no TOML integers, and ``1.50`` should stay as it was typed.
    plain = re.fullmatch(r"-?(0|[1-9]\d{0,17})(\.\d+)?", text) and isinstance(value, int | float)
    return f"{option.name} = {text if plain else _quoted(text)}\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
