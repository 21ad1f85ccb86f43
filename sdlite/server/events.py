"""Server-sent events: a job told while it runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

from sdlite.server.call import Watch
from sdlite.server.jobs import Job

if TYPE_CHECKING:
    from sdlite.server.room import EngineRoom

QUIET_SECONDS = 15.0
"""After how long without news a comment is sent, so that nobody in between hangs up."""


def event(name: str | None, data: Mapping[str, Any]) -> str:
    """One event; JSON has no newlines of its own."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(data)}\n\n"


def streaming(lines: AsyncIterator[str]) -> StreamingResponse:
    """The answer that sends events as they come."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


async def changes(room: EngineRoom, job: Job, *, owned: bool) -> AsyncIterator[bool]:
    """Yield after every change of a job, the last time when it is over.

    Args:
        room: where the job is.
        job: which.
        owned: cancel it when nobody listens any more.

    Yields:
        True for a change, False when nothing happened for ``QUIET_SECONDS``.
    """
    watch = Watch(job)
    try:
        while True:
            over = job.over
            yield True
            if over:
                return
            while True:
                try:
                    await asyncio.wait_for(watch.change(), QUIET_SECONDS)
                    break
                except TimeoutError:
                    yield False
    finally:
        watch.close()
        if owned and not job.over:
            room.cancel(job)
