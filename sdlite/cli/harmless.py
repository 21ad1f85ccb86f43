"""Text out of files, made harmless for a terminal: what it says is shown, never obeyed."""

from __future__ import annotations

import re

# C0 but tab, DEL, C1, line and paragraph separators, and marks that turn the writing's direction.
CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
BUT_NEWLINES = re.compile(CONTROLS.pattern.replace(r"\x0a-", r"\x0b-"))


def harmless(text: str, lines: bool = False) -> str:
    r"""Text whose control characters are shown as escapes such as ``\x1b``.

    Args:
        text: from a file that anybody may have made.
        lines: whether it may have several; else it stays in its line and cannot pass for another.
    """
    if lines:
        return BUT_NEWLINES.sub(_escape, text.replace("\r\n", "\n"))
    return CONTROLS.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
