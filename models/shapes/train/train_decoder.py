"""Stage 3b: the autoencoder's decoder once more, on latents as the U-Net makes them.

The encoder stays as it is, so the latents do and the U-Net is untouched. The decoder sees latents
with faults: what guided sampling makes of half-noised latents, what the U-Net takes for the clean
latents at low noise, white noise, and smooth blots. It learns to paint the right, clean colours and
sharp edges over them.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import common
import network
import numpy as np
import torch
import torch.nn.functional as F
from captions import caption
from diffusers import AutoencoderKL
from optimizer import Optimizer
from scenes import Scene, draw_scene, render
from tokenizer import WordCodes
from train_vae import pictures, psnr
from transformers import CLIPTextModel

SQUARE = 3.0
"""Weight of the squared error."""


class Faults:
    """Latents of pictures, and the same with faults."""

    def __init__(self, folder: Path, vae: AutoencoderKL, where: torch.device) -> None:
        self._vae = vae
        self._where = where
        self._scale = float(vae.config.scaling_factor)
        self._codes = WordCodes()
        self._text = CLIPTextModel.from_pretrained(folder / "text_encoder").to(where).eval()
        self._unet = network.unet().to(where).eval()
        state = common.load_checkpoint(folder / "unet.pt")
        if state is None:
            raise FileNotFoundError(folder / "unet.pt")
        with torch.no_grad():
            for p, value in zip(self._unet.parameters(), state["average"], strict=True):
                p.copy_(value)
        self._alphas = network.alphas_cumprod().to(where)

    @torch.no_grad()
    def __call__(
        self, rng: np.random.Generator, scenes: list[Scene], x: torch.Tensor
    ) -> torch.Tensor:
        """Unscaled latents (n, 4, 16, 16) with faults of pictures x (n, 3, 128, 128)."""
        with torch.autocast(self._where.type, torch.bfloat16):
            found = self._vae.encode(x).latent_dist
        z = (found.mean + found.std * torch.randn_like(found.mean)).float() * self._scale
        kind = rng.random()
        if kind < 0.5:
            return self._guided(rng, scenes, z) / self._scale
        if kind < 0.8:
            ids = torch.tensor([self._codes(caption(rng, s).words) for s in scenes])
            t = torch.from_numpy(rng.integers(20, 300, len(scenes))).to(self._where)
            a = self._alphas[t].float().view(-1, 1, 1, 1)
            noise = torch.randn_like(z)
            noisy = a.sqrt() * z + (1 - a).sqrt() * noise
            with torch.autocast(self._where.type, torch.bfloat16):
                features = self._text(input_ids=ids.to(self._where)).last_hidden_state
                guess = self._unet(noisy, t, features).sample.float()
            z = (noisy - (1 - a).sqrt() * guess) / a.sqrt()
        else:
            z = z + rng.uniform(0, 0.15) * torch.randn_like(z)
        if rng.random() < 0.35:
            blots = torch.randn(len(z), 4, 5, 5, device=z.device)
            smooth = F.interpolate(blots, size=(16, 16), mode="bicubic", align_corners=True)
            z = z + rng.uniform(0, 0.3) * smooth
        return z / self._scale

    def _guided(
        self, rng: np.random.Generator, scenes: list[Scene], z: torch.Tensor
    ) -> torch.Tensor:
        """Noise scaled latents half way and sample them again with guidance: colours overshoot."""
        count = len(z)
        ids = [self._codes(caption(rng, s).words) for s in scenes]
        ids += [self._codes(())] * count
        table = ((1 - self._alphas) / self._alphas).sqrt().float()
        logs = table.log().cpu().numpy()
        top = float(table[int(rng.integers(200, 650))])
        sigmas = [*np.geomspace(top, 0.06, 6), 0.0]
        guidance = rng.uniform(4, 5.5)
        x = z + top * torch.randn_like(z)
        with torch.autocast(self._where.type, torch.bfloat16):
            features = self._text(input_ids=torch.tensor(ids).to(self._where)).last_hidden_state
            for sigma, after in pairwise(sigmas):
                t = float(np.interp(np.log(sigma), logs, np.arange(1000)))
                scaled = (x / (sigma**2 + 1) ** 0.5).repeat(2, 1, 1, 1)
                times = torch.full((2 * count,), t, device=self._where)
                said, empty = self._unet(scaled, times, features).sample.float().chunk(2)
                x = x + (after - sigma) * (empty + guidance * (said - empty))
        return x


def main() -> None:
    """Train, or resume, and leave runs/NAME/vae-final/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="main")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--end-at")
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    where = common.device()
    folder: Path = common.RUNS / args.run
    log = common.Log(folder / "decoder.jsonl")
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(where)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    named = [(name, p) for name, p in vae.named_parameters() if p.requires_grad]
    optimizer = Optimizer(named, args.rate, 4e-4, 0.01, ("conv_in", "conv_out", "quant_conv"))
    average = common.Average(parameters, 0.995)
    iteration, used = 0, 0.0
    state = common.load_checkpoint(folder / "decoder.pt")
    if state is not None:
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for shadow, kept in zip(average.shadow, state["average"], strict=True):
            shadow.copy_(kept)
        iteration, used = state["iteration"], state["used"]
    rng = np.random.default_rng((args.seed, iteration))
    torch.manual_seed(args.seed + 1000 * iteration)
    faults = Faults(folder, vae, where)
    test = pictures(np.random.default_rng(999), 24).to(where)
    budget = common.Budget(args.iterations, args.minutes, args.end_at, used)
    saved = time.time()
    losses: list[tuple[float, float]] = []
    progress = budget.progress(iteration)
    while progress < 1:
        scenes = [draw_scene(rng) for _ in range(args.batch)]
        stack = torch.from_numpy(np.stack([render(s) for s in scenes])).to(where)
        x = stack.permute(0, 3, 1, 2).float() / 127.5 - 1
        z = faults(rng, scenes, x)
        with torch.autocast(where.type, torch.bfloat16, enabled=progress < 0.7):
            y = vae.decoder(vae.post_quant_conv(z)).float()
        error = y - x
        gradient = (error[..., 1:] - error[..., :-1]).abs().mean()
        gradient = gradient + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        l1 = error.abs().mean()
        (l1 + gradient + SQUARE * error.pow(2).mean()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        factor = common.rate(progress, 1.0, iteration, 50)
        optimizer.step(factor)
        average.update(iteration)
        iteration += 1
        progress = budget.progress(iteration)
        losses.append((float(l1.detach()), float(gradient.detach())))
        if iteration % 50 == 0:
            means = np.mean(losses, 0)
            losses.clear()
            log.write(
                iteration=iteration,
                progress=round(progress, 4),
                used=round(budget.used(), 1),
                l1=round(float(means[0]), 5),
                gradient=round(float(means[1]), 5),
                rate=args.rate * factor,
            )
        if time.time() - saved > 150 or progress >= 1:
            saved = time.time()
            average.swap()
            mean, worst = psnr(vae, test)
            vae.save_pretrained(folder / "vae-final")
            average.swap()
            log.write(iteration=iteration, psnr=round(mean, 2), worst_psnr=round(worst, 2))
            common.save_checkpoint(
                folder / "decoder.pt",
                {
                    "model": vae.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.shadow,
                    "iteration": iteration,
                    "used": budget.used(),
                },
            )


if __name__ == "__main__":
    main()
