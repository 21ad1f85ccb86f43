"""Jobs in a folder, so that they survive the end of the server, whatever it was.

``DIR/jobs.sqlite`` knows every job; finished pictures are ``DIR/pictures/JOB-N.png``, the half done
one is ``DIR/unfinished/JOB-N.state``. SQLite comes with Python, so a small install stays small; its
write-ahead log with ``synchronous=FULL`` holds what was committed also when power fails. A picture
is written whole before the row that names it, and that row before anybody is told.
"""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdlite.errors import RequestError, SdliteError
from sdlite.output import encode, make_folder, write_whole
from sdlite.server.database import Database
from sdlite.server.jobs import DONE, FAILED, QUEUED, RUNNING, Job, Order, Progress, pixels_of
from sdlite.server.journal import Journal
from sdlite.server.problem import Refused, message_of
from sdlite.server.record import record_of, shown_of
from sdlite.server.stored import Stored, picture_file

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdlite.pipeline import Pipeline
    from sdlite.types import Request, Result, SamplerState, Step

log = logging.getLogger("sdlite.server")

ATTEMPTS = 5
"""How often a job may be begun without getting anywhere before it is given up: one that ends the
server every time must not keep it from all others."""
OURS = re.compile(r"\.?[0-9a-f]{16}-\d+\.(png|state)(\.[0-9a-f]+\.tmp)?")
"""Names of files this writes, whole and half written."""
ABOUT = ("prompt", "steps", "width", "height", "seed")
"""What is told of a job's first request."""


class GivenUp(SdliteError):
    """A job ended the server too often."""


class Ledger(Journal):
    """The jobs of a folder; one server at a time uses it.

    Args:
        folder: made when it is not there.
        save_seconds: how often, at most, a half done picture is saved.
        max_bytes: what pictures may take before no more jobs are taken.
        metadata: whether pictures carry their parameters.

    Raises:
        RequestError: another server uses the folder, or what is in it cannot be read.
        OutputError: it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        save_seconds: float = 5.0,
        max_bytes: int = 16 << 30,
        metadata: bool = True,
    ) -> None:
        self._folder = folder
        self._save_seconds = save_seconds
        self._max_bytes = max_bytes
        self._metadata = metadata
        self._live: dict[str, Job] = {}
        self._saved: dict[str, float] = {}
        self._unsaved: dict[str, tuple[int, Pipeline, Step]] = {}
        """The last step of jobs that run, where it was not saved."""
        make_folder(folder / "pictures")
        make_folder(folder / "unfinished")
        self._base = Database(folder / "jobs.sqlite")
        self.archive = Stored(self._base, folder, self._live.get)
        self._sweep()

    def close(self) -> None:
        """Let go of the folder; may be called twice."""
        self._base.close()

    # Told by the engine room.

    def accept(self, job: Job) -> None:
        """Write down a job."""
        from sdlite.edit.state import pack_request, png

        taken = self._base.rows("SELECT coalesce(sum(bytes), 0) FROM pictures")[0][0]
        if taken >= self._max_bytes:
            raise Refused(
                507,
                f"pictures take {taken} bytes of at most {self._max_bytes}; "
                "delete some, or start the server with a larger --max-state",
                "state_full",
            )
        requests = []
        inputs: dict[int, tuple[int, Image]] = {}
        for request in job.order.requests:
            text, pictures = pack_request(request)
            places = {}
            for name, picture in pictures.items():
                places[name] = inputs.setdefault(id(picture), (len(inputs), picture))[0]
            requests.append({"request": text, "pictures": places})
        if job.order.margins is not None:
            requests[0]["margins"] = asdict(job.order.margins)
        files = [(job.id, number, png(picture)) for number, picture in inputs.values()]
        order = job.order
        record = record_of(job)
        about = {name: getattr(record, name) for name in ABOUT}
        with self._base.writing():
            self._base.run(
                "INSERT INTO jobs"
                " (id, client, source, model, work, requests, about, state, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *(job.id, order.client, order.source, order.model, order.work),
                *(json.dumps(requests), json.dumps(about), QUEUED, job.created),
            )
            self._base.run_many("INSERT INTO inputs VALUES (?, ?, ?)", files)
        self._live[job.id] = job

    def forget_accepted(self, job: Job) -> None:
        """It was refused after all."""
        self._base.run("DELETE FROM jobs WHERE id = ?", job.id)
        self._live.pop(job.id, None)

    def begin(self, job: Job) -> None:
        """Count the attempt; raises ``GivenUp`` when there were too many."""
        with self._base.writing():
            self._base.run(
                "UPDATE jobs SET state = ?, attempts = attempts + 1 WHERE id = ?", RUNNING, job.id
            )
            attempts = self._base.rows("SELECT attempts FROM jobs WHERE id = ?", job.id)[0][0]
        if attempts > ATTEMPTS:
            raise GivenUp(f"the server ended {ATTEMPTS} times while it ran; it is not begun again")

    def resume(self, job: Job, number: int, pipe: Pipeline) -> SamplerState | None:
        """The state to go on from when there is one that fits."""
        from sdlite.edit.state import check_model, load_state, plan_words

        self._saved[job.id] = time.monotonic()
        path = self._state_file(job, number)
        if not path.exists():
            return None
        try:
            saved = load_state(path)
            check_model(saved, pipe.package)
        except RequestError as error:
            log.warning(
                "begun again", extra={"data": {"job": job.id, "because": type(error).__name__}}
            )
            path.unlink(missing_ok=True)
            return None
        now = plan_words(pipe.plan(job.order.requests[number]))
        before = saved.header.settings.get("plan", now)
        if now != before:
            self._note(job, f"begun with {before}, gone on with {now}: its last bits may differ")
        log.info("resumed", extra={"data": {"job": job.id, "step": saved.state.index}})
        return saved.state

    def step(self, job: Job, number: int, pipe: Pipeline, step: Step) -> None:
        """Save the state when it is time, and remember it for when the server ends."""
        self._unsaved.pop(job.id, None)
        # What is drawn window by window begins from its beginning.
        if job.order.margins is not None or step.index + 1 >= step.total:
            return
        if time.monotonic() - self._saved[job.id] >= self._save_seconds:
            self._save(job, number, pipe, step)
        else:
            self._unsaved[job.id] = (number, pipe, step)

    def _save(self, job: Job, number: int, pipe: Pipeline, step: Step) -> None:
        from sdlite.edit.state import plan_words, save_state

        request = job.order.requests[number]
        words = {"plan": plan_words(pipe.plan(request))}
        # The pictures of a request are among the inputs; they need not be written every time.
        plain = replace(request, edit=None, controls=())
        save_state(self._state_file(job, number), pipe.package, plain, step.state, words)
        self._base.run("UPDATE jobs SET attempts = 0 WHERE id = ?", job.id)
        self._saved[job.id] = time.monotonic()

    def drawn(self, job: Job, number: int, result: Result) -> None:
        """Write pictures, then what is known of them."""
        self._unsaved.pop(job.id, None)
        first = sum(request.images for request in job.order.requests[:number])
        rows = []
        for shown, image in zip(shown_of(result, first), result.images, strict=True):
            data = encode(image, "png", shown.infotext if self._metadata else None)
            write_whole(picture_file(self._folder, job.id, shown.number), data, overwrite=True)
            size = (shown.width, shown.height)
            rows.append((job.id, shown.number, str(shown.seed), *size, shown.infotext, len(data)))
        with self._base.writing():
            self._base.run_many("INSERT OR REPLACE INTO pictures VALUES (?,?,?,?,?,?,?)", rows)
            self._base.run(
                "UPDATE jobs SET done = ?, attempts = 0 WHERE id = ?", number + 1, job.id
            )
        for note in result.notes:
            self._note(job, note)
        self._state_file(job, number).unlink(missing_ok=True)

    def suspend(self, job: Job) -> None:
        """Save the last step that was done; that the server ends is not the job's doing."""
        left = self._unsaved.pop(job.id, None)
        if left is not None:
            self._save(job, *left)
        self._base.run("UPDATE jobs SET attempts = 0 WHERE id = ?", job.id)

    def end(self, job: Job, state: str) -> None:
        """Write down how a job ended."""
        error = None if job.error is None else message_of(job.error)
        kind = None if job.error is None else type(job.error).__name__
        share = 1.0 if state == DONE else job.share
        with self._base.writing():
            self._base.run(
                "UPDATE jobs SET state = ?, seconds = ?, share = ?, error = ?, error_kind = ?"
                " WHERE id = ?",
                *(state, job.seconds, share, error, kind, job.id),
            )
            self._base.run("DELETE FROM inputs WHERE job = ?", job.id)
        for number in range(len(job.order.requests)):
            self._state_file(job, number).unlink(missing_ok=True)
        self._saved.pop(job.id, None)
        self._unsaved.pop(job.id, None)
        # From here on the rows tell what the job told until now.
        self._live.pop(job.id, None)

    def unfinished(self) -> list[Job]:
        """The jobs an earlier server left, oldest first, to be taken on."""
        from sdlite.outpaint import Margins

        found = []
        rows = self._base.rows(
            "SELECT * FROM jobs WHERE state IN (?, ?) ORDER BY number", QUEUED, RUNNING
        )
        for row in rows:
            try:
                parts = json.loads(row["requests"])
                margins = parts[0].get("margins")
                requests = tuple(self._request(row["id"], part) for part in parts)
            except (LookupError, TypeError, ValueError, SdliteError) as error:
                log.warning("unreadable", extra={"data": {"job": row["id"]}}, exc_info=error)
                words = "this version of sdlite cannot read it; ask again"
                self._base.run(
                    "UPDATE jobs SET state = ?, error = ? WHERE id = ?", FAILED, words, row["id"]
                )
                continue
            order = Order(
                model=row["model"],
                requests=requests,
                client=row["client"],
                source=row["source"],
                work=row["work"],
                margins=None if margins is None else Margins(**margins),
                pixels=pixels_of(requests),
                kept=True,
            )
            job = Job(order, row["id"], created=row["created"], done=row["done"])
            job.progress = Progress(number=min(job.done, len(requests) - 1))
            self._live[job.id] = job
            found.append(job)
        return found

    def _request(self, job: str, part: dict[str, Any]) -> Request:
        from sdlite.edit.state import unpack_request
        from sdlite.image.source import open_picture

        pictures = {}
        for name, number in part["pictures"].items():
            stored = self._base.rows(
                "SELECT png FROM inputs WHERE job = ? AND number = ?", job, number
            )
            pictures[name] = open_picture(stored[0][0], name)
        return unpack_request(part["request"], pictures)

    def _note(self, job: Job, text: str) -> None:
        with self._base.writing():
            row = self._base.rows("SELECT notes FROM jobs WHERE id = ?", job.id)[0]
            notes = [*json.loads(row["notes"]), text]
            self._base.run(
                "UPDATE jobs SET notes = ? WHERE id = ?",
                *(json.dumps(list(dict.fromkeys(notes))), job.id),
            )

    def _state_file(self, job: Job, number: int) -> Path:
        return self._folder / "unfinished" / f"{job.id}-{number}.state"

    def _sweep(self) -> None:
        """Remove what was being written when a server ended, and what nothing knows of."""
        rows = self._base.rows("SELECT job, number FROM pictures")
        known = {f"{row['job']}-{row['number']}.png" for row in rows}
        rows = self._base.rows("SELECT id FROM jobs WHERE state IN (?, ?)", QUEUED, RUNNING)
        going_on = {row["id"] for row in rows}
        for path in (*self._folder.glob("pictures/*"), *self._folder.glob("unfinished/*")):
            if not OURS.fullmatch(path.name) or path.name in known:
                continue
            if path.suffix != ".state" or path.name[:16] not in going_on:
                path.unlink(missing_ok=True)
