"""The engine room: takes jobs from the line, one at a time for each device, and draws."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sdlite.errors import Cancelled, RequestError, SdliteError
from sdlite.server.jobs import (
    CANCELLED,
    DONE,
    FAILED,
    RUNNING,
    SUSPENDED,
    Job,
    Order,
    Progress,
)
from sdlite.server.journal import Journal
from sdlite.server.keeper import Keeper, Open
from sdlite.server.limits import Limits
from sdlite.server.line import Line
from sdlite.server.problem import QueueFull, TimeUp

if TYPE_CHECKING:
    from sdlite.types import Step

log = logging.getLogger("sdlite.server")

FIRST_GUESS = 30.0
"""Seconds a job is taken for as long as none has been finished."""
LEARNING = 0.3
"""Weight of the newest job in the estimate of speed."""


class EngineRoom:
    """Threads that draw, one a device.

    Args:
        devices: for each device what opens a model on it.
        limits: how many may wait and how long a job may run.
        keep_seconds: how long an idle model stays open; below 0 for ever.
        finished: called with every job that ended and its final state, before anybody is told.
        journal: told of jobs that are kept.
        keep_bytes: private memory up to which several models stay open; None for one a device.
    """

    def __init__(
        self,
        devices: Sequence[Open],
        limits: Limits,
        keep_seconds: float = 300.0,
        finished: Callable[[Job, str], None] = lambda job, state: None,
        journal: Journal | None = None,
        keep_bytes: int | None = None,
    ) -> None:
        self._limits = limits
        self._journal = journal or Journal()
        self._finished = finished
        self._line = Line()
        self._running: list[Job] = []
        self._pace: OrderedDict[str, float] = OrderedDict()
        self._changed = threading.Condition()
        self._ending = False
        self._closing = False
        self.keepers = tuple(Keeper(opener, keep_seconds, keep_bytes) for opener in devices)
        self._threads = [
            threading.Thread(
                target=self._work, args=(keeper,), name=f"sdlite-engine-{number}", daemon=True
            )
            for number, keeper in enumerate(self.keepers)
        ]
        self._unload: set[Keeper] = set()

    def start(self) -> None:
        """Begin to take jobs."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Take no more jobs; suspend those that are kept, cancel the others; then ``close``."""
        self._ending = True
        with self._changed:
            jobs = [*self._line, *self._running]
        for job in jobs:
            if job.order.kept and not job.cancel.is_set():
                job.suspended = True
            self.cancel(job)

    def close(self, timeout: float = 60.0) -> None:
        """Cancel everything, wait for the threads, close the models."""
        self.end()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout)

    def submit(self, order: Order) -> Job:
        """Let an order wait for its turn; one that is kept has been written down then.

        An order to keep is written to a disk: call it in a thread then.

        Raises:
            QueueFull: there is no place.
            Refused: it cannot be kept.
        """
        job = Job(order)
        with self._changed:
            self._check_place(order)
            if not order.kept:
                self._take_on(job)
                return job
        self._journal.accept(job)
        try:
            with self._changed:
                self._check_place(order)
                self._take_on(job)
                return job
        except QueueFull:
            self._journal.forget_accepted(job)
            raise

    def restore(self, job: Job) -> None:
        """Let a job of an earlier server wait, however many do."""
        with self._changed:
            self._take_on(job)

    def _take_on(self, job: Job) -> None:
        self._line.add(job)
        self._changed.notify_all()

    def _check_place(self, order: Order) -> None:
        limits = self._limits
        if self._ending:
            raise QueueFull("the server is shutting down", 10)
        if len(self._line) >= limits.queue:
            raise QueueFull(
                f"the queue is full: {limits.queue} jobs wait; try again later",
                self._retry_after(),
            )
        held = sum(job.order.pixels for job in self._line)
        if order.pixels and held + order.pixels > limits.queue_pixels:
            raise QueueFull(
                f"the pictures of the jobs that wait have {held} pixels already; try again later",
                self._retry_after(),
            )
        if self._line.of_client(order.client) >= limits.queue_of_client:
            raise QueueFull(
                f"{limits.queue_of_client} jobs of yours wait already; try again later",
                self._retry_after(),
            )

    def cancel(self, job: Job) -> None:
        """Take a job out of the line, or end it after the step it is in."""
        with self._changed:
            job.cancel.set()
            waiting = self._line.remove(job)
        if waiting:
            self._end(job, SUSPENDED if job.suspended else CANCELLED)

    def unload(self) -> None:
        """Close the models as soon as they are idle."""
        with self._changed:
            self._unload.update(self.keepers)
            self._changed.notify_all()

    def waiting(self) -> tuple[Job, ...]:
        """Jobs in the line, next one first."""
        with self._changed:
            return tuple(self._line)

    def running(self, client: str | None = None) -> tuple[Job, ...]:
        """Jobs being carried out, of one client or of all."""
        with self._changed:
            return tuple(job for job in self._running if client in (None, job.order.client))

    def position(self, job: Job) -> int | None:
        """Jobs that wait before this one; None when it does not wait."""
        for number, other in enumerate(self.waiting()):
            if other is job:
                return number
        return None

    def expected(self, order: Order) -> float:
        """Seconds an order should take, from how fast its model was so far."""
        pace = self._pace.get(order.model)
        return FIRST_GUESS if pace is None else pace * order.work

    def forecast(self, order: Order) -> float | None:
        """Seconds an order should take; None as long as nobody can tell."""
        return self.expected(order) if order.model in self._pace else None

    def seconds_before(self, job: Job) -> float:
        """Seconds until a waiting job should begin."""
        with self._changed:
            total = sum(self._left(other) for other in self._running)
            for other in self._line:
                if other is job:
                    break
                total += self.expected(other.order)
        return total / max(len(self.keepers), 1)

    def _left(self, job: Job) -> float:
        known = job.seconds_left
        return max(self.expected(job.order) - job.seconds, 0.0) if known is None else known

    def _retry_after(self) -> int:
        """Whole seconds after which one job should have left the line."""
        left = [self._left(job) for job in self._running]
        return min(max(math.ceil(min(left, default=1.0)), 1), 600)

    def _next(self, keeper: Keeper) -> Job | None:
        """The next job; None when the model should be closed or the room is."""
        with self._changed:
            end = keeper.patience()
            deadline = None if end is None else time.monotonic() + end
            while not self._closing and keeper not in self._unload:
                job = self._line.take()
                if job is not None:
                    self._running.append(job)
                    return job
                rest = None if deadline is None else deadline - time.monotonic()
                if rest is not None and rest <= 0:
                    return None
                self._changed.wait(rest)
            self._unload.discard(keeper)
            return None

    def _work(self, keeper: Keeper) -> None:
        while True:
            job = self._next(keeper)
            if job is None:
                keeper.close()
                if self._closing:
                    return
                continue
            try:
                self._carry_out(job, keeper)
                # Whose last picture was there before the word to stop was heard is done.
                state = DONE
            except Cancelled:
                state = SUSPENDED if job.suspended else CANCELLED
            except BaseException as error:
                job.error, state = error, FAILED
                if not isinstance(error, SdliteError):
                    log.exception("a job failed unexpectedly", extra={"data": {"job": job.id}})
                if not isinstance(error, RequestError):
                    # Whatever state the engine is in: the next job begins with a fresh one.
                    keeper.close()
            keeper.rest()
            self._end(job, state)
            del job

    def _carry_out(self, job: Job, keeper: Keeper) -> None:
        job.started = time.monotonic()
        job.place = self.keepers.index(keeper)
        job.state = RUNNING
        job.tell()
        from sdlite.outpaint import outpaint

        if job.order.task is not None:
            job.value = job.order.task(job)
            return
        kept, begun_before = job.order.kept, job.done > 0
        if kept:
            self._journal.begin(job)
        pipe = keeper.get(job.order.model)
        drawing = time.monotonic()
        deadline = drawing + self._limits.job_seconds
        for number, request in enumerate(job.order.requests):
            if number < job.done:
                continue
            if job.cancel.is_set():
                raise Cancelled("stopped as asked")
            # In this order: who interrupts sets them the other way round.
            job.stop.clear()
            if job.interrupted:
                if job.results:
                    break
                # Interrupted before it began: a step is taken, so that there is a picture.
                job.stop.set()
            job.progress = Progress(number=number)
            resume = self._journal.resume(job, number, pipe) if kept else None

            def on_step(step: Step, number: int = number) -> None:
                job.progress = Progress(number, step.index + 1, step.total, step.x0[0])
                if kept:
                    self._journal.step(job, number, pipe, step)
                job.tell()
                if time.monotonic() > deadline:
                    raise TimeUp(
                        f"the job took longer than {self._limits.job_seconds:g} seconds; "
                        "ask for fewer steps or a smaller picture"
                    )

            if job.order.margins is None:
                result = pipe.generate(
                    request, resume=resume, on_step=on_step, cancel=job.cancel, stop=job.stop
                )
            else:
                result = outpaint(
                    pipe, request, job.order.margins, on_step=on_step, cancel=job.cancel
                )
            if kept:
                self._journal.drawn(job, number, result)
            job.results.append(result)
            begun_before = begun_before or resume is not None
        whole = not (job.interrupted or job.skipped or begun_before)
        if whole and job.order.work:
            self._learn(job.order, time.monotonic() - drawing)

    def _learn(self, order: Order, seconds: float) -> None:
        pace = seconds / order.work
        with self._changed:
            before = self._pace.get(order.model, pace)
            self._pace[order.model] = before + LEARNING * (pace - before)

    def _end(self, job: Job, state: str) -> None:
        with self._changed:
            if job in self._running:
                self._running.remove(job)
        job.ended = time.monotonic()
        job.progress = Progress(job.progress.number, job.progress.step, job.progress.steps, None)
        try:
            if job.order.kept and state != SUSPENDED:
                self._journal.end(job, state)
            elif job.order.kept and job.started is not None:
                self._journal.suspend(job)
            self._finished(job, state)
        except Exception:
            log.exception("noting a finished job failed", extra={"data": {"job": job.id}})
        log.info(
            "job ended",
            extra={
                "data": {
                    "job": job.id,
                    "state": state,
                    "source": job.order.source,
                    "model": job.order.model,
                    "pictures": sum(len(result.images) for result in job.results),
                    "seconds": round(job.seconds, 3),
                    "error": type(job.error).__name__ if job.error else None,
                }
            },
        )
        job.state = state
        job.tell()
        job.listeners.clear()
