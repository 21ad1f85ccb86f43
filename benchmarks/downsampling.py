"""Seconds of U-Net calls whose finest attention sees a quarter of its tokens, against all of them.

``python -m benchmarks.downsampling PACKAGE [--runtime NAME] [--cells N ...]`` times both graphs of
a package in turns, in processes of their own, and says how far their answers to the same random
inputs are apart: with random weights that is no figure of pictures, only of how much is changed.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.machine import machine, package_identity
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.speed import calls, ratios, take_turns
from benchmarks.worker import Spec, inputs_for, open_session
from sdlite.manifest import DOWNSAMPLED
from sdlite.types import Float32

VARIANTS = {"openvino": "plain", "onnxruntime": "fused"}
"""Graph variant each engine is fastest with."""


def compare(base: Spec, rounds: int) -> list[Measurement]:
    """Calls of both graphs at one size."""
    specs = {"all": base, "fewer": replace(base, variant=f"{base.variant}{DOWNSAMPLED}")}
    taken, _ = take_turns(specs, rounds)
    label = f"{8 * base.cells}"
    what = f"U-Net call, {label}x{label}, {base.batch} item(s)"
    words = {
        f"{label}_all": f"{what}, all tokens",
        f"{label}_fewer": f"{what}, a quarter of the tokens in the finest attention",
    }
    found = calls({f"{label}_{name}": facts for name, facts in taken.items()}, words)
    gain = Measurement(
        f"{label}_gain",
        f"{what}: seconds with all tokens over those with fewer",
        "ratio",
        ratios(taken["all"], taken["fewer"]),
        note="median of the ratios of each round; more is better",
    )
    return [*found, gain]


def apart(base: Spec) -> Measurement:
    """How far the answers of both graphs to the same inputs are apart."""
    whole, fewer = (
        _answer(replace(base, variant=f"{base.variant}{end}")) for end in ("", DOWNSAMPLED)
    )
    error = np.sqrt(np.square(fewer - whole).mean() / np.square(whole).mean())
    return Measurement(
        "difference",
        f"Difference of both answers, {8 * base.cells}x{8 * base.cells}, of the answer's size",
        "percent",
        (100 * float(error),),
        note="root mean square, one call, random inputs",
    )


def _answer(spec: Spec) -> Float32:
    session = open_session(spec)
    try:
        (answer,) = session.run(inputs_for(session.inputs, spec)).values()
        return answer.astype(np.float32)
    finally:
        if hasattr(session, "close"):
            session.close()


def main() -> None:
    """Measure and write ``speed-downsampling-RUNTIME.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", type=Path, help="a package with both graphs")
    parser.add_argument("--runtime", default="openvino", choices=sorted(VARIANTS))
    parser.add_argument("--precision", help="what to compute in; the engine decides without it")
    parser.add_argument("--cells", type=int, nargs="+", default=[64], help="latent sides")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--label", default="", help="end of the result's file name")
    parser.add_argument("--note", default="", help="what is to be known of the package")
    parser.add_argument("--quick", action="store_true", help="mark the result as no measurement")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    before = machine()
    base = Spec(
        str(options.package),
        variant=VARIANTS[options.runtime],
        threads=options.threads,
        batch=options.batch,
        runtime=options.runtime,
        precision=options.precision,
        fixed=options.runtime == "openvino",
    )
    found: list[Measurement] = []
    for cells in options.cells:
        found += compare(replace(base, cells=cells), options.rounds)
    found.append(apart(replace(base, cells=options.cells[0])))
    end = f"-{options.label}" if options.label else ""
    write(
        options.output / f"speed-downsampling-{options.runtime}{end}.json",
        "speed",
        f"Attention over fewer tokens on {options.runtime}{f', {options.label}' if end else ''}, "
        f"{options.threads} threads",
        found,
        packages=[package_identity(options.package)],
        machine_before=before,
        quick=options.quick,
        notes=[options.note] if options.note else [],
    )


if __name__ == "__main__":
    main()
