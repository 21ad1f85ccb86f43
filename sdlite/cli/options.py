"""Options of ``generate`` and what completes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from sdlite import home, settings
from sdlite.errors import SdliteError

Function = TypeVar("Function", bound=Callable[..., Any])


def setting(
    name: str, *flags: str, metavar: str, help: str, complete: Callable[[], list[str]] | None = None
) -> Callable[[Function], Function]:
    """An option whose value is checked, and looked up elsewhere when missing, by the settings."""

    def offers(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
        try:
            names = complete() if complete is not None else []
        except SdliteError:
            names = []
        return [CompletionItem(name) for name in names if name.lower().startswith(begun.lower())]

    return click.option(
        f"--{name}",
        *flags,
        name.replace("-", "_"),
        metavar=metavar,
        help=help,
        shell_complete=offers if complete is not None else None,
    )


def model_names() -> list[str]:
    """Models that can be drawn with."""
    return [model.name for model in home.models() if model.ready]


def sampler_names() -> list[str]:
    """Samplers in A1111's spelling."""
    from sdlite.sampling import SAMPLERS

    return [info.name for info in SAMPLERS]


def schedule_names() -> list[str]:
    """Schedules in A1111's spelling."""
    from sdlite.sampling import SCHEDULES

    return [info.label for info in SCHEDULES]


def load_settings() -> settings.Settings:
    """The user's settings file and environment."""
    return settings.read(home.folders().settings, os.environ)
