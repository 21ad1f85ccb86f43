"""``sdlite config``: what options mean when they are not given."""

from __future__ import annotations

import json

import click

from sdlite import home, settings
from sdlite.cli.edge import common, tell
from sdlite.cli.options import load_settings
from sdlite.cli.table import table
from sdlite.errors import RequestError


@click.command(
    short_help="Show and change settings.", context_settings={"ignore_unknown_options": True}
)
@click.argument("key", required=False)
@click.argument("value", required=False)
@click.option("--unset", metavar="KEY", help="Take KEY out of the settings file.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@common
def config(key: str | None, value: str | None, unset: str | None, as_json: bool) -> None:
    """Show each setting and where it comes from, or set KEY to VALUE in the settings file.

    An option on the command line counts first, then its environment variable (SDLITE_STEPS), then
    the settings file, then the default.

    \b
    Examples:
      sdlite config                      all settings
      sdlite config steps 30             always 30 steps, unless told otherwise
      sdlite config --unset steps
    """
    if unset is not None:
        if key is not None:
            raise RequestError("--unset takes one KEY and nothing else")
        settings.write(home.folders().settings, unset, None)
        return
    if key is not None and value is not None:
        _set(key, value)
        return
    values = load_settings()
    names = list(settings.OPTIONS) if key is None else [settings.find_option(key).name]
    shown = [values.get(name) for name in names]
    if as_json:
        click.echo(json.dumps({item.option.name: _described(item) for item in shown}, indent=1))
    elif key is not None:
        click.echo(shown[0].text if shown[0].text is not None else "")
    else:
        rows = [
            (item.option.name, _visible(item.text), item.where or item.origin, item.option.help)
            for item in shown
        ]
        click.echo(table(("SETTING", "VALUE", "FROM", "MEANS"), rows))
        click.echo(f"settings file: {values.path}")


def _set(key: str, value: str) -> None:
    settings.write(home.folders().settings, key, value)
    now = load_settings().get(key)
    if now.origin == "variable":
        tell(f"note: {now.where} is set to {now.text} and counts before the settings file")


def _visible(text: str | None) -> str:
    if text is None:
        return "automatic"
    return text or '""'


def _described(item: settings.Setting) -> dict[str, str | None]:
    return {"value": item.text, "origin": item.origin, "where": item.where or None}
