"""Upscalers on each engine: seconds a tile, how alike the engines are, and whether tiles show.

    python -m benchmarks.upscale [--side 64] [--repeats 5] [--threads N] [--int8]

Networks have the published sizes and random weights, which change neither time nor memory. Engines
take turns in one run. ``tiled_psnr`` compares a picture of three by two tiles with the whole at
once. Writes results/upscale.json. With ``--int8`` each is also run in 8 bits; how alike pictures
then are says nothing of trained networks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.report import RESULTS, surroundings, write_report


def networks() -> dict[str, Any]:
    """Published networks by name: their sizes."""
    from sdlite_export.upscaler.config import CompactConfig, EsrganConfig, SwinIrConfig

    return {
        "RealESRGAN_x4plus": EsrganConfig(3, 64, 32, 23, 1, 2),
        "RealESRGAN_x4plus_anime_6B": EsrganConfig(3, 64, 32, 6, 1, 2),
        "realesr-general-x4v3": CompactConfig(3, 64, 32, 4),
        "SwinIR-M real x4": SwinIrConfig(
            3, 180, (6,) * 6, (6,) * 6, 360, 8, False, True, "nearest", 64, 4
        ),
    }


def write(folder: Path, name: str, config: Any, precision: str = "fp16") -> Path:
    """A file of a network with random weights, exported; returns its path."""
    from sdlite_export.upscaler.emit import OnnxUpscalerOps
    from sdlite_export.upscaler.export import export_upscaler
    from sdlite_export.upscaler.networks import upscaler

    ops = OnnxUpscalerOps("fp32")
    upscaler(ops, config)
    rng = np.random.default_rng(0)
    tensors = {}
    for key, need in ops.finish().weights.items():
        fan = int(np.prod(need.shape[1:])) if len(need.shape) > 1 else 100
        tensors[key] = (rng.standard_normal(need.shape) / fan**0.5).astype(np.float32)
        if "norm" in key and key.endswith("weight"):
            tensors[key] = np.ones(need.shape, np.float32)
    source = folder / "network.safetensors"
    _write_safetensors(source, tensors)
    target = folder / precision / f"{name}.onnx"
    return Path(export_upscaler(source, target, precision=precision).path)


def _write_safetensors(path: Path, tensors: Mapping[str, Any]) -> None:
    header, offset = {}, 0
    for key, tensor in tensors.items():
        spot = [offset, offset + tensor.nbytes]
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": spot}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            stream.write(tensor.tobytes())


def picture(width: int, height: int) -> Image.Image:
    """Waves and squares: something smooth and something with edges."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / 7 + k) * np.cos(y / 11 - k) for k in range(3)]
    pixels = np.stack(waves, -1) * 60 + 128 + 40 * ((x // 16 + y // 16) % 2)[:, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal to noise of two pictures, in dB."""
    error = np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean()
    return round(float(10 * np.log10(255**2 / max(error, 1e-9))), 1)


def measure(path: Path, side: int, repeats: int, threads: int) -> dict[str, Any]:
    """Figures of one network."""
    from sdlite import registry
    from sdlite.upscalers.files import read_file
    from sdlite.upscalers.network import Upscaler

    file = read_file(path)
    small = picture(side, side)
    usable = [name for name, found in registry.available() if isinstance(found, tuple)]
    names = [name for name in ("onnxruntime", "openvino") if name in usable]
    opened = {name: Upscaler(file, runtime=name, threads=threads, tile=side) for name in names}
    first = {name: engine.enlarge(small) for name, engine in opened.items()}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, engine in opened.items():
            start = time.perf_counter()
            engine.enlarge(small)
            seconds[name].append(time.perf_counter() - start)
    best = opened[names[-1]]
    large = picture(side * 2, side + side // 2)
    with Upscaler(file, runtime=names[-1], threads=threads, tile=side * 2) as whole:
        tiled_psnr = psnr(whole.enlarge(large), best.enlarge(large))
    found = {
        "seconds_per_tile": {name: round(statistics.median(t), 3) for name, t in seconds.items()},
        "precision": {name: engine.precision for name, engine in opened.items()},
        "tile": side,
        "tiled_psnr": tiled_psnr,
        "engines_psnr": psnr(*first.values()) if len(first) == 2 else None,
    }
    for engine in opened.values():
        engine.close()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=64, help="side of a tile")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--int8", action="store_true", help="also in 8 bits, not SwinIR")
    parser.add_argument("--only", nargs="+", choices=list(networks()), default=list(networks()))
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "upscale.json")
    chosen = parser.parse_args(arguments)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.only:
            path = write(Path(folder), name, networks()[name])
            figures[name] = measure(path, chosen.side, chosen.repeats, chosen.threads)
            if chosen.int8:
                narrow = write(Path(folder), name, networks()[name], "int8")
                found = measure(narrow, chosen.side, chosen.repeats, chosen.threads)
                figures[name]["int8"] = {"bytes": narrow.stat().st_size, **found}
            sys.stdout.write(f"{name}: {figures[name]}\n")
            sys.stdout.flush()
    about = surroundings("upscale")
    about["command"] = about["command"].replace("benchmarks.quality.", "benchmarks.")
    report = {"what": "upscalers on each engine", "threads": chosen.threads, **about}
    write_report(chosen.output, {**report, "figures": figures})
    sys.stdout.write(f"{chosen.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
