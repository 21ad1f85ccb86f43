"""What a plan is, and what it is made from: frozen, so that two equal plans need no reload.

Memory words: *private* is anonymous memory, *mapped* is resident file pages, *peak* is private plus
mapped. A budget counts the peak, except in the memory mode ``mapped``, where it counts private
memory only, because the system may drop file pages at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdlite.engine import Artifact, LoadOptions
from sdlite.errors import UnknownName
from sdlite.manifest import TINY_DECODER
from sdlite.types import Device


@dataclass(frozen=True)
class RequestShape:
    """What of a request decides its cost."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    images: int
    """Pictures in the batch."""
    steps: int
    """Intervals of the schedule."""
    guided: bool
    """Whether every step also needs the model's answer to the negative prompt."""
    encodes: bool = False
    """Whether pictures are encoded before the first step."""
    prompts: int = 1
    """Prompts drawn together in every step (AND)."""
    embeddings: bool = False
    """Whether the prompts have words whose vectors are not the text encoder's own."""
    partly: bool = False
    """Whether guidance is off in some of the steps."""
    tiny: bool = False
    """Whether a tiny decoder makes the pictures."""
    replaced: tuple[tuple[str, int], ...] = ()
    """Bytes of weights that replace some of the package's, by component."""
    controls: tuple[str, ...] = ()
    """Components of what looks at pictures to follow: control networks, which are asked beside the
    U-Net, and IP-Adapters with their encoders, which are asked before."""
    downsampled: bool = False
    """Whether attention may do with fewer keys and values."""
    tiling: str = ""
    """Axes along which opposite edges fit: ``x``, ``y``, ``xy``, or none."""


@dataclass(frozen=True)
class Budget:
    """What the user allows."""

    max_memory: int | None = None
    """Bytes of main memory; None leaves it to the machine."""
    max_vram: int | None = None
    """Bytes of the memory of a device that has its own; None leaves it to the device."""


@dataclass(frozen=True)
class Relief:
    """What is given up because a run failed without."""

    tiles: int = 1
    """Least tiles of the autoencoder."""
    items: int | None = None
    """Most items in a U-Net call."""
    closed: bool = False
    """Whether components are closed after use."""
    mapped: bool = False
    """Whether weights stay in their file."""
    precisions: tuple[tuple[str, str], ...] = ()
    """What some components are computed in."""
    without: tuple[tuple[str, str], ...] = ()
    """Engines and devices not to use."""


@dataclass(frozen=True)
class Preferences:
    """What the user asked for by name; None leaves it to the plan."""

    runtime: str | None = None
    """Engine."""
    device: str | None = None
    """Device within the engine."""
    precision: str | None = None
    """What to compute in: ``fp32``, ``bf16`` or ``fp16``."""
    memory_mode: str = "auto"
    """``auto``, ``normal`` or ``mapped``."""
    threads: int | None = None
    """Compute threads."""
    vae_tiles: int | None = None
    """Tiles the autoencoder works in; 1 is the whole picture, None as memory allows."""
    cache: Path | None = None
    """Folder for compiled graphs; None keeps none."""
    cache_limit: int | None = None
    """Most bytes that folder may take; None does not limit it."""
    replaced: frozenset[str] = frozenset()
    """Components whose weights come from elsewhere and are held in memory."""
    relief: Relief = Relief()
    """What is given up on the way."""


@dataclass(frozen=True)
class Placement:
    """One component on one device."""

    component: str
    """Which component."""
    artifacts: tuple[Artifact, ...]
    """Its graph, or its chain of graphs in order."""
    device: Device
    """Where it runs."""
    options: LoadOptions
    """How it is opened."""
    private_bytes: int
    """Predicted anonymous memory while it runs, beyond the process's base."""
    mapped_bytes: int
    """Predicted file pages it reads."""
    tiles: int = 1
    """Bands of rows it works in, one after the other."""


@dataclass(frozen=True)
class Plan:
    """What will be done; two equal plans need no reload."""

    shape: RequestShape
    """The request it was made for."""
    memory_mode: str
    """How weights are held."""
    call_batch: int
    """Most items in one U-Net call; a guided picture of one prompt has two."""
    resident: bool
    """Whether components stay open after their phase."""
    placements: tuple[Placement, ...]
    """Text encoder, encoder (for edits), U-Net, decoder: in the order the phases run."""
    private_bytes: int
    """Predicted peak of anonymous memory."""
    peak_bytes: int
    """Predicted peak of anonymous memory and file pages together."""
    reasons: tuple[str, ...]
    """Why it is this plan."""
    notes: tuple[str, ...] = ()
    """What the request allows to save work, and this plan does not do."""
    device_bytes: int = 0
    """Predicted peak of the memory of a device that has its own; 0 where there is none."""

    @property
    def decoder(self) -> str:
        """The component that makes the pictures."""
        return TINY_DECODER if self.shape.tiny else "vae_decoder"

    def placement(self, component: str) -> Placement:
        """Where a component runs; raises ``UnknownName``."""
        for placement in self.placements:
            if placement.component == component:
                return placement
        raise UnknownName("component", component, [p.component for p in self.placements])

    def explain(self) -> str:
        """The plan and its reasons, for people, several lines."""
        lines = [
            f"{self.shape.width}x{self.shape.height}, {self.shape.steps} steps, "
            f"{self.shape.images} image(s), {self.call_batch} item(s) a U-Net call",
            f"memory mode {self.memory_mode}, "
            + ("components stay open" if self.resident else "components are closed after use"),
        ]
        for placement in self.placements:
            first = placement.artifacts[0]
            graphs = len(placement.artifacts)
            lines.append(
                f"{placement.component}: {placement.device.runtime} on {placement.device.name}, "
                f"{first.variant} graph{f' in {graphs} parts' if graphs > 1 else ''}, "
                f"{f'{placement.tiles} tiles, ' if placement.tiles > 1 else ''}"
                f"{first.precision} weights, "
                + (
                    f"computed in {precision}, "
                    if (precision := placement.options.precision)
                    else ""
                )
                + f"about {megabytes(placement.private_bytes)} private, "
                f"{megabytes(placement.mapped_bytes)} mapped"
            )
        lines.append(
            f"predicted peak {megabytes(self.peak_bytes)}, of which "
            f"{megabytes(self.private_bytes)} private"
            + (f", and {megabytes(self.device_bytes)} of the GPU's" if self.device_bytes else "")
        )
        lines.extend((*self.reasons, *self.notes))
        return "\n".join(lines)


def megabytes(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
