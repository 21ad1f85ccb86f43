"""Stage 4: assemble the diffusers folder that ships, in float16."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import common
import network
import tokenizer
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler
from transformers import CLIPTextModel

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    # what the exporter takes as the package's own defaults
    "_sdlite_defaults": {"guidance": 5.0, "sampler": "DPM++ 2M", "schedule": "Karras"},
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
README = """---
license: apache-2.0
---
The shapes model of sdlite in diffusers layout. What it draws and how it was trained: ../card.md
"""


def assemble(run: Path, destination: Path, earlier: Path | None = None, share: float = 0.1) -> int:
    """Write the folder whole or not at all; the number of parameters.

    With `earlier`, an earlier checkpoint of the same U-Net, the weights are a mean of both in which
    it has `share` (Wortsman et al. 2022, "Model soups").
    """
    part = destination.with_name(destination.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    unet = network.unet()
    state = common.load_checkpoint(run / "unet.pt")
    if state is None:
        raise FileNotFoundError(run / "unet.pt")
    weights = state["average"]
    if earlier is not None:
        before = common.load_checkpoint(earlier)
        if before is None:
            raise FileNotFoundError(earlier)
        weights = [a.lerp(b, share) for a, b in zip(weights, before["average"], strict=True)]
    with torch.no_grad():
        for p, value in zip(unet.parameters(), weights, strict=True):
            p.copy_(value)
    vae = AutoencoderKL.from_pretrained(run / "vae")
    text = CLIPTextModel.from_pretrained(run / "text_encoder")
    count = 0
    for name, module in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        count += sum(p.numel() for p in module.parameters())
        module.to(torch.float16).save_pretrained(part / name, safe_serialization=True)
    tokenizer.write(part / "tokenizer")
    DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="epsilon",
        algorithm_type="dpmsolver++",
        solver_order=2,
        use_karras_sigmas=True,
        steps_offset=1,
    ).save_pretrained(part / "scheduler")
    (part / "README.md").write_text(README, encoding="utf-8")
    (part / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n", encoding="utf-8")
    # where a tool left the folder it read a part from, nobody else has that folder
    for config in part.glob("*/config.json"):
        values = json.loads(config.read_text(encoding="utf-8"))
        values.pop("_name_or_path", None)
        config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(destination, ignore_errors=True)
    part.rename(destination)
    return count


def main() -> None:
    """Assemble runs/NAME into a diffusers folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="main")
    parser.add_argument("--output", type=Path, default=common.SHIPPED)
    parser.add_argument("--earlier", type=Path, help="checkpoint to average with")
    parser.add_argument("--share", type=float, default=0.1, help="of the earlier checkpoint")
    args = parser.parse_args()
    count = assemble(common.RUNS / args.run, args.output, args.earlier, args.share)
    size = sum(f.stat().st_size for f in args.output.rglob("*") if f.is_file())
    print(f"{args.output}: {count / 1e6:.2f} M parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
