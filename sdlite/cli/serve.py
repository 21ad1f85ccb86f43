"""``sdlite serve``: AUTOMATIC1111's API, OpenAI's and our own."""

from __future__ import annotations

import ipaddress
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlite.cli.edge import common, tell
from sdlite.cli.extras import mcp_part, server_part
from sdlite.cli.options import load_settings, model_names, setting
from sdlite.errors import RequestError
from sdlite.home import folders
from sdlite.settings import memory

if TYPE_CHECKING:
    from sdlite.server.state import Setup

DRAWN = "drawn"
"""Folder, beside that of the models, of what is drawn with the page."""
ENGINE = ("model", "threads", "precision", "max_memory", "memory_mode", "runtime")


@click.command(short_help="Serve a page to draw with, and A1111's and OpenAI's APIs.")
@click.option("--host", metavar="HOST", default="127.0.0.1", show_default=True, help="Address.")
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="Port; 0 takes any that is free.",
)
@click.option(
    "--models",
    "folders",
    metavar="DIR",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Offer the models in DIR too; may be given several times.",
)
@click.option(
    "--api-key",
    "api_keys",
    metavar="KEY",
    multiple=True,
    envvar="SDLITE_API_KEY",
    help="Let in who has KEY: as bearer token, X-API-Key, or password. Better set as the variable "
    "SDLITE_API_KEY than here, where others on this machine can read it.",
)
@click.option(
    "--api-auth",
    metavar="USER:PASSWORD,...",
    envvar="SDLITE_API_AUTH",
    help="Let in these users with basic auth, as A1111's option does.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@click.option("--no-key", is_flag=True, help="Serve other machines without a key.")
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="A name the server goes by, beside localhost and plain addresses.",
)
@click.option(
    "--allow-origin",
    "origins",
    metavar="ORIGIN",
    multiple=True,
    help="Let web pages of ORIGIN use the server, e.g. https://example.org; * for every page.",
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
    "--keep-memory",
    "keep_bytes",
    metavar="BYTES",
    callback=lambda context, option, text: None if text is None else memory("keep-memory", text),
    help="Keep several models open as long as they take no more memory than that, e.g. 8G. "
    "Default: one a device.",
)
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where pictures go that a client wants to be saved. Default: nowhere.",
)
@click.option(
    "--allow-fetch",
    "fetches",
    is_flag=True,
    help="Fetch pictures that requests name by URL, from public addresses only.",
)
@click.option("--log-prompts", is_flag=True, help="Write the prompts of jobs into the log.")
@click.option("--mcp", is_flag=True, help="Serve assistants at /mcp too (Model Context Protocol).")
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep jobs of the native API in DIR: they go on when the server is started again. With "
    "--open the folder drawn beside the models, otherwise nowhere.",
)
@click.option(
    "--save-every",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="How often a half done picture is saved there.",
)
@click.option(
    "--max-state",
    metavar="BYTES",
    type=click.IntRange(1),
    default=16 << 30,
    show_default=True,
    help="What pictures may take there; when they do, jobs are refused.",
)
@click.option(
    "--max-queue",
    metavar="N",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Jobs that may wait; half of them of one client.",
)
@click.option(
    "--max-pixels",
    metavar="N",
    type=click.IntRange(64),
    default=2048 * 2048,
    show_default=True,
    help="Largest picture.",
)
@click.option(
    "--max-steps",
    metavar="N",
    type=click.IntRange(1),
    default=150,
    show_default=True,
    help="Steps of a picture, both passes together.",
)
@click.option(
    "--max-images",
    metavar="N",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Pictures of one request.",
)
@click.option(
    "--max-body",
    metavar="BYTES",
    type=click.IntRange(1024),
    default=64 << 20,
    show_default=True,
    help="Largest request.",
)
@click.option(
    "--max-seconds",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    default=7200.0,
    show_default=True,
    help="How long a job may run.",
)
@setting("model", "-m", metavar="NAME", complete=model_names, help="Model for those who name none.")
@setting("styles-file", metavar="FILE", help="Where styles are. Default: beside the settings.")
@setting("threads", "-t", metavar="N", help="Compute threads. Default: one a physical core.")
@setting("precision", metavar="NAME", help="What to compute in: fp32, bf16, fp16.")
@setting("max-memory", metavar="BYTES", help="Most main memory a picture may take, e.g. 1.5G.")
@setting("memory-mode", metavar="MODE", help="auto, normal or mapped.")
@setting("runtime", metavar="NAME", help="Engine. Default: the first that can be used.")
@click.option(
    "--device",
    "devices",
    metavar="NAME",
    multiple=True,
    help="Device of the engine; given several times, each of them draws one job at a time.",
)
@click.option(
    "--metadata/--no-metadata", default=None, help="Write parameters into pictures. Default: yes."
)
@common
def serve(host: str, port: int, show: bool, **given: Any) -> None:
    """Serve the page for people, and AUTOMATIC1111's and OpenAI's APIs for programs, on this
    machine only.

    Prints the address once it answers; a browser finds the page there. Models open when they are
    needed. Ctrl-C ends it. The log, one JSON object a line on standard error, has no
    prompts unless --log-prompts asks for them.

    \b
    Examples:
      sdlite serve --open
      sdlite serve --model my-model --port 7861
      SDLITE_API_KEY=secret sdlite serve --host 0.0.0.0
    """
    run = server_part("run")
    app, logs, state = server_part("app"), server_part("logs"), server_part("state")
    if given["mcp"]:
        mcp_part("transports")
    setup = make_setup(host, given, show)
    guarded = setup.access.guarded
    if not guarded and not given["no_key"] and not is_loopback(host):
        raise RequestError(
            f"--host {host} can be reached by other machines: set SDLITE_API_KEY, "
            "or give --no-key to serve all of them"
        )
    server = state.Server(setup)
    server.shelf.find(None)
    listener = run.listen(host, port)
    logs.log_to()

    def ready() -> None:
        url = run.url_of(listener)
        click.echo(f"sdlite serves {url}")
        if show:
            show_page(url)

    with listener:
        run.serve(app.make_app(server), server, listener, ready)
    tell("stopped")


def show_page(url: str) -> None:
    """Open the browser, which must not keep the server from answering it."""
    import webbrowser

    place = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    threading.Thread(target=webbrowser.open, args=(place,), daemon=True).start()


def make_setup(host: str, given: dict[str, Any], show: bool) -> Setup:
    """What the options say; raises ``RequestError`` for what is not allowed."""
    from sdlite.server.guard import Access
    from sdlite.server.limits import Limits
    from sdlite.server.state import Setup

    values = load_settings()
    engine = {name: values.get(name, given[name]).value for name in ENGINE}
    styles = values.get("styles-file", given["styles_file"]).value
    metadata = given["metadata"]
    device = values.get("device").value
    return Setup(
        folders=given["folders"],
        limits=Limits(
            body_bytes=given["max_body"],
            pixels=given["max_pixels"],
            steps=given["max_steps"],
            images=given["max_images"],
            job_seconds=given["max_seconds"],
            queue=given["max_queue"],
            queue_of_client=max(given["max_queue"] // 2, 1),
        ),
        access=Access(
            hosts=frozenset(name.lower() for name in (*given["hosts"], host)),
            origins=frozenset(given["origins"]),
            api_keys=tuple(key for key in given["api_keys"] if key),
            users=users(given["api_auth"] or ""),
        ),
        keep_alive=given["keep_alive"],
        keep_bytes=given["keep_bytes"],
        devices=given["devices"] or (device,),
        styles=None if styles is None else Path(styles),
        output=given["output"],
        fetches=given["fetches"],
        log_prompts=given["log_prompts"],
        mcp=given["mcp"],
        state=given["state"] or (folders().models.parent / DRAWN if show else None),
        save_seconds=given["save_every"],
        state_bytes=given["max_state"],
        metadata=values.get("metadata").value if metadata is None else metadata,
        **engine,
    )


def users(text: str) -> tuple[tuple[str, str], ...]:
    """``user:password,...``; raises ``RequestError`` without repeating any of it."""
    found = []
    for item in filter(None, text.split(",")):
        name, colon, password = item.partition(":")
        if not (name and colon and password):
            raise RequestError("--api-auth is not USER:PASSWORD, several joined by commas")
        found.append((name, password))
    return tuple(found)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
