"""``sdlite cache``: what was compiled for this machine and kept."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from sdlite import home, settings
from sdlite.cli.edge import common
from sdlite.cli.options import load_settings
from sdlite.cli.table import readable, table

if TYPE_CHECKING:
    from sdlite.compilecache import CacheEntry


@click.command(short_help="Show graphs compiled for this machine, and delete them.")
@click.option("--clear", is_flag=True, help="Delete all of them; they are made again when needed.")
@click.option(
    "--shrink",
    metavar="BYTES",
    help="Delete the least recently used until BYTES are left, e.g. 500M.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@common
def cache(clear: bool, shrink: str | None, as_json: bool) -> None:
    """List compiled graphs: component, size, what for, when last used.

    Engines such as OpenVINO translate a graph for the processor and the size of a picture. That
    takes seconds, so sdlite keeps the result, up to --cache-limit of sdlite generate, and uses it
    only for the very same graph, weights, size, precision, options, device and engine version.

    \b
    Examples:
      sdlite cache
      sdlite cache --clear
    """
    from sdlite import compilecache

    folder = home.compiled_folder()
    gone: tuple[CacheEntry, ...] = ()
    if clear:
        gone = compilecache.clear(folder)
    elif shrink is not None:
        gone = compilecache.shrink(folder, settings.memory_or_none("--shrink", shrink))
    found = compilecache.entries(folder)
    limit = load_settings().get("cache-limit").value
    if as_json:
        document = {
            "folder": str(folder),
            "limit": limit,
            "bytes": sum(entry.size for entry in found),
            "deleted": len(gone),
            "entries": [
                {
                    "file": entry.path.name,
                    "bytes": entry.size,
                    "used": round(entry.used),
                    "key": dict(entry.key),
                }
                for entry in found
            ],
        }
        click.echo(json.dumps(document, indent=1))
        return
    if gone:
        click.echo(f"deleted {len(gone)}, {readable(sum(entry.size for entry in gone))}")
    if found:
        heads = ("COMPONENT", "SIZE", "LAST USED", "PRECISION", "SHAPE", "ENGINE")
        click.echo(table(heads, [_row(entry) for entry in found]))
    total = readable(sum(entry.size for entry in found))
    allowed = f"at most {readable(limit)}" if limit else "the limit is 0: nothing is kept"
    click.echo(f"{len(found)} compiled, {total} in {folder} ({allowed})")


def _row(entry: CacheEntry) -> tuple[str, ...]:
    key = entry.key
    if not key:
        return ("damaged", readable(entry.size), _when(entry.used), "-", "-", "-")
    sizes = json.loads(key.get("shape") or "{}")
    return (
        key.get("component", "-"),
        readable(entry.size),
        _when(entry.used),
        key.get("precision") or "-",
        " ".join(f"{name}={size}" for name, size in sizes.items()) or "any",
        " ".join(key.get("engine", "-").split()[:2]).partition("-")[0],
    )


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
