"""``sdlite tune``: what each profile and precision takes and costs on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sdlite import home
from sdlite.cli.edge import common, tell
from sdlite.cli.options import load_settings, runtime_names, setting
from sdlite.cli.table import table

if TYPE_CHECKING:
    from sdlite.pipeline import Pipeline
    from sdlite.tune import Receipt


@click.command(short_help="Measure what each profile and precision takes and costs here.")
@click.argument("package", metavar="[MODEL]", required=False)
@setting("steps", "-s", metavar="N", help="Steps, 1 to 1000; the model's own by default.")
@setting("threads", "-t", metavar="N", help="Compute threads.")
@setting("precision", metavar="NAME", help="Only this one of fp32, bf16 and fp16.")
@setting("runtime", metavar="NAME", complete=runtime_names, help="Engine.")
@setting("device", metavar="NAME", help="Device of the engine.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@common
def tune(package: str | None, as_json: bool, **given: str | None) -> None:
    """Draw four prompts with MODEL in every profile and precision, and print time and likeness.

    LIKENESS is the peak signal-to-noise ratio in decibels to profile quality in the widest
    precision, with the same seeds: from about 40 on hardly anybody sees a difference, below 25
    it is another picture. What was measured is kept, and sdlite plan counts with it.

    \b
    Example:
      sdlite tune my-model
    """
    import sdlite
    from sdlite import tune as tuning

    values = load_settings()
    chosen = {name: values.get(name, text).value for name, text in given.items()}
    model = values.get("model", package).value

    def opened(precision: str | None) -> Pipeline:
        return sdlite.load(
            model,
            threads=chosen["threads"],
            precision=precision,
            runtime=chosen["runtime"],
            device=chosen["device"],
        )

    with opened(chosen["precision"]) as pipe:
        whole = pipe.package
        precisions = tuning.precisions_of(pipe)
    if chosen["precision"] is not None:
        precisions = (chosen["precision"],)
    found = []
    for receipt in tuning.tune(opened, precisions, steps=chosen["steps"]):
        found.append(receipt)
        if not as_json:
            tell(f"{receipt.profile} {receipt.precision or ''}: {receipt.seconds:.1f} s a picture")
    path = tuning.keep(home.folders().cache, whole, found)
    if as_json:
        listed = [asdict(receipt) for receipt in found]
        click.echo(json.dumps({"model": whole.manifest.name, "receipts": listed}, indent=1))
        return
    click.echo(_table(found))
    tell(f"kept in {path}")


def _table(receipts: list[Receipt]) -> str:
    heads = ("PROFILE", "ENGINE", "PRECISION", "SECONDS", "FASTER", "ANSWERS", "LIKENESS")
    first = receipts[0].seconds
    rows = [
        (
            receipt.profile,
            receipt.runtime,
            receipt.precision or "-",
            f"{receipt.seconds:.2f}",
            f"{first / receipt.seconds:.2f}x" if receipt.seconds else "-",
            f"{receipt.full:g} of {receipt.full + receipt.skipped:g}, "
            f"{receipt.unguided:g} unguided",
            "-" if index == 0 else f"{receipt.psnr:.1f} dB",
        )
        for index, receipt in enumerate(receipts)
    ]
    return table(heads, rows)
