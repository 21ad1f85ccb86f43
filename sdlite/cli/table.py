"""Columns for people."""

from __future__ import annotations

from collections.abc import Sequence

from sdlite.cli.harmless import harmless


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under their heads, columns as wide as they need to be; cells may come from files."""
    lines = [heads, *([harmless(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def readable(count: int) -> str:
    """Bytes as people read them."""
    if count >= 10**9:
        return f"{count / 10**9:.2f} GB"
    for unit, factor in (("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
