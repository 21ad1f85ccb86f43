"""``sdlite inspect``: what a checkpoint or a package is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sdlite import home
from sdlite.cli.edge import common
from sdlite.cli.extras import export_part
from sdlite.cli.harmless import harmless
from sdlite.cli.progress import ByteBar, wanted
from sdlite.cli.table import readable, table
from sdlite.errors import RequestError, UnknownName

TASKS = {
    "inpaint": "inpainting",
    "edit": "editing by instruction (instruct-pix2pix)",
    "upscale": "enlarging pictures by diffusion",
}
"""What is said of models that need more than text."""


@click.command(short_help="Describe a package or a checkpoint.")
@click.argument("path", metavar="PATH|NAME")
@click.option("--verify", is_flag=True, help="Check every hash; compute that of a checkpoint.")
@click.option("--progress/--no-progress", default=None, help="Show a bar. Default: in a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@common
def inspect(path: str, verify: bool, progress: bool | None, as_json: bool) -> None:
    """Print family, components, precision, sizes, hashes, licence and parity.

    PATH is a package, a folder of diffusers or optimum, or a checkpoint file; NAME is a model of
    yours. Nothing is executed or changed.

    \b
    Examples:
      sdlite inspect shapes --verify
      sdlite inspect dream.safetensors
    """
    place = locate(path)
    part = export_part("inspect")
    with ByteBar(None, verify and wanted(progress), "verify ") as bar:
        found = part.inspect_path(place, verify=verify, progress=bar)
    click.echo(json.dumps(asdict(found), indent=1) if as_json else describe(found))


def locate(text: str) -> Path:
    """A path as it is, or a model's by its name.

    Raises:
        UnknownName: a plain word that is neither.
        RequestError: a path that does not exist.
    """
    path = Path(text)
    named = home.is_name(text)
    model = home.look_up(text) if named else None
    if model is not None:
        return model.path
    if home.exists(path):
        return path
    names = home.model_names() if named else []
    if names:
        raise UnknownName("model", text, names)
    raise RequestError(f"no file or folder {text}")


def describe(found: Any) -> str:
    """An ``Inspection`` for people."""
    facts = {
        "path": found.path,
        "kind": found.kind,
        "name": found.name,
        "family": found.family or "unknown",
        "task": TASKS.get(found.task),
        "predicts": found.prediction,
        "made for": found.image_size and "x".join(map(str, found.image_size)),
        "size": readable(found.size),
        "licence": found.licence,
        "source": found.source,
        "source hash": found.sha256,
        "exported by": found.exporter and f"sdlite {found.exporter}",
        "verified": {None: None, True: "every hash is right", False: "no"}[found.verified],
        "problem": found.problem,
    }
    lines = [f"{name:<12}{harmless(value)}" for name, value in facts.items() if value is not None]
    rows = [
        (
            item.name,
            str(item.tensors),
            f"{item.parameters:,}",
            item.precision,
            readable(item.size),
            (item.sha256 or "")[:16],
        )
        for item in found.components
    ]
    heads = ("COMPONENT", "TENSORS", "WEIGHTS", "PRECISION", "SIZE", "SHA-256")
    lines += ["", table(heads, rows)]
    for item in found.components:
        lines += [harmless(f"{item.name} graph {graph}") for graph in item.graphs]
    if found.parity:
        errors = [
            (item.component, item.variant, item.reference, f"{item.max_abs:.2e}")
            for item in found.parity
        ]
        lines += ["", table(("COMPONENT", "GRAPH", "COMPARED WITH", "MAX ERROR / STD"), errors)]
    lines += [f"note: {harmless(note)}" for note in found.notes]
    return "\n".join(lines)
