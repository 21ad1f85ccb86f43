"""How far a client's job is, as A1111 tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdlite.server.a1111.answer import timestamp
from sdlite.server.jobs import Job
from sdlite.server.pictures import preview, to_base64

if TYPE_CHECKING:
    from sdlite.server.state import Server

BEGUN = 0.01
"""What A1111 shows before the first step is done."""


def progress(server: Server, client: str, *, picture: bool) -> dict[str, Any]:
    """The answer to ``GET progress`` for a client: its job that runs, else its first that waits."""
    job = next(iter(server.room.running(client)), None)
    if job is None:
        job = next((job for job in server.room.waiting() if job.order.client == client), None)
    if job is None:
        return _answer(0.0, 0.0, None, None, None)
    if job.started is None:
        before = server.room.position(job) or 0
        words = f"waiting, {before} jobs before this one" if before else "waiting, next"
        return _answer(0.0, server.room.seconds_before(job), job, None, words)
    share = min(BEGUN + job.share, 1.0)
    left = job.seconds / share - job.seconds
    shown = preview(server, job) if picture else None
    return _answer(share, left, job, None if shown is None else to_base64(shown), None)


def _answer(
    share: float, left: float, job: Job | None, image: str | None, words: str | None
) -> dict[str, Any]:
    state = {
        "skipped": job is not None and job.skipped,
        "interrupted": job is not None and job.interrupted,
        "stopping_generation": job is not None and job.stop.is_set(),
        "job": "" if job is None else job.order.source,
        "job_count": 0 if job is None else max(len(job.order.requests), 1),
        "job_timestamp": "0" if job is None else timestamp(job.created),
        "job_no": 0 if job is None else job.progress.number,
        "sampling_step": 0 if job is None else job.progress.step,
        "sampling_steps": 0 if job is None else job.progress.steps,
    }
    return {
        "progress": round(share, 6),
        "eta_relative": round(left, 3),
        "state": state,
        "current_image": image,
        "textinfo": words,
        "current_task": None if job is None else job.id,
    }
