"""``sdlite plan``: what a request would take, before it runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sdlite import home
from sdlite.cli.describe import describe_plan
from sdlite.cli.edge import common
from sdlite.cli.options import load_settings, model_names, runtime_names, sampler_names, setting
from sdlite.cli.table import readable, table

if TYPE_CHECKING:
    from sdlite.forecast import Forecast


@click.command(short_help="Say what a picture would take: engine, seconds, memory.")
@click.argument("prompt", default="")
@setting("model", "-m", metavar="NAME|PATH", complete=model_names, help="Which model.")
@setting("size", metavar="WxH", help="Pixels, multiples of 8, at most 4096.")
@setting("steps", "-s", metavar="N", help="Steps, 1 to 1000.")
@setting("images", "-n", metavar="N", help="Pictures, one after the other.")
@setting("guidance", "-g", metavar="SCALE", help="Guidance scale; 1 halves the U-Net's work.")
@setting("sampler", metavar="NAME", complete=sampler_names, help="Some ask the model twice a step.")
@setting("decoder", metavar="NAME", help="full or tiny.")
@setting("profile", metavar="NAME", help="quality, balanced, fast or draft.")
@setting("threads", "-t", metavar="N", help="Compute threads.")
@setting("precision", metavar="NAME", help="What to compute in: fp32, bf16 or fp16.")
@setting("max-memory", metavar="BYTES", help="Most main memory to take.")
@setting("max-vram", metavar="BYTES", help="Most of a GPU's own memory to take.")
@setting("memory-mode", metavar="MODE", help="auto, normal or mapped.")
@setting("vae-tiles", metavar="N", help="Tiles the autoencoder works in.")
@setting("runtime", metavar="NAME", complete=runtime_names, help="Engine.")
@setting("device", metavar="NAME", help="Device of the engine.")
@click.option(
    "--measure", is_flag=True, help="Measure what is unknown first, for at most 10 seconds."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@common
def plan(prompt: str, measure: bool, as_json: bool, **given: str | None) -> None:
    """Print the phases of a picture of PROMPT: engine, device, precision, seconds, memory.

    Seconds come from pictures drawn before on this machine, at this size or, scaled, another; a
    phase that never ran is unknown, and --measure runs it at small sizes to find out.

    \b
    Example:
      sdlite plan "a castle" --model my-model --size 768x768 --measure
    """
    import sdlite
    from sdlite import forecast
    from sdlite import tune as tuning
    from sdlite.calibrate import calibrate
    from sdlite.request import complete

    values = load_settings()
    chosen = {name: values.get(name, text).value for name, text in given.items()}
    width, height = chosen["size"] or (None, None)
    request = sdlite.Request(
        prompt,
        width=width,
        height=height,
        steps=chosen["steps"],
        guidance=chosen["guidance"],
        sampler=chosen["sampler"],
        decoder=chosen["decoder"],
        profile=chosen["profile"],
    )
    folder = home.folders().cache
    loading: dict[str, Any] = {
        name: chosen[name]
        for name in (
            "threads", "precision", "max_memory", "max_vram", "memory_mode", "vae_tiles", "runtime",
            "device",
        )
    }  # fmt: skip
    with sdlite.load(chosen["model"], **loading) as pipe:
        made = pipe.plan(request)
        if measure:
            calibrate(pipe.package, made, folder)
        full = complete(request, pipe.package.manifest)
        receipts = tuning.kept(folder, pipe.package)
        found = forecast.forecast(
            made,
            full,
            pipe.package.manifest,
            forecast.read(folder),
            tuning.measured(receipts, full, made),
        )
    pictures = chosen["images"]
    total = found.seconds(pictures)
    if as_json:
        document = {
            "seconds": total,
            "images": pictures,
            "answers": asdict(found.answers),
            "phases": [asdict(row) for row in found.rows],
            "plan": describe_plan(made),
            "tuned": [asdict(receipt) for receipt in receipts],
        }
        click.echo(json.dumps(document, indent=1))
        return
    click.echo(_table(found))
    asked, skipped = found.answers.full, found.answers.skipped
    if skipped:
        click.echo(
            f"profile {full.profile}: at least {asked} of {asked + skipped} answers of the "
            "model computed, the others forecast from them where the error allows"
        )
    for line in tuning.explain(receipts, full, made):
        click.echo(line)
    more = f" for {pictures} pictures" if pictures > 1 else ""
    time = "unknown; --measure finds out" if total is None else f"{total:.1f} s"
    click.echo(f"time {time}{more}")
    click.echo(
        f"memory at most {readable(found.peak_bytes)}, of which {readable(found.private_bytes)} "
        "private"
        + (f"; of the GPU's own {readable(made.device_bytes)}" if made.device_bytes else "")
    )
    for reason in made.reasons:
        click.echo(reason)


def _table(found: Forecast) -> str:
    heads = (
        "PHASE",
        "COMPONENT",
        "ENGINE",
        "DEVICE",
        "PRECISION",
        "CALLS",
        "OPEN S",
        "RUN S",
        "BASIS",
        "MEMORY",
    )
    rows = [
        (
            row.phase,
            row.component,
            row.runtime,
            row.device,
            row.precision or "-",
            str(row.calls),
            _seconds(row.load_seconds),
            _seconds(row.run_seconds),
            row.basis,
            readable(row.private_bytes + row.mapped_bytes),
        )
        for row in found.rows
    ]
    return table(heads, rows)


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"
