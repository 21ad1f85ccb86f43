"""Make the environment ``.venv-peers`` with the programs sdlite is compared with.

    python3 benchmarks/peers/install.py [FOLDER]

With FOLDER, a diffusers folder (``python -m benchmarks.checkpoints sd15 FOLDER --layout
diffusers``), it is exported for OpenVINO GenAI into ``FOLDER-openvino`` as well, by optimum.
stable-diffusion.cpp is compiled for this processor, which takes some minutes and a C++ compiler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from _environment import environment, fail

STAGES = [
    ["torch==2.14.1", "torchvision==0.29.1"],
    ["optimum-intel[openvino]==2.2.0", "openvino-genai==2026.4.1.0", "diffusers==0.39.0"],
    ["stable-diffusion-cpp-python==0.4.7"],
]


def main() -> int:
    os.environ.setdefault("CMAKE_ARGS", "-DGGML_NATIVE=ON")
    python = environment(".venv-peers", STAGES, "OpenVINO GenAI, optimum, stable-diffusion.cpp")
    if len(sys.argv) < 2:
        return 0
    folder = Path(sys.argv[1])
    if not (folder / "model_index.json").is_file():
        fail(f"{folder} is no diffusers folder")
    export = [str(python.parent / "optimum-cli"), "export", "openvino", "--model", str(folder)]
    export += ["--task", "text-to-image", "--weight-format", "fp16", f"{folder}-openvino"]
    code = subprocess.run(export, check=False).returncode
    if not code:
        use_ddim(Path(f"{folder}-openvino"))
    return code


def use_ddim(folder: Path) -> None:
    """Give an exported folder DDIM's schedule: GenAI has no DPM++ 2M, nor reads its settings."""
    settings = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
    }
    write(folder / "scheduler" / "scheduler_config.json", settings)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    write(folder / "model_index.json", index | {"scheduler": ["diffusers", "DDIMScheduler"]})


def write(path: Path, data: dict[str, object]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
