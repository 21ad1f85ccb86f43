"""What the command line does to prompts before they are drawn: styles and wildcards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdlite.errors import RequestError
from sdlite.text.styles import Style, apply_styles, find_styles, read_styles
from sdlite.text.wildcards import expand_wildcards, has_wildcards


@dataclass(frozen=True)
class Wording:
    """Styles and wildcards of a job."""

    styles: tuple[Style, ...] = ()
    """Applied in this order."""
    wildcards: Path | None = None
    """Folder of wildcard files; None leaves wildcards as they are."""

    def apply(self, prompt: str, negative_prompt: str, seed: int) -> tuple[str, str]:
        """Prompt and negative prompt of the picture with this seed."""
        prompt, negative_prompt = apply_styles(prompt, negative_prompt, self.styles)
        if self.wildcards is None:
            return prompt, negative_prompt
        return (
            expand_wildcards(prompt, self.wildcards, seed),
            expand_wildcards(negative_prompt, self.wildcards, seed),
        )

    def note(self, prompts: Sequence[str]) -> str | None:
        """What to tell about wildcards that stay as they are."""
        if self.wildcards is None and any(has_wildcards(prompt) for prompt in prompts):
            return "wildcards stay as they are: there is no folder of them; see --wildcards"
        return None


def wording(
    names: Sequence[str], styles_file: str | None, wildcards: str | None, beside: Path
) -> Wording:
    """Find what was asked for.

    Args:
        names: styles.
        styles_file: where they are; None is ``styles.csv`` beside the settings.
        wildcards: folder; None is ``wildcards`` beside the settings if that is there.
        beside: the folder of the settings.

    Raises:
        RequestError: a file or folder is not there or cannot be read.
        UnknownName: there is no such style.
    """
    found: Sequence[Style] = ()
    if names:
        path = Path(styles_file) if styles_file is not None else beside / "styles.csv"
        found = find_styles(names, read_styles(path))
    folder = Path(wildcards) if wildcards is not None else beside / "wildcards"
    if wildcards is not None and not folder.is_dir():
        raise RequestError(f"wildcards {wildcards!r} is no folder")
    return Wording(tuple(found), folder if folder.is_dir() else None)
