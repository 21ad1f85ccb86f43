"""``sdlite devices``: where sdlite can compute."""

from __future__ import annotations

import json
from typing import Any

import click

from sdlite.cli.edge import common
from sdlite.cli.harmless import harmless
from sdlite.cli.table import readable, table


@click.command(short_help="List engines and devices, and what each computes in.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@common
def devices(as_json: bool) -> None:
    """List every device each installed engine sees: free memory, and precisions, fastest first.

    Take one by name with the options --runtime and --device of sdlite generate. Engines that
    cannot be used are listed with the reason and what to do.
    """
    from sdlite import registry
    from sdlite.errors import RuntimeUnavailable

    found = []
    missing = []
    for name, state in registry.available():
        if isinstance(state, RuntimeUnavailable):
            missing.append({"runtime": name, "reason": state.reason, "fix": state.fix})
        else:
            found += [registry.with_memory(device) for device in state]
    if as_json:
        listed: list[dict[str, Any]] = [
            {
                "runtime": device.runtime,
                "device": device.name,
                "description": device.description,
                "memory_bytes": device.memory_bytes,
                "precisions": list(device.precisions),
            }
            for device in found
        ]
        click.echo(json.dumps({"devices": listed, "unavailable": missing}, indent=1))
        return
    rows = [
        (
            device.runtime,
            device.name,
            "-" if device.memory_bytes is None else readable(device.memory_bytes),
            ", ".join(device.precisions),
            device.description,
        )
        for device in found
    ]
    click.echo(table(("RUNTIME", "DEVICE", "MEMORY", "PRECISIONS", "WHAT IT IS"), rows))
    for entry in missing:
        click.echo(harmless(f"{entry['runtime']}: {entry['reason']}. {entry['fix']}"))
