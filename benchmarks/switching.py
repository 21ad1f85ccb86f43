"""What it takes to change a LoRA, or its strength, on a model that is loaded, and whether memory
comes back.

    python -m benchmarks.switching MODEL [--runtime onnxruntime ...] [--switches 20] [--rank 16]

Draws one step of a small picture again and again, each time with another strength of a random LoRA
of every linear layer and convolution of the U-Net, and reads the seconds the U-Net took to open and
the private memory afterwards. Every engine runs in a process of its own. Targets on SD1.5 and two
cores: ONNX Runtime at most 3 s a switch; OpenVINO at most its compile time, which is the first
opening, plus 1 s; after all switches as much memory as after the first.

Writes results/switching-MODEL.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.report import RESULTS, surroundings, write_report

SIDE = 256


def random_lora(package: Any, path: Path, rank: int) -> None:
    """Write a LoRA of small random weights for all layers of a package's U-Net, kohya's names."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {}
    for name, entry in package.weight_file("unet").tensors.items():
        if not name.endswith(".weight") or len(entry.shape) < 2:
            continue
        shape = entry.shape[::-1] if entry.layout == "transposed" else entry.shape
        key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        ones = (1,) * (len(shape) - 2)
        down = rng.standard_normal((rank, *shape[1:]), dtype=np.float32) * 0.01
        up = rng.standard_normal((shape[0], rank, *ones), dtype=np.float32) * 0.01
        tensors[f"{key}.lora_down.weight"] = down.astype(np.float16)
        tensors[f"{key}.lora_up.weight"] = up.astype(np.float16)
        tensors[f"{key}.alpha"] = np.array(rank, np.float16)
    header: dict[str, Any] = {}
    place = 0
    for name, value in tensors.items():
        span = [place, place + value.nbytes]
        header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": span}
        place += value.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            stream.write(np.ascontiguousarray(value).tobytes())


def child(model: str, runtime: str, lora: Path, switches: int) -> dict[str, Any]:
    """Measure in this process."""
    sdlite: Any = importlib.import_module("sdlite")
    memory: Any = importlib.import_module("sdlite.memory")

    def opening(result: Any) -> float:
        return float(next(p.load_seconds for p in result.phases if p.name == "denoise"))

    opened, private = [], []
    with sdlite.load(model, runtime=runtime, cache_limit=0) as pipe:
        drawn = {"seed": 1, "steps": 1, "width": SIDE, "height": SIDE, "guidance": 1.0}
        first = opening(pipe.generate("a cat", **drawn))
        for switch in range(switches):
            use = sdlite.LoraUse("random", 0.2 + 0.02 * switch, path=lora)
            opened.append(opening(pipe.generate("a cat", loras=[use], **drawn)))
            now = memory.snapshot()
            private.append(None if now is None else now.private_bytes)
        back = opening(pipe.generate("a cat", **drawn))
    return {
        "runtime": runtime,
        "first_opening_seconds": round(first, 3),
        "switch_seconds_median": round(statistics.median(opened), 3),
        "switch_seconds_most": round(max(opened), 3),
        "back_to_none_seconds": round(back, 3),
        "switches": switches,
        "private_bytes_after_first": private[0],
        "private_bytes_after_last": private[-1],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every engine; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="name or path of a package")
    parser.add_argument("--runtime", action="append")
    parser.add_argument("--switches", type=int, default=20)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--child", nargs=2, metavar=("RUNTIME", "LORA"), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        found = child(chosen.model, chosen.child[0], Path(chosen.child[1]), chosen.switches)
        sys.stdout.write(json.dumps(found))
        return 0
    sdlite: Any = importlib.import_module("sdlite")
    home: Any = importlib.import_module("sdlite.home")
    package = sdlite.Package.open(home.find_model(chosen.model))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        lora = Path(folder) / "random.safetensors"
        random_lora(package, lora, chosen.rank)
        for runtime in chosen.runtime or ["onnxruntime", "openvino"]:
            command = [sys.executable, "-m", "benchmarks.switching", chosen.model]
            command += ["--switches", str(chosen.switches), "--child", runtime, str(lora)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            sys.stdout.write(f"{rows[-1]}\n")
    write_report(
        chosen.output or RESULTS / f"switching-{package.manifest.name}.json",
        {
            "what": "changing the strength of a LoRA on a loaded model",
            **surroundings("switching"),
            "model": package.manifest.name,
            "rank": chosen.rank,
            "size": SIDE,
            "ways": rows,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
