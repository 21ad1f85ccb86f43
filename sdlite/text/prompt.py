"""A prompt as it is typed, taken apart: tags, AND, changes during the run."""

from __future__ import annotations

from dataclasses import dataclass

from sdlite.text.composition import split_composition
from sdlite.text.schedule import Nodes, parse_schedule
from sdlite.text.tags import Tag, split_tags


@dataclass(frozen=True)
class Prompt:
    """A prompt taken apart; attention brackets are still in its texts."""

    parts: tuple[tuple[Nodes, float], ...]
    """Prompts joined by AND and their weights; at least one."""
    tags: tuple[Tag, ...]
    """Extra networks."""

    @property
    def unbalanced(self) -> bool:
        """Whether the negative prompt counts even without guidance: weights do not sum to 1."""
        return sum(weight for _, weight in self.parts) != 1.0


def read_prompt(text: str) -> Prompt:
    """Take a prompt apart; every text can be read."""
    plain, tags = split_tags(text)
    parts = [(parse_schedule(part), weight) for part, weight in split_composition(plain)]
    return Prompt(tuple(parts), tags)


def read_negative(text: str) -> Nodes:
    """Take a negative prompt apart. As in A1111, AND and tags are words there."""
    return parse_schedule(text)


def evaluations(prompt: str, guidance: float) -> tuple[int, bool]:
    """Prompts drawn in each step, and whether the negative prompt is needed too."""
    read = read_prompt(prompt)
    return len(read.parts), guidance > 1.0 or read.unbalanced
