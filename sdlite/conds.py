"""What a U-Net is told in a step: prompts, negative prompt, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Float32: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cond:
    """What a U-Net is told beside latents and time, for one or more items."""

    context: Float32
    """Text features, ``(items, tokens, width)``."""
    added: Mapping[str, Float32] = field(default_factory=dict)
    """Further inputs by the name the U-Net's graph has for them, ``(items, ...)`` each: SDXL's
    ``text_embeds`` and ``time_ids``; empty for SD 1 and 2."""

    def __len__(self) -> int:
        """Items."""
        return len(self.context)

    def stacks_with(self, other: Cond) -> bool:
        """Whether both can go into one call: all shapes equal but for the number of items."""
        return (
            self.context.shape[1:] == other.context.shape[1:]
            and self.added.keys() == other.added.keys()
            and all(
                self.added[name].shape[1:] == other.added[name].shape[1:] for name in other.added
            )
        )

    def take(self, items: slice) -> Cond:
        """Some of the items."""
        return Cond(self.context[items], {name: value[items] for name, value in self.added.items()})

    def repeat(self, count: int) -> Cond:
        """Every item ``count`` times in a row."""
        return Cond(
            np.repeat(self.context, count, axis=0),
            {name: np.repeat(value, count, axis=0) for name, value in self.added.items()},
        )

    @staticmethod
    def join(conds: Sequence[Cond]) -> Cond:
        """Items of several conds that stack, in order."""
        if len(conds) == 1:
            return conds[0]
        return Cond(
            np.concatenate([cond.context for cond in conds]),
            {name: np.concatenate([cond.added[name] for cond in conds]) for name in conds[0].added},
        )


@dataclass(frozen=True)
class StepConds:
    """What is drawn in one step: the prompts of a composition (AND) and the negative prompt."""

    parts: tuple[tuple[Cond, float], ...]
    """Each prompt and its weight, 1 in the usual case of a single one."""
    negative: Cond | None = None
    """The negative prompt; None when no step can need it."""

    @property
    def unbalanced(self) -> bool:
        """Whether the negative prompt counts even without guidance: weights do not sum to 1."""
        return sum(weight for _, weight in self.parts) != 1.0


Conditions: TypeAlias = Callable[[float], StepConds]
"""``sigma -> StepConds``: what to draw at a noise level. A prompt may change during a run."""
