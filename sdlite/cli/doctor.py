"""``sdlite doctor``: what keeps this machine from drawing."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from sdlite import __version__
from sdlite.cli.edge import common
from sdlite.cli.harmless import harmless

MARKS = {"ok": "ok  ", "warning": "warn", "failure": "FAIL"}


@click.command(short_help="Find out what keeps sdlite from drawing here, and what to do.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@common
@click.pass_context
def doctor(ctx: click.Context, /, as_json: bool) -> None:
    """Look at processor, memory, disk, settings, the compile cache and every engine.

    Each engine opens and runs a small graph on each of its devices, in a process of its own, so
    that one that crashes is found and named. What is wrong comes with its fix. The exit code is 1
    when sdlite generate would fail.
    """
    from sdlite.doctor import findings

    found = findings()
    fine = all(item.status != "failure" for item in found)
    if as_json:
        checks = [asdict(item) for item in found]
        document = {"sdlite": __version__, "ok": fine, "checks": checks}
        click.echo(json.dumps(document, indent=1))
    else:
        width = max(len(item.name) for item in found)
        for item in found:
            click.echo(harmless(f"{MARKS[item.status]}  {item.name.ljust(width)}  {item.detail}"))
            if item.fix:
                click.echo(harmless(f"      {' ' * width}  {item.fix}"))
    ctx.exit(0 if fine else 1)
