"""Controls as the command line names them: options that are given once for all or once for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sdlite.errors import RequestError

if TYPE_CHECKING:
    from sdlite.controls import Control

Function = TypeVar("Function", bound=Callable[..., Any])
OPTIONS: tuple[tuple[str, str, str], ...] = (
    (
        "control",
        "NAME",
        "Follow a picture with an adapter of the model (sdlite export FILE --for MODEL adds one); "
        "may be given several times, and then each option below once for all or once for each.",
    ),
    ("control-image", "FILE", "The picture to follow."),
    ("control-weight", "X", "How strongly, 0 to 4. Default: 1."),
    ("control-start", "SHARE", "Begin after this share of the steps, 0 to 1. Default: 0."),
    ("control-end", "SHARE", "End after this share of the steps. Default: 1."),
    (
        "control-mode",
        "NAME",
        "What counts more: balanced (the default), prompt, control, or diffusers' guess.",
    ),
    (
        "control-preprocessor",
        "NAME",
        "What makes the picture the adapter reads: none (the default), canny, scribble, invert, "
        "tile, inpaint, colour, shuffle, or FILE.onnx; with numbers: canny:low=50:high=150.",
    ),
    (
        "control-resize",
        "NAME",
        "How it comes to the size drawn: crop, the default, stretch, fill.",
    ),
    ("control-mask", "FILE", "For inpaint: white is hidden from the adapter."),
)
"""Name, metavar and help."""
NAMES = tuple(name.replace("-", "_") for name, _, _ in OPTIONS)


def control_options(function: Function) -> Function:
    """Add the options; ``read_controls`` reads them."""
    for name, metavar, text in reversed(OPTIONS):
        add = click.option(f"--{name}", metavar=metavar, multiple=True, help=text)
        function = add(function)
    return function


def read_controls(given: Mapping[str, Sequence[str]]) -> tuple[Control, ...]:
    """The controls the options describe; opens their pictures.

    Raises:
        RequestError: an option is there too often or too seldom, a number is none, or a picture
            cannot be read.
    """
    names = given["control"]
    if not names:
        lonely = next((name for name in NAMES if given[name]), None)
        if lonely is not None:
            raise RequestError(f"--{_flag(lonely)} without --control; name the adapter")
        return ()
    columns = {name: _spread(name, given[name], len(names)) for name in NAMES}
    return tuple(
        _control({name: column[index] for name, column in columns.items()})
        for index in range(len(names))
    )


def _spread(name: str, values: Sequence[str], count: int) -> list[str | None]:
    """One value for each control."""
    if len(values) == count:
        return list(values)
    if len(values) <= 1:
        return [values[0] if values else None] * count
    raise RequestError(
        f"--{_flag(name)} is there {len(values)} times and --control {count} times; "
        "give it once for all or once for each"
    )


def _control(values: Mapping[str, str | None]) -> Control:
    from sdlite.controls import Control
    from sdlite.image.source import open_picture

    name, file = values["control"], values["control_image"]
    if file is None:
        raise RequestError(f"--control {name} without --control-image; give the picture to follow")
    mask = values["control_mask"]
    preprocessor, options = _preprocessor(values["control_preprocessor"] or "none")
    return Control(
        name=str(name),
        image=open_picture(file),
        weight=_number("control-weight", values["control_weight"], 1.0),
        start=_number("control-start", values["control_start"], 0.0),
        end=_number("control-end", values["control_end"], 1.0),
        mode=values["control_mode"] or "balanced",
        preprocessor=preprocessor,
        options=options,
        resize=values["control_resize"] or "crop",
        mask=None if mask is None else open_picture(mask),
    )


def _preprocessor(text: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    """``NAME`` or ``NAME:low=50:high=150``; a colon without ``=`` behind it belongs to the name."""
    parts = text.split(":")
    options = []
    while len(parts) > 1 and "=" in parts[-1]:
        name, _, value = parts.pop().partition("=")
        options.append((name, _number(f"control-preprocessor's {name}", value, 0.0)))
    return ":".join(parts), tuple(reversed(options))


def _number(name: str, text: str | None, default: float) -> float:
    if text is None:
        return default
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"--{name} {text!r} is no number") from None


def _flag(name: str) -> str:
    return name.replace("_", "-")
