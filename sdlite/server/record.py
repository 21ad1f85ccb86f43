"""What is known of a job, told the same way while it runs and long after it ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sdlite.server.jobs import DONE, Job
from sdlite.server.problem import Refused, message_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdlite.types import Result


_PLACE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)-([0-9]{1,9})")


@dataclass(frozen=True)
class Shown:
    """A finished picture without its pixels."""

    number: int
    """Its place among the pictures of its job; pictures before it may be deleted."""
    seed: int
    """Its seed."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    infotext: str
    """A1111 parameter text."""


@dataclass(frozen=True)
class Record:
    """A job as it is at this moment."""

    id: str
    """Unguessable name."""
    client: str
    """Whose it is."""
    model: str
    """Name of the model."""
    prompt: str
    """What to draw."""
    state: str
    """One of ``sdlite.server.jobs.STATES``."""
    created: float
    """Seconds since the epoch."""
    seconds: float
    """How long it has been running, or ran."""
    share: float
    """How much is done, 0 to 1."""
    step: int
    """Steps done of the present picture."""
    steps: int
    """Steps it has."""
    width: int
    """Pixels asked for."""
    height: int
    """Pixels asked for."""
    seed: int
    """Seed of the first picture."""
    pictures: tuple[Shown, ...] = ()
    """Finished pictures."""
    notes: tuple[str, ...] = ()
    """What the user should know."""
    error: str | None = None
    """Why it failed."""
    error_kind: str | None = None
    """Name of the exception it failed with."""
    job: Job | None = None
    """The job itself while it is not over."""


@dataclass(frozen=True)
class Pictured:
    """A finished picture and whose job it is of."""

    job: str
    """Id of the job."""
    model: str
    """Name of the model."""
    created: float
    """When the job was asked for, in seconds since the epoch."""
    shown: Shown
    """The picture."""

    @property
    def place(self) -> str:
        """Where it stands among all pictures, also when it is deleted."""
        return f"{self.created!r}-{self.shown.number}"


class Archive(Protocol):
    """Where jobs are looked up. A job of another client is as unknown as one that never was."""

    def find(self, name: str, client: str) -> Record:
        """A job; raises ``Refused`` (404)."""
        ...

    def of_client(self, client: str, limit: int, before: str | None = None) -> list[Record]:
        """A client's jobs, newest first; those older than ``before`` when it names one."""
        ...

    def pictures(
        self, client: str, limit: int, before: str | None = None, words: Sequence[str] = ()
    ) -> list[Pictured]:
        """A client's finished pictures, newest first.

        Args:
            client: whose.
            limit: at most so many.
            before: only older ones than the one of this ``Pictured.place``, deleted or not.
            words: only those whose parameters have all of these in any case.
        """
        ...

    def picture(self, record: Record, number: int) -> bytes | Image:
        """A finished picture: the bytes of its PNG file, or its pixels; raises ``Refused``."""
        ...

    def forget(self, record: Record, number: int | None = None) -> None:
        """Delete a job that is over with all its pictures, or one picture; raises ``Refused``."""
        ...


def shown_of(result: Result, first: int = 0) -> list[Shown]:
    """The pictures of a result, counted from ``first``."""
    return [
        Shown(first + index, seed, image.width, image.height, text)
        for index, (image, seed, text) in enumerate(
            zip(result.images, result.seeds, result.infotexts, strict=True)
        )
    ]


def record_of(
    job: Job, pictures: tuple[Shown, ...] | None = None, notes: tuple[str, ...] = ()
) -> Record:
    """A job in memory as a record; ``pictures`` and ``notes`` are those of before a restart too."""
    request = job.order.requests[0]
    if pictures is None:
        found: list[Shown] = []
        for result in job.results:
            found += shown_of(result, len(found))
        pictures = tuple(found)
        notes = tuple(note for result in job.results for note in result.notes)
    return Record(
        id=job.id,
        client=job.order.client,
        model=job.order.model,
        prompt=request.prompt,
        state=job.state,
        created=job.created,
        seconds=job.seconds,
        share=job.share,
        step=job.progress.step,
        steps=job.progress.steps or request.steps or 0,
        width=request.width or 0,
        height=request.height or 0,
        seed=request.seed,
        pictures=pictures,
        notes=notes,
        error=None if job.error is None else message_of(job.error),
        error_kind=None if job.error is None else type(job.error).__name__,
        job=None if job.over else job,
    )


def has_words(text: str, words: Sequence[str]) -> bool:
    """Whether a text has every word, in any case."""
    folded = text.casefold()
    return all(word.casefold() in folded for word in words)


def read_place(place: str) -> tuple[float, int]:
    """Time and number of a ``Pictured.place``; raises ``Refused``."""
    match = _PLACE.fullmatch(place)
    if match is None:
        raise Refused(422, f"before {place[:40]!r} is no place in a list", "invalid_query")
    return float(match[1]), int(match[2])


def no_job(name: str) -> Refused:
    """The refusal for a job nobody knows."""
    return Refused(404, f"no job {name[:40]!r}", "not_found")


def no_picture(record: Record, number: int) -> Refused:
    """The refusal for a picture that is not there, or not yet."""
    if record.state != DONE and not record.pictures:
        return Refused(409, f"the job is {record.state}; it has no pictures", "not_done")
    known = ", ".join(str(shown.number) for shown in record.pictures) or "none"
    return Refused(404, f"no picture {number}; there are {known}", "not_found")


def not_over(record: Record) -> Refused:
    """The refusal to delete a job that goes on."""
    return Refused(409, f"the job is {record.state}; cancel it first", "not_over")
