"""``sdlite upscale``: a larger picture."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from sdlite.cli.edge import common, tell
from sdlite.cli.interrupt import Job
from sdlite.cli.options import load_settings, runtime_names, setting
from sdlite.cli.progress import TileBar, wanted
from sdlite.errors import RequestError, SdliteError
from sdlite.output import destination
from sdlite.settings import real, size, whole

if TYPE_CHECKING:
    from sdlite.upscalers.enlarge import Upscaled


def upscaler_names(
    _ctx: click.Context, _param: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Completions of an upscaler's name."""
    from sdlite.upscalers.enlarge import RESAMPLING
    from sdlite.upscalers.files import installed

    try:
        names = [*RESAMPLING, *(file.name for file in installed())]
    except SdliteError:
        return []
    return [CompletionItem(name) for name in names if name.lower().startswith(begun.lower())]


@click.command(short_help="Enlarge a picture, with a network or without.")
@click.argument("image", metavar="IMAGE")
@click.option(
    "--upscaler",
    metavar="NAME|FILE",
    default="Lanczos",
    shell_complete=upscaler_names,
    help="A network made with sdlite export, or Lanczos (the default), Nearest, Bilinear.",
)
@click.option("--scale", metavar="N", help="1 to 16. Default: the network's own, else 2.")
@click.option("--size", "exact", metavar="WxH", help="Pixels, instead of --scale.")
@click.option(
    "--tile",
    metavar="PIXELS",
    help="Side of the largest tile, 16 to 8192. Default: 256, less where memory is short.",
)
@setting("output", "-o", metavar="FILE|FOLDER", help="Where to write. Default: here.")
@setting("format", metavar="NAME", help="png (the default), jpg or webp.")
@setting("runtime", metavar="NAME", complete=runtime_names, help="Engine, e.g. onnxruntime.")
@setting("device", metavar="NAME", help="Device within the engine, e.g. cpu.")
@setting("threads", metavar="N", help="Compute threads. Default: the physical cores.")
@setting("precision", metavar="NAME", help="Compute in fp32, bf16 or fp16. Default: what is fast.")
@click.option("--metadata/--no-metadata", default=None, help="Keep the picture's parameters.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@click.option("--progress/--no-progress", default=None, help="Show a bar. Default: in a terminal.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the path.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@common
def upscale(
    image: str,
    upscaler: str,
    scale: str | None,
    exact: str | None,
    tile: str | None,
    metadata: bool | None,
    overwrite: bool,
    progress: bool | None,
    quiet: bool,
    as_json: bool,
    **given: str | None,
) -> None:
    """Enlarge IMAGE. What a network makes too large is resampled down; transparency is kept.

    A network is a file that sdlite export made of ESRGAN, Real-ESRGAN, its compact networks or
    SwinIR (.pth, .safetensors), or of another program's .onnx.

    \b
    Examples:
      sdlite export RealESRGAN_x4plus.pth
      sdlite upscale photo.jpg --upscaler RealESRGAN_x4plus -o large.png
      sdlite upscale photo.jpg --scale 2 --upscaler RealESRGAN_x4plus
    """
    from sdlite import metadata as notes
    from sdlite.image.source import open_picture
    from sdlite.upscalers.enlarge import upscale as enlarge

    if scale is not None and exact is not None:
        raise RequestError("--scale and --size say the same thing twice; give one")
    values = load_settings()
    chosen = {name: values.get(name, text).value for name, text in given.items()}
    factor = None if scale is None else real(1, 16)("--scale", scale)
    wanted_size = None if exact is None else size("--size", exact)
    most = None if tile is None else whole(16, 8192)("--tile", tile)
    picture = open_picture(Path(image))
    target = destination(chosen["output"], 1, chosen["format"], overwrite)
    keep = values.get("metadata").value if metadata is None else metadata
    infotext = notes.read(Path(image)) if keep else None
    start = time.perf_counter()

    def work(cancel: threading.Event, _: threading.Lock) -> Upscaled:
        with TileBar(False if quiet else wanted(progress)) as bar:
            return enlarge(
                picture,
                upscaler,
                scale=factor,
                size=wanted_size,
                runtime=chosen["runtime"],
                device=chosen["device"],
                threads=chosen["threads"],
                precision=chosen["precision"],
                tile=most,
                on_tile=bar.set,
                cancel=cancel,
            )

    done = Job(work).run()
    result = done.image
    if target.format == "jpg" and result.mode == "RGBA":
        from sdlite.image.source import flatten

        result = flatten(result)
        if not quiet:
            tell("note: jpg has no transparency; it was put on white")
    if infotext is not None:
        by = result.width / picture.width
        infotext += f", Postprocess upscale by: {by:g}, Postprocess upscaler: {done.upscaler}"
    path = target.save(0, result, infotext)
    seconds = time.perf_counter() - start
    if as_json:
        document = {
            "path": str(path.absolute()),
            "width": result.width,
            "height": result.height,
            "upscaler": done.upscaler,
            "tiles": done.tiles,
            "runtime": done.runtime,
            "precision": done.precision,
            "seconds": round(seconds, 3),
        }
        click.echo(json.dumps(document, indent=1))
        return
    click.echo(str(path))
    if not quiet:
        how = f", {done.tiles} tiles on {done.runtime}" if done.tiles else ""
        tell(f"{result.width}x{result.height} by {done.upscaler}{how}, {seconds:.1f} s")
