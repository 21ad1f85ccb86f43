"""An edge ControlNet for the shapes model: a trainable copy of the U-Net's way down.

The U-Net that ships stays as it is; the copy sees the noisy latents and the edges of the picture
(canny, as the runtime finds them) and adds to the skips through convolutions that start at zero
(Zhang, Rao and Agrawala 2023). Scenes have their shapes anywhere: only the edges tell where.
Loss, captions and optimiser are those of the U-Net (../../shapes/train).
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "shapes" / "train"))

import common  # noqa: E402
import network  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from anywhere import draw_anywhere  # noqa: E402
from captions import caption  # noqa: E402
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel  # noqa: E402
from optimizer import Optimizer  # noqa: E402
from scenes import Scene, render  # noqa: E402
from tokenizer import WordCodes  # noqa: E402
from torch import nn  # noqa: E402
from transformers import CLIPTextModel  # noqa: E402

from sdlite.control.canny import canny  # noqa: E402

GAMMA = 5.0
EMPTY = 0.15
EMBEDDING = (8, 16, 32, 64)
"""Channels of the convolutions that bring the edges to the size of the latents."""
RUNS = HERE / "runs"
DESTINATION = HERE.parent / "diffusers"


class Pool:
    """Latents and edges of scenes, renewed in turn."""

    def __init__(self, vae: AutoencoderKL, rng: np.random.Generator, capacity: int) -> None:
        self._vae = vae
        self._rng = rng
        self._capacity = capacity
        self._next = 0
        self.scenes: list[Scene] = []
        self.latents = torch.empty(capacity, 4, 16, 16, dtype=torch.float16)
        self.edges = torch.empty(capacity, 128, 128, dtype=torch.uint8)

    @torch.no_grad()
    def renew(self, count: int) -> None:
        """Encode new scenes over the oldest."""
        new = [draw_anywhere(self._rng) for _ in range(count)]
        pictures = np.stack([render(scene) for scene in new])
        low = self._rng.uniform(40, 140, count)
        edges = np.stack([canny(p, a, 2 * a) for p, a in zip(pictures, low, strict=True)])
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(torch.bfloat16) / 127.5 - 1
        found = self._vae.encode(x).latent_dist.mean * self._vae.config.scaling_factor
        at = self._next
        if len(self.scenes) < self._capacity:
            self.scenes += new
        else:
            self.scenes[at : at + count] = new
        self.latents[at : at + count] = found.to(torch.float16)
        self.edges[at : at + count] = torch.from_numpy(edges)
        self._next = (at + count) % self._capacity

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor, list[Scene]]:
        """Latents (count, 4, 16, 16), edges (count, 3, 128, 128) of 0 or 1, and the scenes."""
        index = self._rng.integers(len(self.scenes), size=count)
        chosen = torch.from_numpy(index)
        edges = (self.edges[chosen] > 0).to(torch.bfloat16)[:, None].expand(-1, 3, -1, -1)
        return self.latents[chosen].float(), edges, [self.scenes[i] for i in index]


def fresh(unet: UNet2DConditionModel) -> ControlNetModel:
    """An untrained control network beside a U-Net, with its weights.

    Its middle is one ResNet: with the transformer and the second one it would be over 5 MB.
    """
    taken = inspect.signature(ControlNetModel).parameters
    config = {name: value for name, value in unet.config.items() if name in taken}
    config |= {
        "mid_block_type": "UNetMidBlock2D",
        "conditioning_embedding_out_channels": EMBEDDING,
    }
    model = ControlNetModel(**config)
    mine = model.state_dict()
    kept = {name: value for name, value in unet.state_dict().items() if name in mine}
    left = model.load_state_dict(kept, strict=False).missing_keys
    assert all(name.startswith("controlnet_") for name in left), left
    model.set_attn_processor(network.PlainAttention())
    return model


def main() -> None:
    """Train, or resume, and write ../diffusers in float16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="main")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--end-at")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--renew", type=int, default=8, help="new scenes a step")
    parser.add_argument("--pool", type=int, default=8192, help="scenes kept")
    parser.add_argument("--emphasis", type=float, default=0.75, help="of high noise, 0 to 1")
    parser.add_argument("--average", type=float, default=0.995)
    parser.add_argument("--save-every", type=float, default=120, help="seconds")
    parser.add_argument("--base", type=Path, default=common.SHIPPED, help="the U-Net to control")
    parser.add_argument("--output", type=Path, default=DESTINATION)
    args = parser.parse_args()
    folder = RUNS / args.run
    log = common.Log(folder / "control.jsonl")
    vae = AutoencoderKL.from_pretrained(args.base / "vae").to(torch.bfloat16).eval()
    text = CLIPTextModel.from_pretrained(args.base / "text_encoder").to(torch.bfloat16).eval()
    unet = UNet2DConditionModel.from_pretrained(args.base / "unet").float()
    for part in (vae, text, unet):
        part.requires_grad_(False)
    codes = WordCodes()

    torch.manual_seed(args.seed)
    model = fresh(unet)
    unet.set_attn_processor(network.PlainAttention())
    unet.to(torch.bfloat16)
    master = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    names = [name for name, _ in model.named_parameters()]
    model.to(torch.bfloat16)
    working = list(model.parameters())
    optimizer = Optimizer(
        zip(names, master, strict=True), args.rate, 1e-3, 0.0, ("conv_in", "controlnet_cond.")
    )
    average = common.Average(master, args.average)
    iteration, used = 0, 0.0
    state = common.load_checkpoint(folder / "control.pt")
    if state is not None:
        with torch.no_grad():
            torch._foreach_copy_(master, state["master"])
            torch._foreach_copy_(average.shadow, state["average"])
            torch._foreach_copy_(working, master)
        optimizer.load_state_dict(state["optimizer"])
        iteration, used = state["iteration"], state["used"]

    rng = np.random.default_rng((args.seed, iteration))
    torch.manual_seed(args.seed + 1000 * iteration)
    alphas = network.alphas_cumprod()
    ratio = alphas / (1 - alphas)
    weights = (ratio.clamp(max=GAMMA) / ratio * (1 + 1 / ratio) ** args.emphasis).float()
    pool = Pool(vae, rng, args.pool)
    for _ in range(32):
        pool.renew(16)
    budget = common.Budget(args.iterations, args.minutes, args.end_at, used)
    log.write(iteration=iteration, parameters=sum(p.numel() for p in master))
    saved = time.time()
    losses: list[tuple[float, float]] = []
    progress = budget.progress(iteration)
    while progress < 1:
        pool.renew(args.renew)
        latents, edges, scenes = pool.draw(args.batch)
        words = [() if rng.random() < EMPTY else caption(rng, scene).words for scene in scenes]
        with torch.no_grad():
            features = text(input_ids=torch.tensor([codes(w) for w in words])).last_hidden_state
        spread = (rng.permutation(args.batch) + rng.random(args.batch)) / args.batch
        t = torch.from_numpy((spread * 1000).astype(np.int64))
        noise = torch.randn(latents.shape)
        a = alphas[t].float().view(-1, 1, 1, 1)
        noisy = (a.sqrt() * latents + (1 - a).sqrt() * noise).to(torch.bfloat16)
        down, mid = model(noisy, t, features, edges, return_dict=False)
        predicted = unet(
            noisy,
            t,
            features,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample.float()
        errors = (predicted - noise).pow(2).mean((1, 2, 3))
        loss = (weights[t] * errors).mean()
        loss.backward()
        for mine, theirs in zip(master, working, strict=True):
            assert theirs.grad is not None
            mine.grad = theirs.grad.float()
            theirs.grad = None
        torch.nn.utils.clip_grad_norm_(master, 1.0)
        optimizer.step(common.rate(progress, 1.0, iteration, 50))
        with torch.no_grad():
            torch._foreach_copy_(working, master)
        average.update(iteration)
        iteration += 1
        progress = budget.progress(iteration)
        high = t >= 600
        with torch.no_grad():
            losses.append((float(loss), float((errors / ratio[t].float())[high].mean())))
        if iteration % 20 == 0:
            weighted, picture = np.mean(losses, 0)
            log.write(
                iteration=iteration,
                progress=round(progress, 4),
                used=round(budget.used(), 1),
                loss=round(float(weighted), 5),
                picture_error_above_600=round(float(picture), 5),
            )
            losses.clear()
        if time.time() - saved > args.save_every or progress >= 1:
            saved = time.time()
            common.save_checkpoint(
                folder / "control.pt",
                {
                    "master": [p.detach() for p in master],
                    "average": average.shadow,
                    "optimizer": optimizer.state_dict(),
                    "iteration": iteration,
                    "used": budget.used(),
                },
            )
    model.float()
    with torch.no_grad():
        torch._foreach_copy_(list(model.parameters()), average.shadow)
    model.to(torch.float16).save_pretrained(args.output)


if __name__ == "__main__":
    main()
