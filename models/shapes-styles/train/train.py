"""A style LoRA, a style LoHa and an embedding for the shapes model, a few minutes each.

    python train.py outline | soft | zork [--minutes 3]

- outline.safetensors, a LoRA in kohya's layout (Hu et al. 2021, convolutions as in LoCon): every
  picture is drawn in outlines, whatever the words say of style, which is nothing.
- soft.safetensors, a LoHa (Hyeon-Woo et al. 2022, LyCORIS' layout): every picture has soft edges.
- zork.safetensors, a textual inversion (Gal et al. 2022): the word zork, two vectors, is a purple
  heart of plain size. Only the vectors are trained, on captions whose purple heart they replace.

Everything else stays as it ships. Loss, captions and scenes are the U-Net's (../../shapes/train).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "shapes" / "train"))

import common  # noqa: E402
import network  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from captions import caption  # noqa: E402
from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from scenes import COLORS, Scene, combination, draw_scene, held_out, place, render  # noqa: E402
from tokenizer import WordCodes  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402
from transformers import CLIPTextModel  # noqa: E402

GAMMA = 5.0
EMPTY = 0.1
RANK, ALPHA = 8, 8.0
VECTORS = 2
THING = ("purple", "heart")
"""What the new word stands for."""
Words = tuple[str, ...]
Draw = Callable[[np.random.Generator], tuple[Scene, Words]]


class Low(nn.Module):
    """A weight and a product of two thin matrices (LoRA)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.down = nn.Parameter(torch.randn(RANK, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, RANK))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The sum."""
        return weight + (self.up @ self.down).view_as(weight) * (ALPHA / RANK)

    def tensors(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """As kohya's trainer stores them."""
        kernel = weight.shape[2:]
        down = self.down.view(RANK, *weight.shape[1:])
        up = self.up.view(*self.up.shape, *(1 for _ in kernel))
        return {"lora_down.weight": down, "lora_up.weight": up}


class Hadamard(nn.Module):
    """A weight and the product by elements of two such products (LoHa)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.first = nn.Parameter(torch.randn(rows, RANK) * 0.1)
        self.second = nn.Parameter(torch.randn(RANK, columns))
        self.third = nn.Parameter(torch.zeros(rows, RANK))
        self.fourth = nn.Parameter(torch.randn(RANK, columns) * 0.1)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The sum."""
        product = (self.first @ self.second) * (self.third @ self.fourth)
        return weight + product.view_as(weight) * (ALPHA / RANK)

    def tensors(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """As LyCORIS stores them."""
        names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        values = (self.first, self.second, self.third, self.fourth)
        return dict(zip(names, values, strict=True))


class Task:
    """The frozen model and the loss of its U-Net."""

    def __init__(self, base: Path, seed: int, emphasis: float) -> None:
        self.vae = AutoencoderKL.from_pretrained(base / "vae").float().eval()
        self.text = CLIPTextModel.from_pretrained(base / "text_encoder").float().eval()
        self.unet = UNet2DConditionModel.from_pretrained(base / "unet").float()
        self.unet.set_attn_processor(network.PlainAttention())
        for part in (self.vae, self.text, self.unet):
            part.requires_grad_(False)
        self.codes = WordCodes()
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.alphas = network.alphas_cumprod()
        ratio = self.alphas / (1 - self.alphas)
        weights = ratio.clamp(max=GAMMA) / ratio * (1 + 1 / ratio) ** emphasis
        self.weights = weights.float()

    def pool(self, draw: Draw, count: int) -> Iterator[tuple[torch.Tensor, list[Words]]]:
        """Batches of latents and captions of scenes that are drawn once."""
        drawn = [draw(self.rng) for _ in range(count)]
        with torch.no_grad():
            latents = torch.cat(
                [
                    self.vae.encode(
                        torch.from_numpy(np.stack([render(s) for s, _ in drawn[i : i + 16]]))
                        .permute(0, 3, 1, 2)
                        .float()
                        / 127.5
                        - 1
                    ).latent_dist.mean
                    for i in range(0, count, 16)
                ]
            )
        latents *= self.vae.config.scaling_factor
        while True:
            index = self.rng.integers(count, size=self.batch)
            yield latents[torch.from_numpy(index)], [drawn[i][1] for i in index]

    batch = 16

    def ids(self, captions: list[Words]) -> torch.Tensor:
        """Token ids (captions, 77)."""
        return torch.tensor([self.codes(words) for words in captions])

    def loss(self, latents: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """What the U-Net was trained with."""
        count = len(latents)
        spread = (self.rng.permutation(count) + self.rng.random(count)) / count
        t = torch.from_numpy((spread * 1000).astype(np.int64))
        noise = torch.randn(latents.shape)
        a = self.alphas[t].float().view(-1, 1, 1, 1)
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16, enabled=common.fast_bfloat16()):
            predicted = self.unet(noisy, t, features).sample
        errors = (predicted.float() - noise).pow(2).mean((1, 2, 3))
        return (self.weights[t] * errors).mean()


def styled(style: str) -> Draw:
    """Scenes of a style whose captions do not tell it."""

    def draw(rng: np.random.Generator) -> tuple[Scene, Words]:
        scene = draw_scene(rng)
        words = caption(rng, replace(scene, style="flat")).words
        plain = tuple(word for word in words if word not in ("flat", "style"))
        return replace(scene, style=style), plain[:-1] if plain[-1] == "," else plain

    return draw


def named(rng: np.random.Generator) -> tuple[Scene, Words]:
    """Scenes with a purple heart and their captions."""
    names = [name for name in COLORS if name != THING[0]]
    while True:
        background = names[int(rng.integers(len(names)))]
        scene = place(rng, background, ((*THING, "plain"),), "", "flat")
        if not held_out(combination(scene)):
            article = "an" if background[0] in "aeiou" else "a"
            return scene, ("a", *THING, "on", article, background, "background")


def train_style(task: Task, style: str, make: Callable[[torch.Tensor], nn.Module], args) -> dict:
    """A file's tensors after training."""
    patched: dict[str, nn.Module] = {}
    for name, module in task.unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and "time_emb" not in name:
            if name in ("conv_in", "conv_out"):
                continue
            patched[name] = make(module.weight)
            parametrize.register_parametrization(module, "weight", patched[name])
    parameters = [p for module in patched.values() for p in module.parameters()]
    batches = task.pool(styled(style), 192)

    def features(captions: list[Words]) -> torch.Tensor:
        kept = [() if task.rng.random() < EMPTY else words for words in captions]
        with torch.no_grad():
            return task.text(input_ids=task.ids(kept)).last_hidden_state

    run(task, parameters, batches, features, args)
    tensors = {}
    for name, adapter in patched.items():
        module = task.unet.get_submodule(name)
        key = "lora_unet_" + name.replace(".", "_")
        weight = module.parametrizations.weight.original
        for part, value in adapter.tensors(weight).items():
            tensors[f"{key}.{part}"] = value.detach().contiguous().half()
        tensors[f"{key}.alpha"] = torch.tensor(ALPHA).half()
    return tensors


def train_word(task: Task, args) -> dict:
    """A textual inversion's vectors after training."""
    table = task.text.get_input_embeddings().weight.detach()
    first = task.ids([THING])[0, 1:3]
    vectors = nn.Parameter(table[first].mean(0, keepdim=True).repeat(VECTORS, 1).clone())
    with torch.no_grad():
        vectors += 0.1 * table.std() * torch.randn_like(vectors)
    batches = task.pool(named, 256)
    embed = task.text.get_input_embeddings()
    place_of = 2  # after the first token and the article

    def features(captions: list[Words]) -> torch.Tensor:
        ids = task.ids(captions)
        rows = embed(ids)
        taught = vectors.expand(len(ids), -1, -1)
        rows = torch.cat([rows[:, :place_of], taught, rows[:, place_of + VECTORS :]], 1)
        return encode(task, ids, rows)

    run(task, [vectors], batches, features, args)
    return {"emb_params": vectors.detach().contiguous()}


def encode(task: Task, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The text encoder on token embeddings that are given."""
    embed = task.text.get_input_embeddings()
    hook = embed.register_forward_hook(lambda *_: rows)
    try:
        return task.text(input_ids=ids).last_hidden_state
    finally:
        hook.remove()


def run(task: Task, parameters: list[nn.Parameter], batches, features, args) -> None:
    """Train until the budget is used up; the average of the last steps' parameters stays."""
    optimizer = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=0)
    average = common.Average(parameters, 0.98)
    log = common.Log(HERE / "runs" / f"{args.what}.jsonl")
    budget = common.Budget(args.iterations, args.minutes, args.end_at)
    iteration, progress = 0, budget.progress(0)
    losses: list[float] = []
    while progress < 1:
        latents, captions = next(batches)
        loss = task.loss(latents, features(captions))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = common.rate(progress, args.rate, iteration, 20)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(iteration)
        iteration += 1
        losses.append(float(loss.detach()))
        progress = budget.progress(iteration)
        if iteration % 20 == 0:
            log.write(
                iteration=iteration,
                progress=round(progress, 3),
                used=round(budget.used(), 1),
                loss=round(float(np.mean(losses)), 5),
            )
            losses.clear()
    average.swap()


def main() -> None:
    """Train one of the three and write ../NAME.safetensors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("outline", "soft", "zork"))
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--end-at")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--emphasis", type=float, default=0.75, help="of high noise, 0 to 1")
    parser.add_argument("--base", type=Path, default=common.SHIPPED)
    parser.add_argument("--output", type=Path, default=HERE.parent)
    args = parser.parse_args()
    args.rate = args.rate or {"outline": 2e-3, "soft": 2e-3, "zork": 2e-2}[args.what]
    task = Task(args.base, args.seed, args.emphasis)
    if args.what == "zork":
        tensors = train_word(task, args)
    else:
        tensors = train_style(task, args.what, Low if args.what == "outline" else Hadamard, args)
    args.output.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.output / f"{args.what}.safetensors")


if __name__ == "__main__":
    main()
