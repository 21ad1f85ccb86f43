"""LoRAs and embeddings as the command line names them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sdlite.errors import RequestError, UnknownName

if TYPE_CHECKING:
    from sdlite.loras import LoraUse

Function = TypeVar("Function", bound=Callable[..., Any])
STRENGTH = re.compile(r"=(?=[^/\\]*$)")
"""Where a strength may begin: an ``=`` in the last part of a path."""


def lora_options(required: bool = False) -> Callable[[Function], Function]:
    """The options ``--lora`` and ``--lora-weight``."""

    def add(function: Function) -> Function:
        weight = click.option(
            "--lora-weight",
            metavar="X",
            type=float,
            default=1.0,
            show_default=True,
            help="Strength of those that name none.",
        )
        lora = click.option(
            "--lora",
            "loras",
            metavar="FILE[=X]",
            multiple=True,
            required=required,
            help="Apply a LoRA, LyCORIS or DoRA, a file or a name in the model folders, with "
            "strength X (0.8, or te=0.5:unet=1); may be given several times.",
        )
        return lora(weight(function))

    return add


def read_loras(given: Sequence[str], weight: float) -> tuple[LoraUse, ...]:
    """``FILE``, ``NAME``, ``FILE=0.8``, ``FILE=te=0.5:unet=1``.

    Raises:
        RequestError: there is no such file, or the strength is no number.
        UnknownName: there is no such name.
    """
    return tuple(_read(text, weight) for text in given)


def _read(text: str, weight: float) -> LoraUse:
    from sdlite.assets import find_asset
    from sdlite.loras import LoraUse
    from sdlite.text.tags import read_strength

    ends = [len(text), *(match.start() for match in STRENGTH.finditer(text))]
    for end in ends:
        path = Path(text[:end])
        if text[:end] and path.exists():
            name = path.name if path.is_dir() else path.stem
            if end == len(text):
                return LoraUse(name, weight, path=path)
            return replace(read_strength("", text[end + 1 :]), name=name, path=path)
    end = ends[1] if len(ends) > 1 else len(text)
    name, strength = text[:end], text[end + 1 :]
    if Path(name).suffix or "/" in name or "\\" in name:
        raise RequestError(f"no LoRA at {name}: there is no such file")
    try:
        found = find_asset("LoRA", name)
    except UnknownName as error:
        raise UnknownName("LoRA", name, error.valid) from None
    use = LoraUse(name, weight) if end == len(text) else read_strength("", strength)
    return replace(use, name=name, path=found)


def read_embeddings(given: Sequence[str]) -> tuple[Path, ...]:
    """Files of textual inversions; raises ``RequestError``."""
    for text in given:
        if not Path(text).exists():
            raise RequestError(f"no embedding at {text}: there is no such file")
    return tuple(map(Path, given))
