"""Stage 3: the U-Net, on latents of fresh scenes.

A pool of encoded scenes is renewed while it is used: every step encodes some new scenes over the
oldest ones, so no scene is seen often. Scenes come in pairs that differ in one attribute; a pair
shares noise and timestep, so the difference of its two gradients is the caption's alone. Noise
prediction with min-SNR-5 weights that grow again where noise prevails: there the colours are
decided, and a small error of the noise is a large one of the picture. A tenth of the captions are
empty, an average of the weights is kept. Every tenth step is on pictures of 256x256, a quarter as
many: a network that has seen one size alone fills larger canvases with more shapes.
The networks compute in bfloat16 over float32 master weights.

Every second pair, where noise does not prevail, is one scene twice, once without its caption, and
what guidance makes of the two predictions has to be right as well. There the picture is all but
decided and the two should agree; guidance multiplies what difference there is, and samplers that
extrapolate make faults of it when they take few steps. So these latents hold such faults beside
the noise that is told, as parts of other scenes (compare Ning et al. 2023, "Input Perturbation
Reduces Exposure Bias in Diffusion Models").
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import common
import network
import numpy as np
import parallel
import torch
from captions import caption, with_strange_words
from diffusers import AutoencoderKL
from optimizer import Optimizer
from scenes import PICTURE, Scene, draw_scene, neighbour, render
from tokenizer import WordCodes
from torch import nn
from transformers import CLIPTextModel

GAMMA = 5.0
EMPTY = 0.1
STRANGE_SHARE = 0.15
"""Share of the captions with words that change nothing."""
GUIDED_BELOW = 2.0
"""Sigma below which guided predictions are trained."""
FAULTS = 0.4
"""Largest share of another scene in their latents, at sigma 1."""
FAULT_FLOOR = 0.1
"""Faults at sigma 0, as a share of those at sigma 1."""


def words(rng: np.random.Generator, scene: Scene) -> tuple[str, ...]:
    """A caption's words, sometimes with strange ones among them."""
    said = caption(rng, scene)
    return (with_strange_words(rng, said) if rng.random() < STRANGE_SHARE else said).words


class Pool:
    """Latents of scenes in pairs, renewed in turn."""

    def __init__(
        self,
        vae: AutoencoderKL,
        rng: np.random.Generator,
        capacity: int,
        where: torch.device,
        picture: int = PICTURE,
    ) -> None:
        self._vae = vae
        self._rng = rng
        self._where = where
        self._capacity = capacity
        self._next = 0
        self.scenes: list[Scene] = []
        self._picture = picture
        side = picture // 8
        self.means = torch.empty(capacity, 4, side, side, dtype=torch.float16)
        self.deviations = torch.empty(capacity, 4, side, side, dtype=torch.float16)

    @torch.no_grad()
    def renew(self, pairs: int) -> None:
        """Encode new pairs over the oldest."""
        new: list[Scene] = []
        for _ in range(pairs):
            scene = draw_scene(self._rng)
            new += [scene, neighbour(self._rng, scene)]
        stack = torch.from_numpy(np.stack([render(s, self._picture) for s in new])).to(self._where)
        x = stack.permute(0, 3, 1, 2).to(self._vae.dtype) / 127.5 - 1
        found = self._vae.encode(x).latent_dist
        at = self._next
        if len(self.scenes) < self._capacity:
            self.scenes += new
        else:
            self.scenes[at : at + len(new)] = new
        scale = self._vae.config.scaling_factor
        self.means[at : at + len(new)] = (found.mean * scale).to("cpu", torch.float16)
        self.deviations[at : at + len(new)] = (found.std * scale).to("cpu", torch.float16)
        self._next = (at + len(new)) % self._capacity

    def draw(self, pairs: int) -> tuple[torch.Tensor, list[Scene]]:
        """Sampled latents (2 pairs, 4, h, w) float32 and their scenes, pairs side by side."""
        first = 2 * self._rng.integers(len(self.scenes) // 2, size=pairs)
        index = np.stack([first, first + 1], 1).reshape(-1)
        chosen = torch.from_numpy(index)
        mean, deviation = self.means[chosen].float(), self.deviations[chosen].float()
        return mean + deviation * torch.randn_like(mean), [self.scenes[i] for i in index]


def main() -> None:
    """Train, or resume; the averaged network is in runs/NAME/unet.pt for save.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="main")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--end-at")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--renew", type=int, default=8, help="new scenes a step")
    parser.add_argument("--pool", type=int, default=32768, help="scenes kept")
    parser.add_argument("--large-every", type=int, default=10, help="steps, one on larger pictures")
    parser.add_argument("--average", type=float, default=0.999)
    parser.add_argument("--emphasis", type=float, default=0.75, help="of high noise, 0 to 1")
    parser.add_argument("--guidance", type=float, default=5.0, help="of guided predictions")
    parser.add_argument("--guided", type=float, default=0.5, help="weight of their errors")
    parser.add_argument("--save-every", type=float, default=180, help="seconds")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    args = parser.parse_args()
    parallel.run(train, args, args.workers, 8_000_000)


def train(team: parallel.Team, args: argparse.Namespace) -> None:
    """What each process does."""
    where = common.device()
    folder: Path = common.RUNS / args.run
    log = common.Log(folder / "unet.jsonl" if team.rank == 0 else None)
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(where, torch.bfloat16).eval()
    text = CLIPTextModel.from_pretrained(folder / "text_encoder").to(where, torch.bfloat16).eval()
    vae.requires_grad_(False)
    text.requires_grad_(False)
    codes = WordCodes()

    torch.manual_seed(args.seed)
    model = network.unet().to(where)
    master = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    model = model.to(torch.bfloat16)
    working = list(model.parameters())
    names = [name for name, _ in model.named_parameters()]
    optimizer = Optimizer(
        zip(names, master, strict=True), args.rate, 1e-3, 0.05, ("conv_in", "conv_out")
    )
    average = common.Average(master, args.average)
    iteration, used = 0, 0.0
    state = common.load_checkpoint(folder / "unet.pt")
    if state is not None:
        with torch.no_grad():
            for mine, kept in zip(master, state["master"], strict=True):
                mine.copy_(kept)
            for shadow, kept in zip(average.shadow, state["average"], strict=True):
                shadow.copy_(kept)
            torch._foreach_copy_(working, master)
        optimizer.load_state_dict(state["optimizer"])
        iteration, used = state["iteration"], state["used"]

    # scenes and noise depend on the seed, the process and the place in the run
    rng = np.random.default_rng((args.seed, team.rank, iteration))
    torch.manual_seed(args.seed + 1000 * iteration + team.rank)
    alphas = network.alphas_cumprod().to(where)
    ratio = alphas / (1 - alphas)
    weights = (ratio.clamp(max=GAMMA) / ratio * (1 + 1 / ratio) ** args.emphasis).float()
    small_pairs = args.batch // team.count // 2
    pool = Pool(vae, rng, args.pool // team.count, where)
    for _ in range(64):
        pool.renew(16)
    large_pool = Pool(vae, rng, args.pool // team.count // 8, where, 2 * PICTURE)
    for _ in range(16):
        large_pool.renew(8)

    budget = common.Budget(args.iterations, args.minutes, args.end_at, used)
    log.write(iteration=iteration, parameters=sum(p.numel() for p in master), pairs=small_pairs)
    saved = time.time()
    losses: list[tuple[float, float, float]] = []
    progress = team.agree(budget.progress(iteration))
    while progress < 1:
        large = iteration % args.large_every == args.large_every - 1
        source, pairs = (large_pool, small_pairs // 4) if large else (pool, small_pairs)
        source.renew(max(1, args.renew // team.count // 2))
        latents, scenes = source.draw(pairs)
        latents = latents.to(where)
        # timesteps spread evenly over the batch, the same for both of a pair
        spread = (rng.permutation(pairs) + rng.random(pairs)) / pairs
        t = torch.from_numpy((spread * 1000).astype(np.int64)).repeat_interleave(2).to(where)
        # the first of every second pair below GUIDED_BELOW, and what stands beside it
        told = torch.arange(0, 2 * pairs, 4, device=where)
        told = told[ratio[t[told]] > GUIDED_BELOW**-2]
        untold = told + 1
        latents[untold] = latents[told]
        said = [() if rng.random() < EMPTY else words(rng, s) for s in scenes]
        for k in told.tolist():
            said[k], said[k + 1] = words(rng, scenes[k]), ()
        ids = torch.tensor([codes(line) for line in said]).to(where)
        with torch.no_grad():
            features = text(input_ids=ids).last_hidden_state
        noise = torch.randn(pairs, *latents.shape[1:]).repeat_interleave(2, 0).to(where)
        a = alphas[t].float().view(-1, 1, 1, 1)
        sigma = ratio[t[told]].float().view(-1, 1, 1, 1) ** -0.5
        share = FAULTS * (2 * torch.rand_like(sigma) - 1) * (sigma + FAULT_FLOOR)
        fault = share * (latents.roll(2, 0)[told] - latents[told]) / sigma
        noise[told] += fault
        noise[untold] += fault
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        predicted = model(noisy.to(torch.bfloat16), t, features).sample.float()
        errors = (predicted - noise).pow(2).mean((1, 2, 3)) / noise.pow(2).mean((1, 2, 3))
        loss = (weights[t] * errors).mean()
        guided = predicted[untold] + args.guidance * (predicted[told] - predicted[untold])
        missed = (guided - noise[told]).pow(2).mean((1, 2, 3)) / noise[told].pow(2).mean((1, 2, 3))
        loss = loss + args.guided * (weights[t[told]] * missed).sum() / len(t)
        loss.backward()
        for mine, theirs in zip(master, working, strict=True):
            assert theirs.grad is not None
            mine.grad = theirs.grad.float()
            theirs.grad = None
        team.mean_gradients(master)
        torch.nn.utils.clip_grad_norm_(master, 1.0)
        factor = common.rate(progress, 1.0, iteration, 200)
        optimizer.step(factor, team)
        with torch.no_grad():
            torch._foreach_copy_(working, master)
        average.update(iteration)
        iteration += 1
        progress = team.agree(budget.progress(iteration))
        with torch.no_grad():
            high = t >= 700
            picture = (errors / ratio[t].float())[high].mean() if high.any() else errors.mean()
            losses.append((float(loss), float(errors.mean()), float(picture)))
        if iteration % 50 == 0:
            weighted, noise_error, picture_error = np.mean(losses, 0)
            log.write(
                iteration=iteration,
                progress=round(progress, 4),
                used=round(budget.used(), 1),
                loss=round(float(weighted), 5),
                noise_error=round(float(noise_error), 5),
                picture_error_above_700=round(float(picture_error), 5),
                rate=round(args.rate * factor, 7),
                pool=len(pool.scenes),
            )
            losses.clear()
        if team.rank == 0 and (time.time() - saved > args.save_every or progress >= 1):
            saved = time.time()
            common.save_checkpoint(
                folder / "unet.pt",
                {
                    "master": [p.detach() for p in master],
                    "average": average.shadow,
                    "optimizer": optimizer.state_dict(),
                    "iteration": iteration,
                    "used": budget.used(),
                },
            )


if __name__ == "__main__":
    main()
