"""Pictures from a half-trained or finished model, for looking at: a contact sheet of given prompts.

The sampler is DPM++ 2M on Karras' sigmas, written out here so that any checkpoint can be looked at
without assembling a pipeline.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import common
import network
import numpy as np
import tokenizer
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer


class Sampler:
    """The three networks of a run, with the averaged U-Net."""

    def __init__(self, folder: Path, averaged: bool = True) -> None:
        tokenizer.write(folder / "tokenizer")
        self.tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
        self.text = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
        self.unet = network.unet().eval()
        state = common.load_checkpoint(folder / "unet.pt")
        if state is None:
            raise FileNotFoundError(folder / "unet.pt")
        self.iteration = state["iteration"]
        kept = state["average" if averaged else "master"]
        with torch.no_grad():
            for p, value in zip(self.unet.parameters(), kept, strict=True):
                p.copy_(value)

    @torch.no_grad()
    def features(self, prompts: list[str]) -> torch.Tensor:
        """Text features (prompts, 77, width)."""
        ids = self.tokens(
            prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text(input_ids=ids).last_hidden_state

    @torch.no_grad()
    def __call__(
        self,
        prompts: list[str],
        seeds: list[int],
        steps: int = 20,
        guidance: float = 5.0,
        negative: str = "",
    ) -> NDArray[np.uint8]:
        """Pictures (prompts, 128, 128, 3) uint8."""
        conditions, empty = self.features(prompts), self.features([negative])
        noise = torch.cat(
            [torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds]
        )
        alphas = network.alphas_cumprod()
        table = ((1 - alphas) / alphas).sqrt()
        top, low = float(table[-1]) ** (1 / 7), float(table[0]) ** (1 / 7)
        sigmas = [(top + i / (steps - 1) * (low - top)) ** 7 for i in range(steps)] + [0.0]
        logs = table.log().numpy()
        x = noise * sigmas[0]
        before = None
        for i in range(steps):
            sigma, after = sigmas[i], sigmas[i + 1]
            t = float(np.interp(np.log(sigma), logs, np.arange(1000)))
            scaled = (x / (sigma**2 + 1) ** 0.5).to(self.unet.dtype)
            with torch.autocast("cpu", torch.bfloat16):
                times = torch.full((2 * len(x),), t)
                both = torch.cat([empty.expand(len(x), -1, -1), conditions])
                out = self.unet(scaled.repeat(2, 1, 1, 1), times, both).sample.float()
            without, with_ = out.chunk(2)
            clean = x - sigma * (without + guidance * (with_ - without))
            if after == 0:
                x = clean
            elif before is None:
                x = after / sigma * x + (1 - after / sigma) * clean
            else:
                h = np.log(sigma / after)
                r = np.log(sigmas[i - 1] / sigma) / h
                mixed = (1 + 1 / (2 * r)) * clean - before / (2 * r)
                x = after / sigma * x + (1 - after / sigma) * mixed
            before = clean
        y = torch.cat(
            [self.vae.decode(p / self.vae.config.scaling_factor).sample for p in x.split(8)]
        )
        return ((y.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def sheet(pictures: NDArray[np.uint8], columns: int) -> Image.Image:
    """Pictures side by side with a thin line between them."""
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + 2), columns * (width + 2), 3), 128, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * (height + 2), i % columns * (width + 2)
        canvas[y : y + height, x : x + width] = picture
    return Image.fromarray(canvas)


def main() -> None:
    """Draw the prompts of a text file, one a line, and write pictures, their list and a sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "prompts", type=Path, help="a text file, or JSON as benchmarks/quality has it"
    )
    parser.add_argument("output", type=Path, help="a folder")
    parser.add_argument("--run", default="main")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--every", type=int, default=1, help="of a JSON list, every so many")
    parser.add_argument("--last", action="store_true", help="last weights, not averaged ones")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.time()
    sampler = Sampler(common.RUNS / args.run, not args.last)
    raw = args.prompts.read_text(encoding="utf-8")
    if args.prompts.suffix == ".json":
        entries = json.loads(raw)[:: args.every]
        names = [e["id"] for e in entries]
        prompts, seeds = [e["prompt"] for e in entries], [e["seed"] for e in entries]
    else:
        prompts = [line.strip() for line in raw.splitlines() if line.strip()]
        seeds = list(range(len(prompts)))
        names = [f"{i:03d}" for i in seeds]
    made = [
        sampler(prompts[i : i + 20], seeds[i : i + 20], args.steps, args.guidance)
        for i in range(0, len(prompts), 20)
    ]
    pictures = np.concatenate(made)
    args.output.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(args.output / f"{names[i]}.png")
    listed = [{"prompt": p, "file": f"{n}.png"} for p, n in zip(prompts, names, strict=True)]
    if args.prompts.suffix == ".json":
        listed = [{**e, "file": f"{e['id']}.png"} for e in entries]
    (args.output / "prompts.json").write_text(json.dumps(listed), encoding="utf-8")
    sheet(pictures, args.columns).save(args.output / f"sheet-{sampler.iteration:06d}.png")
    print(sampler.iteration, f"{time.time() - started:.1f} s", args.output)


if __name__ == "__main__":
    main()
