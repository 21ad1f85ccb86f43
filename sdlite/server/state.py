"""The server as its APIs see it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdlite.server.guard import Access
from sdlite.server.intake import Intake
from sdlite.server.jobs import DONE, Job, Order, pixels_of, work_of
from sdlite.server.kept import Kept
from sdlite.server.limits import Limits, check_images, check_request
from sdlite.server.metrics import Metrics
from sdlite.server.room import EngineRoom
from sdlite.server.shelf import Shelf

if TYPE_CHECKING:
    from sdlite.outpaint import Margins
    from sdlite.pipeline import Pipeline
    from sdlite.server.ledger import Ledger
    from sdlite.server.record import Archive
    from sdlite.types import Request

log = logging.getLogger("sdlite.server")


@dataclass(frozen=True)
class Setup:
    """How a server is to be; what ``sdlite serve`` was told."""

    model: str = "shapes"
    """The model for requests that name none."""
    folders: tuple[Path, ...] = ()
    """Folders with models beside the user's own."""
    limits: Limits = field(default_factory=Limits)
    """What requests may ask for."""
    access: Access = field(default_factory=Access)
    """Who may ask."""
    keep_alive: float = 300.0
    """Seconds an idle model stays open; below 0 for ever."""
    keep_bytes: int | None = None
    """Private memory up to which several models stay open; None for one at a time."""
    threads: int | None = None
    """Compute threads; None is one a physical core."""
    precision: str | None = None
    """Precision to compute in; None leaves it to the engine."""
    max_memory: int | None = None
    """Most bytes of memory a picture may take."""
    memory_mode: str = "auto"
    """How weights are held."""
    runtime: str | None = None
    """Engine; None is the first that can be used."""
    devices: tuple[str | None, ...] = (None,)
    """Devices that draw, one job each at a time; None is the engine's first."""
    styles: Path | None = None
    """CSV file of styles; None is ``styles.csv`` beside the settings."""
    output: Path | None = None
    """Folder for pictures a client wants to be saved; None saves none."""
    metadata: bool = True
    """Whether pictures carry their parameters."""
    fetches: bool = False
    """Whether URLs in place of pictures are fetched, from public addresses."""
    log_prompts: bool = False
    """Whether the log has the prompts of jobs."""
    mcp: bool = False
    """Whether the tools for assistants are served too."""
    state: Path | None = None
    """Folder in which jobs survive the end of the server; None keeps them in memory."""
    save_seconds: float = 5.0
    """How often, at most, a half done picture is saved there."""
    state_bytes: int = 16 << 30
    """What finished pictures may take there before no more jobs are taken."""


class Server:
    """Models, engine room, settings: everything the APIs share.

    Args:
        setup: how it is to be.
        finished: called with every job that ended, after it was counted.
    """

    def __init__(
        self, setup: Setup | None = None, finished: Callable[[Job, str], None] | None = None
    ) -> None:
        self.setup = setup or Setup()
        self.limits = self.setup.limits
        self.metrics = Metrics()
        self.shelf = Shelf(self.setup.folders, self.setup.model)
        self.closing: list[Callable[[], object]] = []
        """Called before it closes: what the APIs have open."""
        self._learned: dict[tuple[object, ...], int] = {}

        def ended(job: Job, state: str) -> None:
            self.metrics.job(job, state)
            self._learn(job, state)
            if self.setup.log_prompts:
                _log_prompts(job)
            if finished is not None:
                finished(job, state)

        setup = self.setup
        self.ledger: Ledger | None = None
        if setup.state is not None:
            # Not at the top: most servers have none, and start without SQLite.
            from sdlite.server.ledger import Ledger

            self.ledger = Ledger(setup.state, setup.save_seconds, setup.state_bytes, setup.metadata)
        self._kept = Kept()
        self.room = EngineRoom(
            [self._opener(device) for device in setup.devices],
            self.limits,
            setup.keep_alive,
            ended,
            self.ledger,
            setup.keep_bytes,
        )

    @property
    def archive(self) -> Archive:
        """Where jobs are looked up."""
        return self._kept if self.ledger is None else self.ledger.archive

    def intake(self) -> Intake:
        """What reads the pictures of one request."""
        return Intake(self.limits, self.setup.fetches)

    def task(self, client: str, source: str, work: Callable[[Job], Any]) -> Job:
        """Let work wait for an engine that is no drawing; see ``Order.task``."""
        return self.room.submit(Order("", (), client, source, task=work))

    def start(self) -> None:
        """Take on what an earlier server left, and begin to draw."""
        if self.ledger is not None:
            for job in self.ledger.unfinished():
                self.room.restore(job)
        self.room.start()

    def submit(self, order: Order) -> Job:
        """Let a job wait that can be asked for later; call it in a thread, as it may write.

        Raises:
            QueueFull: there is no place in the queue.
            Refused: there is none in the folder for the state.
        """
        if self.ledger is not None:
            return self.room.submit(replace(order, kept=True))
        job = self.room.submit(order)
        self._kept.add(job)
        return job

    def _learn(self, job: Job, state: str) -> None:
        """Keep what calls took, for forecasts: the first time of each size, and the second, in
        which the model was open; nobody's picture waits for a file every time."""
        if state != DONE or job.order.margins is not None:
            return
        from sdlite import home
        from sdlite.forecast import learn

        for result in job.results:
            request = result.request
            kind = (job.order.model, request.width, request.height, request.images)
            count = self._learned.get(kind, 0)
            if count < 2:
                self._learned[kind] = count + 1
                learn(home.folders().cache, result)

    def _opener(self, device: str | None) -> Callable[[str], Pipeline]:
        def open_model(name: str) -> Pipeline:
            from sdlite.api import load

            setup = self.setup
            return load(
                self.shelf.find(name).path,
                threads=setup.threads,
                precision=setup.precision,
                max_memory=setup.max_memory,
                memory_mode=setup.memory_mode,
                runtime=setup.runtime,
                device=device,
            )

        return open_model

    def open_model(self, name: str) -> Pipeline:
        """A pipeline of one's own, to plan with; close it. Weights are not read."""
        return self._opener(self.setup.devices[0])(name)

    def open_models(self) -> frozenset[str]:
        """Models that need not be opened."""
        return frozenset(name for keeper in self.room.keepers for name in keeper.names)

    @property
    def styles_file(self) -> Path:
        """Where styles are."""
        if self.setup.styles is not None:
            return self.setup.styles
        from sdlite.home import folders

        return folders().settings.parent / "styles.csv"

    def order(
        self,
        model: str | None,
        requests: Sequence[Request],
        client: str,
        source: str,
        margins: Margins | None = None,
    ) -> Order:
        """Requests completed and checked, so that what cannot be drawn is refused at once.

        Reads files and works on pictures: call it in a thread.

        Raises:
            RequestError: a request cannot be carried out as written.
            Refused: it is beyond the limits.
        """
        from sdlite.request import complete, draw_seed
        from sdlite.server.margins import beyond

        chosen = self.shelf.find(model)
        manifest = self.shelf.manifest(chosen)
        check_images(sum(request.images for request in requests), self.limits)
        full, work = [], 0.0
        seed = requests[0].seed if requests[0].seed != -1 else draw_seed()
        for request in requests:
            if request.seed == -1:
                request = replace(request, seed=seed % 2**64)
            # Each further request goes on counting where the one before stopped.
            seed = request.seed + request.images
            if margins is None:
                done = complete(request, manifest)
                work += work_of(done)
            else:
                done, windows = beyond(request, margins, manifest, self.limits)
                work += work_of(done) * windows
            check_request(done, self.limits)
            full.append(done)
        return Order(
            chosen.name,
            tuple(full),
            client,
            source,
            work,
            margins,
            pixels=pixels_of(full),
        )

    def stop(self) -> None:
        """Cancel everything and close; may be called twice."""
        for close in self.closing:
            close()
        self.room.close()
        if self.ledger is not None:
            self.ledger.close()


def _log_prompts(job: Job) -> None:
    """The words of a job, for whoever asked that the log has them."""
    words = [
        {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
        for request in job.order.requests
    ]
    log.info("prompts", extra={"data": {"job": job.id, "prompts": words}})
