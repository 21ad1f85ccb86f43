"""Full-size parity: graphs of a Stable Diffusion 1.5 package against diffusers, in float32.

``python -m benchmarks.parity_full FOLDER`` needs torch, diffusers and transformers. FOLDER is a
diffusers folder (``python -m benchmarks.checkpoints sd15 FOLDER --layout diffusers``); it is
exported at float32 first, unless ``--package`` names the package made of it. One model is in memory
at a time. Errors are the largest absolute difference, in standard deviations of the reference.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sdlite_export.export import export_package
from sdlite_export.verify import deviation

from benchmarks.machine import machine, package_identity
from benchmarks.peers.components import references
from benchmarks.record import RESULTS, Measurement, write
from sdlite import registry
from sdlite.chain import open_chain
from sdlite.engine import LoadOptions
from sdlite.package import Package
from sdlite.text.labels import encoding_of
from sdlite.types import Array

LIMIT = 1e-4
ORT, OPENVINO = "onnxruntime", "openvino"
RUNS = {
    "text_encoder": (("plain", ORT), ("plain", OPENVINO)),
    "text_encoder_2": (("plain", ORT), ("plain", OPENVINO)),
    "unet": (("plain", OPENVINO), ("fused", ORT), ("segment", ORT)),
    "vae_decoder": (("plain", OPENVINO), ("fused", ORT), ("segment", ORT)),
    "vae_encoder": (("plain", OPENVINO), ("fused", ORT)),
}
"""Graphs of each component, in the engine that the planner gives them to."""


def inputs_of(component: str, package: Package, cells: int) -> dict[str, Array]:
    """Random inputs at the given latent size, one item."""
    rng = np.random.default_rng(0)
    manifest = package.manifest
    encoders = encoding_of(manifest).encoders
    tokenizer = manifest.tokenizers[
        encoders.index(component) if component in encoders else len(encoders) - 1
    ]
    side = cells * manifest.latent.factor
    sizes = {"batch": 1, "tokens": tokenizer.length, "height": cells, "width": cells}
    sizes |= {"image_height": side, "image_width": side}
    inputs: dict[str, Array] = {}
    (artifact,) = package.find(component, "plain")
    for spec in artifact.inputs:
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape)
        if spec.name == "input_ids":
            ids = rng.integers(0, tokenizer.bos, shape)
            ids[:, 0], ids[:, 20], ids[:, 21:] = tokenizer.bos, tokenizer.eos, tokenizer.pad
            inputs[spec.name] = ids
        elif spec.name == "timestep":
            inputs[spec.name] = np.array([501.0], np.float32)
        elif spec.name == "time_ids":
            inputs[spec.name] = rng.uniform(0, side, shape).astype(np.float32)
        else:
            value = rng.standard_normal(shape, dtype=np.float32)
            inputs[spec.name] = np.tanh(value) if component == "vae_encoder" else value
    return inputs


def results(
    package: Package,
    component: str,
    inputs: Mapping[str, Array],
    threads: int,
    engines: Collection[str],
) -> Iterator[tuple[str, str, dict[str, Array], float]]:
    """Variant, engine, outputs and seconds of the call; ONNX Runtime keeps weights mapped."""
    for variant, engine in RUNS[component]:
        if engine not in engines:
            continue
        runtime = registry.get(engine)
        device = next(found for found in registry.probe(engine) if found.name == "cpu")
        options = LoadOptions(
            threads=threads,
            memory_mode="mapped" if engine == ORT else "normal",
            precision="fp32",
        )
        artifacts = package.find(component, variant)
        session = open_chain(runtime, artifacts, package.root, device, options)
        try:
            start = time.perf_counter()
            outputs = session.run(inputs)
            yield variant, engine, outputs, time.perf_counter() - start
        finally:
            session.close()


def compare(
    folder: Path,
    package: Package,
    cells: int,
    threads: int,
    engines: Collection[str],
    tell: Callable[[str], object],
) -> list[Measurement]:
    """Errors of every variant of every component."""
    found = []
    for component in (name for name in RUNS if package.find(name, "plain")):
        inputs = inputs_of(component, package, cells)
        start = time.perf_counter()
        expected = references(folder, component, inputs, threads)
        gc.collect()
        tell(f"{component}: reference in {time.perf_counter() - start:.1f} s")
        for variant, engine, outputs, seconds in results(
            package, component, inputs, threads, engines
        ):
            worst = max(deviation(outputs[name], value) for name, value in expected.items())
            tell(f"{component} {variant}, {engine}: {worst:.2e} in {seconds:.1f} s")
            found.append(
                Measurement(
                    f"{component}_{variant}_{engine}",
                    f"{component}, {variant}, {engine}: error against diffusers",
                    "sd",
                    (worst,),
                    "max",
                    target=LIMIT,
                    note="largest absolute error, in standard deviations of the reference",
                )
            )
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity_full", description=__doc__)
    parser.add_argument("folder", type=Path, help="diffusers folder with float32 weights")
    parser.add_argument("--package", type=Path, help="float32 package made of it")
    parser.add_argument("--cells", type=int, default=64, help="latent cells each way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", nargs="+", choices=(ORT, OPENVINO), default=(ORT, OPENVINO))
    parser.add_argument("--title", default="Parity of a full-size SD1.5 with random weights")
    parser.add_argument("--out", type=Path, default=RESULTS / "parity-sd15.json")
    options = parser.parse_args(arguments)
    before: dict[str, Any] = dict(machine())
    with tempfile.TemporaryDirectory() as scratch:
        root = options.package
        if root is None:
            root = Path(scratch) / "package"
            report = export_package(options.folder, root, precision="fp32")
            print(f"exported in {report.seconds:.1f} s")
        package = Package.open(root)
        write(
            options.out,
            "parity_full",
            options.title,
            compare(
                options.folder, package, options.cells, options.threads, options.engines, print
            ),
            packages=[package_identity(package.root)],
            machine_before=before,
            notes=[f"latents {options.cells}x{options.cells}, one item, computed in float32"],
        )


if __name__ == "__main__":
    main()
