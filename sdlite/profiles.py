"""Profiles: how much a run may save at the cost of being close to the model's own answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sdlite.errors import UnknownName

STEPS = 20
"""Steps that the distances of a profile are out of."""
ROUNDING = 1e-9
"""Distances that differ by less are equal."""
HIGHEST = 1000.0
"""A noise level above all others."""


@dataclass(frozen=True)
class Profile:
    """What is done to be faster; docs/speed.md has what each costs."""

    name: str
    """What users call it."""
    summary: str
    """One line for people."""
    first_gap: float = 0.0
    """Steps out of 20 from the first evaluation of the model to the second; 0 evaluates always."""
    growth: float = 0.0
    """By how much that distance grows with every step out of 20."""
    tolerance: float = 0.0
    """Estimated error of the latents, in their own unit, above which the model is asked sooner."""

    unguided: float = 0.0
    """Noise level (sigma) below which guidance is off, which halves an answer's work."""
    downsamples: bool = False
    """Whether the finest self-attentions see a quarter of their tokens, where that is faster."""
    tiny: bool = False
    """Whether a tiny decoder makes the picture, where the package has one."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lowest and highest noise level at which guidance acts; None for all."""
        return (self.unguided, HIGHEST) if self.unguided else None

    def gap(self, place: float, steps: int) -> int:
        """Steps from an evaluation of the model in step ``place`` to the next one at most."""
        spread = self.first_gap * steps / STEPS + self.growth * place
        return max(1, math.floor(spread + 0.5 + ROUNDING))

    @property
    def forecasts(self) -> bool:
        """Whether answers of the model are forecast from earlier ones."""
        return self.first_gap > 0


QUALITY = Profile("quality", "no approximation")
PROFILES = {
    profile.name: profile
    for profile in (
        QUALITY,
        Profile("balanced", "a third of the model's work", 3.0, 0.1, 0.25, unguided=1.2),
        Profile("fast", "a quarter of it", 4.0, 0.1, 0.5, unguided=1.7, downsamples=True),
        Profile("draft", "a fifth of it", 4.0, 0.2, 0.8, unguided=1.7, downsamples=True, tiny=True),
    )
}
"""From the most exact to the fastest."""


def find_profile(name: str, kind: str = "profile") -> Profile:
    """A profile by name, in any case; raises ``UnknownName``, which calls it ``kind``."""
    folded = str(name).strip().casefold()
    if folded not in PROFILES:
        raise UnknownName(kind, str(name), PROFILES)
    return PROFILES[folded]
