"""Stage 2: the CLIP text encoder, trained on captions alone.

Linear heads, dropped afterwards, read off the end-of-text and padding features what the caption
says: colour, shape and size of what stands at each place, the background, the style. Which colour
belongs to which shape is then in the features before the U-Net sees them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
import torch.nn.functional as F
from captions import Caption, caption, with_strange_words
from numpy.typing import NDArray
from scenes import COLORS, SHAPES, SIZES, STYLES, Scene, draw_scene, neighbour
from tokenizer import LENGTH, WordCodes
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

WIDTH = 128
STRANGE_SHARE = 0.3
"""Share of the captions with words that change nothing."""
PLACES = ("centre", "left", "right", "top", "bottom", "named first", "named second")
_COLOR = {name: i for i, name in enumerate(COLORS)}
_SHAPE = {name: i for i, name in enumerate(SHAPES)}
_SIZE = {name: i for i, name in enumerate(SIZES)}
# classes of each question; the last of each is "not said" or "nothing there"
SLOT = (len(COLORS) + 1, len(SHAPES) + 1, len(SIZES) + 1)
QUESTIONS = (*(SLOT * len(PLACES)), len(COLORS) + 1, len(STYLES))


def config(codes: WordCodes) -> CLIPTextConfig:
    """A small CLIP text encoder."""
    return CLIPTextConfig(
        vocab_size=len(codes.vocab),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=codes.bos,
        eos_token_id=codes.eos,
        pad_token_id=codes.eos,
        projection_dim=WIDTH,
    )


def answers(scene: Scene, said: Caption) -> list[int]:
    """The right class of every question, for a complete caption."""
    slots = [[size - 1 for size in SLOT] for _ in PLACES]
    for index, item in enumerate(scene.items):
        if len(scene.items) == 1:
            place = 0
        elif said.place:
            place = (1 if scene.axis == "x" else 3) + index
        else:
            first = next(tag for tag in said.tags if tag >= 0)
            place = 5 if index == first else 6
        color = _COLOR[item.color] if said.colors else len(COLORS)
        slots[place] = [color, _SHAPE[item.shape], _SIZE[item.size]]
    background = _COLOR[scene.background] if said.background else len(COLORS)
    return [*(a for slot in slots for a in slot), background, STYLES.index(scene.style)]


def batch(
    rng: np.random.Generator, codes: WordCodes, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Token ids (count, 77), answers (count, questions), place of the end of text (count)."""
    ids, truth, ends = [], [], []
    scene: Scene | None = None
    while len(ids) < count:
        scene = neighbour(rng, scene) if scene and len(ids) % 2 else draw_scene(rng, 0.75)
        said = caption(rng, scene)
        if not said.complete:
            continue
        if rng.random() < STRANGE_SHARE:
            said = with_strange_words(rng, said)
        row = codes(said.words)
        ids.append(row)
        truth.append(answers(scene, said))
        ends.append(row.index(codes.eos))
    return np.array(ids), np.array(truth), np.array(ends)


def main() -> None:
    """Train, or resume, and leave runs/NAME/text_encoder/ in transformers layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="main")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--end-at")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    where = common.device()
    folder: Path = common.RUNS / args.run
    log = common.Log(folder / "text.jsonl")
    torch.manual_seed(args.seed)
    codes = WordCodes()
    model = CLIPTextModel(config(codes)).to(where)
    heads = nn.Linear(WIDTH, sum(QUESTIONS)).to(where)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01)
    iteration, used = 0, 0.0
    state = common.load_checkpoint(folder / "text.pt")
    if state is not None:
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        iteration, used = state["iteration"], state["used"]
    rng = np.random.default_rng((args.seed, iteration))
    budget = common.Budget(args.iterations, args.minutes, args.end_at, used)
    saved = time.time()
    sums: list[tuple[float, float, float]] = []
    progress = budget.progress(iteration)
    while progress < 1:
        ids, truth, ends = batch(rng, codes, args.batch)
        if progress < 0.85:
            # paddings are alike: a random few of them stand for all
            longest = int(ends.max()) + 1
            tail = np.sort(rng.permutation(np.arange(longest, LENGTH))[:5])
            positions = np.concatenate([np.arange(longest), tail])
        else:
            positions = np.arange(LENGTH)
        count = len(positions)
        asked = np.stack(
            [
                ends,
                np.full_like(ends, count - 1),
                rng.integers(np.minimum(ends + 1, count - 1), count),
            ],
            1,
        )
        tokens = torch.from_numpy(ids[:, positions]).to(where)
        features = model(
            input_ids=tokens,
            position_ids=torch.from_numpy(positions)[None].to(where),
        ).last_hidden_state
        chosen = features[
            torch.arange(len(ids), device=where)[:, None], torch.from_numpy(asked).to(where)
        ]
        right = torch.from_numpy(truth).to(where)[:, None].expand(-1, asked.shape[1], -1)
        loss = torch.zeros((), device=where)
        wrong = torch.zeros(asked.shape, dtype=torch.bool, device=where)
        for q, answer in enumerate(heads(chosen).split(QUESTIONS, -1)):
            loss = loss + F.cross_entropy(answer.flatten(0, 1), right[..., q].flatten())
            wrong |= answer.detach().argmax(-1) != right[..., q]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        now = common.rate(progress, args.rate, iteration, 100)
        for group in optimizer.param_groups:
            group["lr"] = now
        optimizer.step()
        iteration += 1
        progress = budget.progress(iteration)
        whole = 1 - wrong.float().mean(0)
        sums.append((float(loss.detach()), float(whole[0]), float(whole[1:].mean())))
        if iteration % 50 == 0 or progress >= 1:
            means = np.mean(sums, 0)
            sums.clear()
            log.write(
                iteration=iteration,
                progress=round(progress, 4),
                used=round(budget.used(), 1),
                loss=round(float(means[0]), 4),
                all_right_end=round(float(means[1]), 4),
                all_right_padding=round(float(means[2]), 4),
            )
        if time.time() - saved > 120 or progress >= 1:
            saved = time.time()
            kept: dict[str, Any] = {
                "model": model.state_dict(),
                "heads": heads.state_dict(),
                "optimizer": optimizer.state_dict(),
                "iteration": iteration,
                "used": budget.used(),
            }
            common.save_checkpoint(folder / "text.pt", kept)
    model.to("cpu").save_pretrained(folder / "text_encoder")


if __name__ == "__main__":
    main()
