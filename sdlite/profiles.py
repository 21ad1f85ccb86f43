"""Profiles: how much a run may save at the cost of being close to the model's own answer."""

from __future__ import annotations

from dataclasses import dataclass

from sdlite.errors import UnknownName


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

    tiny: bool = False
    """Whether a tiny decoder makes the picture, where the package has one."""

    @property
    def forecasts(self) -> bool:
        """Whether answers of the model are forecast from earlier ones."""
        return self.first_gap > 0


QUALITY = Profile("quality", "no approximation")
PROFILES = {
    profile.name: profile
    for profile in (
        QUALITY,
        Profile("balanced", "about 40 % of the work", 3.0, 0.1, 0.28),
        Profile("fast", "a third of the work", 4.0, 0.05, 0.6),
        Profile("draft", "a quarter of the work", 4.5, 0.3, 4.0, tiny=True),
    )
}
"""From the most exact to the fastest."""


def find_profile(name: str, kind: str = "profile") -> Profile:
    """A profile by name, in any case; raises ``UnknownName``, which calls it ``kind``."""
    folded = str(name).strip().casefold()
    if folded not in PROFILES:
        raise UnknownName(kind, str(name), PROFILES)
    return PROFILES[folded]
