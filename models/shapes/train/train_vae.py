"""Stage 1: the KL autoencoder, trained on fresh scenes.

First on 64x64 crops; then on whole pictures, because group norms and the middle attention then see
what they see in use. Loss: L1, L2 (a thin outline that is lost is few pixels far off), L1 of the
image gradients, and a little KL. Errors around a shape count more the nearer its colour is to the
background's: else an orange shape on red comes out with sharp edges where soft ones were meant,
because they are a matter of few grey levels.

Half of the latents are disturbed before they are decoded, as a U-Net under guidance disturbs
them: scaled up, shifted as a whole, blotted; all are a little noisy. So the encoder learns to keep
colours far apart, with the mean of all between them, and the decoder to paint what was meant.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import parallel
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from optimizer import Optimizer
from scenes import COLORS, FEATHER, PICTURE, Scene, draw_scene, render

CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "sample_size": PICTURE,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (16, 32, 64, 96),
    "layers_per_block": 1,
    "norm_num_groups": 2,
}

WHITE = 0.04
"""White noise on latents while training, in deviations."""
CONTRAST = 240.0
"""Distance of two colours in RGB, of 441, from which errors have weight 1."""
HEAVIEST = 4.0
"""Weight of errors where colours are nearest."""


def pictures(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Fresh scenes as float32 (count, 3, 128, 128) on -1..1."""
    stack = np.stack([render(draw_scene(rng)) for _ in range(count)])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1


def contrast_weights(scene: Scene) -> np.ndarray:
    """Weights of errors by pixel, float32 (128, 128): 1 and more around shapes hard to see."""
    weights = np.ones((PICTURE, PICTURE), np.float32)
    ground = np.array(COLORS[scene.background], float)
    for item in scene.items:
        seen = float(np.linalg.norm(np.array(COLORS[item.color], float) - ground))
        reach = 1.1 * item.r + FEATHER
        x0, y0 = (max(0, int((c - reach) * PICTURE)) for c in (item.x, item.y))
        x1, y1 = (int((c + reach) * PICTURE) + 1 for c in (item.x, item.y))
        part = weights[y0:y1, x0:x1]
        np.maximum(part, min(HEAVIEST, max(1.0, CONTRAST / seen)), out=part)
    return weights


def batch(rng: np.random.Generator, whole: bool, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` 64x64 crops around shapes, or a quarter as many whole pictures, and weights.

    Returns:
        float32 (n, 3, h, w) on -1..1 and float32 (n, 1, h, w).
    """
    scenes = [draw_scene(rng) for _ in range(count // 4 if whole else count // 2)]
    stack: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for scene in scenes:
        picture, weight = render(scene), contrast_weights(scene)
        if whole:
            stack.append(picture)
            weights.append(weight)
            continue
        for k in range(2):
            item = scene.items[k % len(scene.items)]
            x, y = (
                int(np.clip(c * PICTURE - 32 + rng.integers(-24, 25), 0, PICTURE - 64))
                for c in (item.x, item.y)
            )
            stack.append(picture[y : y + 64, x : x + 64])
            weights.append(weight[y : y + 64, x : x + 64])
    x = torch.from_numpy(np.stack(stack)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x, torch.from_numpy(np.stack(weights))[:, None]


def disturbed(z: torch.Tensor, strength: float) -> torch.Tensor:
    """Latents (n, 4, h, w) with white noise, and every second one with faults.

    The faults, each of up to `strength` deviations: a gain, an offset, smooth blots.
    """
    if strength <= 0:
        return z
    count, channels, height, width = z.shape
    size = torch.rand(count, 3, 1, 1, device=z.device) * strength
    size[::2] = 0
    gain, shift, blot = size.unbind(1)
    blots = torch.randn(count, channels, height // 3, width // 3, device=z.device)
    smooth = F.interpolate(blots, size=(height, width), mode="bicubic", align_corners=True)
    faults = shift[:, None] * torch.randn(count, channels, 1, 1, device=z.device)
    faults = faults + blot[:, None] * smooth + WHITE * torch.randn_like(z)
    # faults are relative, or larger latents would escape them
    return z * (1 + gain[:, None]) + faults * z.detach().std()


def losses(
    vae: AutoencoderKL, x: torch.Tensor, weight: torch.Tensor, strength: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """L1, L2, L1 of the gradients, KL per picture, means; latents disturbed by `strength`.

    Errors of pixels count by `weight` (n, 1, h, w).
    """
    moments = vae.quant_conv(vae.encoder(x))
    mean, logvar = moments.chunk(2, 1)
    logvar = logvar.clamp(-30, 20)
    z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    y = vae.decoder(vae.post_quant_conv(disturbed(z, strength))).float()
    error = (y - x) * weight
    gradient = (error[..., 1:] - error[..., :-1]).abs().mean()
    gradient = gradient + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    kl = 0.5 * (mean.float() ** 2 + logvar.float().exp() - 1 - logvar.float()).sum((1, 2, 3)).mean()
    return error.abs().mean(), error.pow(2).mean(), gradient, kl


@torch.no_grad()
def psnr(vae: AutoencoderKL, x: torch.Tensor) -> tuple[float, float]:
    """Mean and worst PSNR in dB of 8-bit reconstructions of pictures, from the latents' means."""
    vae.eval()
    values = []
    for part in x.split(8):
        y = vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1)
        difference = ((y + 1) * 127.5).round() - (part + 1) * 127.5
        values.append(10 * torch.log10(255**2 / difference.pow(2).mean((1, 2, 3))))
    vae.train()
    every = torch.cat(values)
    return float(every.mean()), float(every.min())


@torch.no_grad()
def normalise(vae: AutoencoderKL, x: torch.Tensor) -> None:
    """Give every latent channel mean 0 and deviation 1 over pictures x, and the factor 1.

    Exact: the two 1x1 convolutions on either side of the latents take the change up.
    """
    found = [vae.encode(part).latent_dist.sample().float() for part in x.split(16)]
    latents = torch.cat(found).transpose(0, 1).flatten(1)
    mean, deviation = latents.mean(1), latents.std(1)
    into, out = vae.quant_conv, vae.post_quant_conv
    assert into.bias is not None and out.bias is not None
    channels = len(mean)
    into.bias[:channels] -= mean
    into.weight[:channels] /= deviation[:, None, None, None]
    into.bias[:channels] /= deviation
    into.bias[channels:] -= 2 * deviation.log()
    out.bias += (out.weight[:, :, 0, 0] * mean).sum(1)
    out.weight *= deviation[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)


def main() -> None:
    """Train, or resume, and leave runs/NAME/vae/ in diffusers layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="main")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--end-at")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--square", type=float, default=3.0, help="weight of L2")
    parser.add_argument("--kl", type=float, default=4e-7)
    parser.add_argument(
        "--disturb", type=float, default=0.15, help="of every second latent, in deviations"
    )
    parser.add_argument("--bf16", action="store_true", help="autocast, except for the last part")
    parser.add_argument(
        "--whole-from",
        type=float,
        default=0.6,
        help="share of the run after which batches are whole pictures",
    )
    parser.add_argument(
        "--fp32-from", type=float, default=0.85, help="share after which --bf16 no longer holds"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    args = parser.parse_args()
    parallel.run(train, args, args.workers, 3_000_000)


def train(team: parallel.Team, args: argparse.Namespace) -> None:
    """What each process does."""
    where = common.device()
    folder: Path = common.RUNS / args.run
    log = common.Log(folder / "vae.jsonl" if team.rank == 0 else None)
    torch.manual_seed(args.seed)
    vae = AutoencoderKL(**CONFIG).to(where, memory_format=torch.channels_last)
    parameters = list(vae.parameters())
    optimizer = Optimizer(
        vae.named_parameters(), args.rate, 1.5e-3, 0.01, ("conv_in", "conv_out", "quant_conv")
    )
    average = common.Average(parameters, 0.998)
    test = pictures(np.random.default_rng(999), 48).to(where)
    iteration, used = 0, 0.0
    state = common.load_checkpoint(folder / "vae.pt")
    if state is not None:
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for shadow, kept in zip(average.shadow, state["average"], strict=True):
            shadow.copy_(kept)
        iteration, used = state["iteration"], state["used"]
    # the stream of scenes depends on the seed and the place in the run alone
    rng = np.random.default_rng((args.seed, team.rank, iteration))
    torch.manual_seed(args.seed + 1000 * iteration + team.rank)
    budget = common.Budget(args.iterations, args.minutes, args.end_at, used)
    saved = time.time()
    sums = np.zeros(3)
    progress = team.agree(budget.progress(iteration))
    while progress < 1:
        x, weight = (
            part.to(where) for part in batch(rng, progress >= args.whole_from, 16 // team.count)
        )
        with torch.autocast(
            where.type, torch.bfloat16, enabled=args.bf16 and progress < args.fp32_from
        ):
            l1, square, gradient, kl = losses(
                vae, x, weight, args.disturb * min(1.0, progress / 0.15)
            )
        pixels = x[0].numel()
        loss = l1 + gradient + args.square * square + args.kl * kl * (12288 / pixels)
        loss.backward()
        team.mean_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        factor = common.rate(progress, 1.0, iteration, 100)
        optimizer.step(factor, team)
        average.update(iteration)
        sums += [float(l1.detach()), float(gradient.detach()), float(kl.detach())]
        iteration += 1
        progress = team.agree(budget.progress(iteration))
        if iteration % 100 == 0:
            l1_mean, gradient_mean, kl_mean = sums / 100
            sums[:] = 0
            log.write(
                iteration=iteration,
                progress=round(progress, 4),
                used=round(budget.used(), 1),
                l1=round(float(l1_mean), 5),
                gradient=round(float(gradient_mean), 5),
                kl=round(float(kl_mean), 2),
                rate=args.rate * factor,
            )
        if team.rank == 0 and (time.time() - saved > 120 or progress >= 1):
            saved = time.time()
            average.swap()
            mean, worst = psnr(vae, test)
            average.swap()
            log.write(iteration=iteration, psnr=round(mean, 2), worst_psnr=round(worst, 2))
            common.save_checkpoint(
                folder / "vae.pt",
                {
                    "model": vae.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.shadow,
                    "iteration": iteration,
                    "used": budget.used(),
                },
            )
    if team.rank > 0:
        return
    average.swap()
    normalise(vae, torch.cat([pictures(rng, 16) for _ in range(32)]).to(where))
    vae.to("cpu").to(memory_format=torch.contiguous_format).save_pretrained(folder / "vae")
    log.write(iteration=iteration, used=round(budget.used(), 1))


if __name__ == "__main__":
    main()
