"""Jobs that can be asked for later, in memory: the newest, until the server ends."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdlite.server.jobs import Job
from sdlite.server.record import (
    Pictured,
    Record,
    has_words,
    no_job,
    no_picture,
    not_over,
    read_place,
    record_of,
)

if TYPE_CHECKING:
    from PIL.Image import Image

KEPT_JOBS = 100
"""Jobs that are over and can still be asked for."""
KEPT_PIXELS = 64 << 20
"""Pixels of their pictures, together."""


class Kept:
    """Jobs by name; of those that are over the oldest are forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._deleted: dict[str, set[int]] = {}

    def add(self, job: Job) -> None:
        """Remember a job."""
        with self._lock:
            self._jobs[job.id] = job
            over = [job for job in self._jobs.values() if job.over]
            pixels = sum(map(_pixels, over))
            while over and (len(over) > KEPT_JOBS or pixels > KEPT_PIXELS):
                oldest = over.pop(0)
                pixels -= _pixels(oldest)
                self._drop(oldest.id)

    def find(self, name: str, client: str) -> Record:
        """A job of a client; those of others are not there for it."""
        with self._lock:
            job = self._jobs.get(name)
            if job is None or job.order.client != client:
                raise no_job(name)
            return self._record(job)

    def of_client(self, client: str, limit: int, before: str | None = None) -> list[Record]:
        """A client's jobs, newest first."""
        with self._lock:
            jobs = [job for job in reversed(self._jobs.values()) if job.order.client == client]
            names = [job.id for job in jobs]
            if before is not None:
                if before not in names:
                    raise no_job(before)
                jobs = jobs[names.index(before) + 1 :]
            return [self._record(job) for job in jobs[:limit]]

    def pictures(
        self, client: str, limit: int, before: str | None = None, words: Sequence[str] = ()
    ) -> list[Pictured]:
        """A client's finished pictures, newest first."""
        last = (math.inf, 0) if before is None else read_place(before)
        found = [
            Pictured(record.id, record.model, record.created, shown)
            for record in self.of_client(client, len(self._jobs))
            for shown in reversed(record.pictures)
            if (record.created, shown.number) < last and has_words(shown.infotext, words)
        ]
        return found[:limit]

    def picture(self, record: Record, number: int) -> bytes | Image:
        """The pixels of a finished picture."""
        with self._lock:
            job = self._jobs.get(record.id)
            if job is None or number not in {shown.number for shown in record.pictures}:
                raise no_picture(record, number)
            return [image for result in job.results for image in result.images][number]

    def forget(self, record: Record, number: int | None = None) -> None:
        """Forget a job that is over, or one of its pictures; with the last of them the job."""
        if record.job is not None:
            raise not_over(record)
        left = {shown.number for shown in record.pictures}
        with self._lock:
            if number is not None and number not in left:
                raise no_picture(record, number)
            if number is None or left == {number}:
                self._drop(record.id)
            else:
                self._deleted.setdefault(record.id, set()).add(number)

    def _drop(self, name: str) -> None:
        self._jobs.pop(name, None)
        self._deleted.pop(name, None)

    def _record(self, job: Job) -> Record:
        record = record_of(job)
        gone = self._deleted.get(job.id)
        if not gone:
            return record
        rest = tuple(shown for shown in record.pictures if shown.number not in gone)
        return record_of(job, rest, record.notes)


def _pixels(job: Job) -> int:
    return sum(image.width * image.height for result in job.results for image in result.images)
