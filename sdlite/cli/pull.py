"""``sdlite pull``: the only command that downloads."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from sdlite import home
from sdlite.cli.edge import common, tell
from sdlite.cli.export import described, export_one, tell_report
from sdlite.cli.extras import export_part
from sdlite.cli.harmless import harmless
from sdlite.cli.progress import ByteBar, wanted
from sdlite.cli.table import readable
from sdlite.errors import OutputError, RequestError


@click.command(short_help="Download a model from the Hugging Face hub and export it.")
@click.argument("repo", metavar="ORG/NAME")
@click.argument("dest", metavar="[DEST]", required=False)
@click.option("--revision", metavar="NAME", help="Branch, tag or commit. Default: the main branch.")
@click.option(
    "--precision", metavar="NAME", default="fp16", help="fp16 (the default), fp32, int8 or w8."
)
@click.option("--no-export", is_flag=True, help="Only download; DEST is then that folder.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask; files and size are still shown.")
@click.option("--progress/--no-progress", default=None, help="Show a bar. Default: in a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; implies --yes.")
@common
def pull(
    repo: str,
    dest: str | None,
    revision: str | None,
    precision: str,
    no_export: bool,
    yes: bool,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Download ORG/NAME, after showing files, size and licence, and make a package of it.

    ORG/NAME/FILE.safetensors takes one file. An interrupted download goes on where it stopped, and
    every file is checked against the hub's checksum. The download stays in the cache folder, the
    package goes to DEST or to your models.

    \b
    Example:
      sdlite pull stable-diffusion-v1-5/stable-diffusion-v1-5
    """
    part = export_part("pull")
    name = Path(repo.strip("/")).name.removesuffix(".safetensors").removesuffix(".ckpt")
    shown = wanted(progress)
    folder = home.folders().cache / "pulled" / folder_name(repo, revision)
    if no_export and dest is not None:
        folder = Path(dest)
    package = Path(dest) if dest is not None else home.folders().models / name
    if not no_export and package.exists():
        raise OutputError(f"{package} exists; give another DEST, or delete it first")

    def confirm(plan: Any) -> bool:
        show_plan(plan)
        return yes or as_json or ask()

    source = part.pulled(folder, repo, revision)
    if source is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with ByteBar(None, shown) as bar:
            source = part.pull(repo, folder, revision=revision, confirm=confirm, progress=bar.set)
    else:
        tell(
            f"note: {folder} holds it already, nothing is downloaded; delete it to get a newer one"
        )
    if no_export:
        click.echo(json.dumps({"source": str(source)}) if as_json else str(source))
        return
    report = export_one(source, package, precision, "onnx", False, shown, name)
    if as_json:
        click.echo(json.dumps({"source": str(source), **described(report)}, indent=1))
        return
    tell_report(report)
    tell(f"the download stays in {folder}; delete it if you need the space")


def folder_name(repo: str, revision: str | None) -> str:
    """A cache folder's name: each revision has its own, so that none is taken for another."""
    whole = repo.strip("/") if revision is None else f"{repo.strip('/')}@{revision}"
    return re.sub(r"[^\w.+@-]", "-", whole.replace("/", "--"))


def show_plan(plan: Any) -> None:
    """Files, size and licence, on standard error."""
    for file in plan.files:
        click.echo(f"  {readable(file.size):>10}  {harmless(file.path)}", err=True)
    tell(
        f"{plan.repo} at {plan.revision[:12]}: {len(plan.files)} files, {readable(plan.size)}, "
        f"licence {plan.licence}, to {plan.dest}"
    )


def ask() -> bool:
    """Ask in a terminal; anywhere else nobody could answer."""
    if not somebody_is_there():
        raise RequestError("nobody is there to confirm the download; add --yes")
    return click.confirm("Download?", default=True, err=True)


def somebody_is_there() -> bool:
    """Whether a question would reach a person."""
    return sys.stdin.isatty()
