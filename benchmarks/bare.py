"""What sdlite's seam costs: a U-Net call through its OpenVINO adapter and one of OpenVINO's own.

``python -m benchmarks.bare PACKAGE [--precision bf16]``. Both read the same graph, fix the same
sizes and compute in the same precision; each has a process of its own, and they take turns.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.machine import machine, package_identity
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.speed import calls, ratios, take_turns
from benchmarks.worker import Spec
from sdlite.registry import probe

TARGET = 1.03


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description=__doc__)
    parser.add_argument("package", type=lambda text: Path(text).resolve())
    parser.add_argument("--precision", help="what to compute in; default: the device's own choice")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--cells", type=int, default=64, help="latent width and height")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="small sizes; proves that it runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.cells, options.rounds = 8, 2
    before = machine()
    device = next(item for item in probe("openvino") if item.name == "cpu")
    precision = options.precision or device.precisions[0]
    ours = Spec(
        str(options.package),
        variant="plain",
        threads=options.threads,
        batch=options.batch,
        cells=options.cells,
        fixed=True,
        runtime="openvino",
        precision=precision,
    )
    words = {
        "sdlite": f"U-Net call through sdlite, OpenVINO {precision}",
        "bare": f"U-Net call of OpenVINO alone, {precision}",
    }
    taken, opened = take_turns({"sdlite": ours, "bare": replace(ours, bare=True)}, options.rounds)
    found = [
        *calls(taken, words),
        Measurement(
            "sdlite_over_bare",
            f"U-Net call through sdlite, OpenVINO {precision}: time over OpenVINO alone",
            "ratio",
            ratios(taken["sdlite"], taken["bare"]),
            target=TARGET,
            note="median of the ratios of each round",
        ),
        *(
            Measurement(f"{name}_open_seconds", f"Opening: {words[name]}", "s", (told["seconds"],))
            for name, told in opened.items()
        ),
    ]
    side = 8 * options.cells
    write(
        options.output / "bare-openvino.json",
        "bare",
        f"U-Net call, batch {options.batch}, {side}x{side}, through sdlite and by OpenVINO alone",
        found,
        packages=[package_identity(options.package)],
        machine_before=before,
        quick=options.quick,
        notes=[f"the processor computes in {' or '.join(device.precisions)}"],
    )


if __name__ == "__main__":
    main()
