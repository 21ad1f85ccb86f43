"""Jobs of a folder as they are looked up: what ``Ledger`` wrote, and what still runs."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdlite.server.database import Database
from sdlite.server.jobs import Job
from sdlite.server.record import (
    Pictured,
    Record,
    Shown,
    has_words,
    no_job,
    no_picture,
    not_over,
    read_place,
    record_of,
)

if TYPE_CHECKING:
    import sqlite3

    from PIL.Image import Image


def picture_file(folder: Path, job: str, number: int) -> Path:
    """Where a finished picture is."""
    return folder / "pictures" / f"{job}-{number}.png"


class Stored:
    """An ``Archive`` over a database.

    Args:
        base: its tables.
        folder: where its files are.
        live: the job of a name while it is not over.
    """

    def __init__(self, base: Database, folder: Path, live: Callable[[str], Job | None]) -> None:
        self._base = base
        self._folder = folder
        self._live = live
        base.teach("has_words", 2, lambda text, words: has_words(text, json.loads(words)))

    def find(self, name: str, client: str) -> Record:
        """A job of a client."""
        rows = self._base.rows("SELECT * FROM jobs WHERE id = ? AND client = ?", name, client)
        if not rows:
            raise no_job(name)
        return self._record(rows[0])

    def of_client(self, client: str, limit: int, before: str | None = None) -> list[Record]:
        """A client's jobs, newest first."""
        last = 1 << 62
        if before is not None:
            self.find(before, client)
            last = self._base.rows("SELECT number FROM jobs WHERE id = ?", before)[0][0]
        rows = self._base.rows(
            "SELECT * FROM jobs WHERE client = ? AND number < ? ORDER BY number DESC LIMIT ?",
            *(client, last, limit),
        )
        return [self._record(row) for row in rows]

    def _record(self, row: sqlite3.Row) -> Record:
        job = self._live(row["id"])
        pictures = tuple(
            Shown(
                item["number"], int(item["seed"]), item["width"], item["height"], item["infotext"]
            )
            for item in self._base.rows(
                "SELECT * FROM pictures WHERE job = ? ORDER BY number", row["id"]
            )
        )
        notes = tuple(json.loads(row["notes"]))
        if job is not None:
            return record_of(job, pictures, notes)
        about = json.loads(row["about"])
        return Record(
            id=row["id"],
            client=row["client"],
            model=row["model"],
            state=row["state"],
            created=row["created"],
            seconds=row["seconds"],
            share=row["share"],
            step=round(row["share"] * about["steps"]),
            pictures=pictures,
            notes=notes,
            error=row["error"],
            error_kind=row["error_kind"],
            **about,
        )

    def pictures(
        self, client: str, limit: int, before: str | None = None, words: Sequence[str] = ()
    ) -> list[Pictured]:
        """A client's finished pictures, newest first."""
        last, least = (math.inf, 0) if before is None else read_place(before)
        rows = self._base.rows(
            "SELECT jobs.id, model, created, pictures.number, seed, width, height, infotext"
            " FROM jobs JOIN pictures ON pictures.job = jobs.id"
            " WHERE client = ? AND (created, pictures.number) < (?, ?)"
            " AND has_words(infotext, ?)"
            " ORDER BY created DESC, pictures.number DESC LIMIT ?",
            *(client, last, least, json.dumps(list(words)), limit),
        )
        return [
            Pictured(job, model, created, Shown(number, int(seed), width, height, infotext))
            for job, model, created, number, seed, width, height, infotext in rows
        ]

    def picture(self, record: Record, number: int) -> bytes | Image:
        """The file of a finished picture."""
        if number in {shown.number for shown in record.pictures}:
            with contextlib.suppress(FileNotFoundError):
                return picture_file(self._folder, record.id, number).read_bytes()
        raise no_picture(record, number)

    def forget(self, record: Record, number: int | None = None) -> None:
        """Delete a job that is over, or one of its pictures; with the last of them the job."""
        if record.job is not None:
            raise not_over(record)
        left = {shown.number for shown in record.pictures}
        if number is not None and number not in left:
            raise no_picture(record, number)
        gone = left if number is None else {number}
        with self._base.writing():
            if gone == left:
                self._base.run("DELETE FROM jobs WHERE id = ?", record.id)
            else:
                self._base.run(
                    "DELETE FROM pictures WHERE job = ? AND number = ?", record.id, number
                )
        # After the rows: a file without a row is swept up, a row without its file is damage.
        for each in gone:
            picture_file(self._folder, record.id, each).unlink(missing_ok=True)
