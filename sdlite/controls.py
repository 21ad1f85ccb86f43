"""Pictures a drawing follows: which network reads them, and how much of what it says counts."""

from __future__ import annotations

from dataclasses import dataclass

from PIL.Image import Image

CONTROL_MODES = ("balanced", "prompt", "control", "guess")
"""What counts more: neither; the prompt (A1111's "My prompt is more important"); the picture
("ControlNet is more important"); the picture as diffusers' guess mode has it."""
RESIZES = ("stretch", "crop", "fill")
"""How a picture comes to the size of the request: A1111's "Just Resize", "Crop and Resize" and
"Resize and Fill"."""


@dataclass(frozen=True)
class Control:
    """A picture the drawing follows."""

    name: str
    """Which of the package's adapters reads it."""
    image: Image
    """PIL picture of any mode and size."""
    weight: float = 1.0
    """Strength; 1 is what it was trained for, 0 turns it off, at most 4."""
    start: float = 0.0
    """Share of the run's steps after which it begins, 0 to 1."""
    end: float = 1.0
    """Share of the run's steps after which it has ended, 0 to 1."""
    mode: str = "balanced"
    """One of ``CONTROL_MODES``."""
    preprocessor: str = "none"
    """What makes the picture the network reads of ``image``: a name of
    ``sdlite.control.PREPROCESSORS`` or the path of an ONNX file."""
    options: tuple[tuple[str, float], ...] = ()
    """Numbers of the preprocessor by name, e.g. ``(("low", 50), ("high", 150))``."""
    resize: str = "crop"
    """One of ``RESIZES``."""
    mask: Image | None = None
    """For the preprocessor ``inpaint``: white is hidden from the network."""
    layers: tuple[float, ...] = ()
    """Factors of the network's outputs, from the finest to the middle; empty is 1 for all."""
