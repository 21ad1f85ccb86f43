"""``sdlite mcp``: a tool for assistants, over standard input and output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sdlite.cli.edge import common
from sdlite.cli.extras import mcp_part, server_part
from sdlite.cli.options import load_settings, model_names, setting
from sdlite.cli.serve import ENGINE


@click.command(short_help="Let an assistant draw: the Model Context Protocol.")
@click.option(
    "--models",
    "folders",
    metavar="DIR",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Offer the models in DIR too; may be given several times.",
)
@click.option(
    "--keep-alive",
    metavar="SECONDS",
    type=float,
    default=300.0,
    show_default=True,
    help="How long an idle model stays in memory; -1 for ever.",
)
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep pictures in DIR, so that they can still be edited when this is started again.",
)
@setting("model", "-m", metavar="NAME", complete=model_names, help="Model for calls without one.")
@setting("threads", "-t", metavar="N", help="Compute threads. Default: one a physical core.")
@setting("precision", metavar="NAME", help="What to compute in: fp32, bf16, fp16.")
@setting("max-memory", metavar="BYTES", help="Most main memory a picture may take, e.g. 1.5G.")
@setting("memory-mode", metavar="MODE", help="auto, normal or mapped.")
@setting("runtime", metavar="NAME", help="Engine. Default: the first that can be used.")
@setting("device", metavar="NAME", help="Device of the engine.")
@common
def mcp(folders: tuple[Path, ...], keep_alive: float, state: Path | None, **given: Any) -> None:
    """Speak the Model Context Protocol on standard input and output.

    An assistant starts this command and gets the tools generate_image, edit_image, list_models and
    plan_image. In its settings that is, for example:

    \b
      {"mcpServers": {"sdlite": {"command": "sdlite", "args": ["mcp"]}}}

    sdlite serve --mcp has the same tools over HTTP, at /mcp.
    """
    transports = mcp_part("transports")
    logs, server = server_part("logs"), server_part("state")
    values = load_settings()
    engine = {name: values.get(name, given[name]).value for name in ENGINE}
    device = values.get("device", given["device"]).value
    setup = server.Setup(
        folders=folders, keep_alive=keep_alive, state=state, devices=(device,), **engine
    )
    made = server.Server(setup)
    made.shelf.find(None)
    logs.log_to()
    transports.serve_stdio(made)
