"""What a request says of a LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LoraUse:
    """A LoRA, or one of its relatives, and how strongly it is applied."""

    name: str
    """Its name in the model folders, or what to call the file ``path``."""
    unet: float = 1.0
    """Strength in the U-Net; 0 leaves it out, and it may be negative."""
    text_encoder: float | None = None
    """Strength in the text encoders; None is the U-Net's."""
    path: Path | None = None
    """The file, or the folder PEFT or diffusers saved it in; None looks the name up."""
    blocks: tuple[tuple[str, float], ...] = ()
    """Factors by block: ``BASE`` (text encoders), ``IN00`` ..., ``M00``, ``OUT00`` ...; 1 for those
    not named."""
    rank: int | None = None
    """Ranks to keep; None keeps all."""
