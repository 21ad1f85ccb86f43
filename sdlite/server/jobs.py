"""A job: pictures somebody asked for, from its place in the queue to the last of them."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdlite.outpaint import Margins
    from sdlite.types import Float32, Request, Result

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
SUSPENDED = "suspended"
"""Of a job that is kept: the server ends, and the job goes on when it is started again."""
STATES = (QUEUED, RUNNING, DONE, FAILED, CANCELLED, SUSPENDED)


@dataclass(frozen=True)
class Order:
    """What is asked for."""

    model: str
    """Name of a model."""
    requests: tuple[Request, ...]
    """Completed; carried out one after the other. Empty where there is a ``task``."""
    client: str
    """Who asks: jobs of one client share a turn."""
    source: str = "native"
    """Which API it came by."""
    work: float = 0.0
    """How much it is, in pixels times steps; see ``work_of``."""
    margins: Margins | None = None
    """What to paint beyond the edges of the one request's picture."""
    task: Callable[[Job], Any] | None = None
    """What an engine does instead of drawing: gives what becomes ``Job.value``, and raises
    ``Cancelled`` when ``Job.cancel`` is set."""
    pixels: int = 0
    """Pixels of the pictures it holds while it waits; see ``pixels_of``."""
    kept: bool = False
    """Whether it goes on when the server is started again, see ``Journal``."""


@dataclass(frozen=True)
class Progress:
    """How far a job is; replaced as a whole, so it may be read from any thread."""

    number: int = 0
    """Which of its requests is being carried out, from 0."""
    step: int = 0
    """Steps of that which are done."""
    steps: int = 0
    """Steps it has."""
    latents: Float32 | None = None
    """What the model takes the first picture for, ``(channels, height, width)``."""


@dataclass(eq=False)
class Job:
    """A job in the engine room.

    The fields are written by the room; ``cancel`` and ``stop`` may be set by anybody.
    """

    order: Order
    """What is asked for."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Unguessable name."""
    state: str = QUEUED
    """One of ``STATES``."""
    created: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    started: float | None = None
    """``time.monotonic()`` when it began to run."""
    ended: float | None = None
    """``time.monotonic()`` when it ended."""
    place: int = 0
    """Which of the devices carries it out, from 0."""
    progress: Progress = field(default_factory=Progress)
    """How far it is."""
    results: list[Result] = field(default_factory=list)
    """What is finished."""
    value: Any = None
    """What a task gave."""
    done: int = 0
    """Requests an earlier server finished."""
    suspended: bool = False
    """The server ends, and what is left is done when it is started again."""
    error: BaseException | None = None
    """Why it failed."""
    cancel: threading.Event = field(default_factory=threading.Event)
    """Set, it ends after the step it is in, and nothing of the present picture is kept."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set, the present request ends after the step it is in and its pictures are kept as they are;
    what becomes of the others is said by ``interrupted``."""
    interrupted: bool = False
    """No further request is begun."""
    skipped: bool = False
    """Some request was ended early."""
    listeners: list[Callable[[], None]] = field(default_factory=list)
    """Called, from any thread, after every change."""

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state not in (QUEUED, RUNNING)

    @property
    def share(self) -> float:
        """How much is done, 0 to 1."""
        if self.state == DONE:
            return 1.0
        count = max(len(self.order.requests), 1)
        now = self.progress
        within = min(now.step / now.steps, 1.0) if now.steps else 0.0
        return min((now.number + within) / count, 1.0)

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        if self.started is None:
            return 0.0
        return (time.monotonic() if self.ended is None else self.ended) - self.started

    @property
    def seconds_left(self) -> float | None:
        """Estimate from what is done; None when nothing is yet."""
        share = self.share
        return None if share <= 0.0 else self.seconds / share - self.seconds

    def tell(self) -> None:
        """Call the listeners."""
        for listener in tuple(self.listeners):
            listener()

    def interrupt(self) -> None:
        """End early and keep what there is."""
        self.interrupted = True
        self.stop.set()

    def skip(self) -> None:
        """End the present request early, keep what there is of it, and go on to the next."""
        self.skipped = True
        self.stop.set()


def pixels_of(requests: Sequence[Request]) -> int:
    """Pixels of the pictures of completed requests, each counted once."""
    found: dict[int, int] = {}
    for request in requests:
        edit = request.edit
        pictures = [] if edit is None else [edit.image, edit.mask]
        for control in request.controls:
            pictures += [control.image, control.mask]
        for picture in pictures:
            if picture is not None:
                found[id(picture)] = picture.width * picture.height
    return sum(found.values())


def work_of(request: Request) -> float:
    """Pixels times steps of a completed request, all its pictures and both passes."""
    pixels = (request.width or 0) * (request.height or 0)
    work = float(pixels * (request.steps or 1))
    if request.hires is not None:
        second = (request.hires.width or 0) * (request.hires.height or 0)
        work += second * (request.hires.steps or request.steps or 1)
    if request.edit is not None:
        work *= max(request.edit.strength, 1 / (request.steps or 1))
    return work * request.images
