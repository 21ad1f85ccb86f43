"""Server-sent events: a job told while it runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from sdlite.server.call import Watch
from sdlite.server.jobs import Job

QUIET_SECONDS = 15.0
"""After how long without news a comment is sent, so that nobody in between hangs up."""


def event(name: str | None, data: Mapping[str, Any]) -> str:
    """One event; JSON has no newlines of its own."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(data)}\n\n"


class _Stream(StreamingResponse):
    """Calls ``gone`` when it ends, also where the client left before the first event was made."""

    gone: Callable[[], object] = staticmethod(lambda: None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.gone()


def streaming(
    lines: AsyncIterator[str], gone: Callable[[], object] = lambda: None
) -> StreamingResponse:
    """The answer that sends events as they come; ``gone`` is called when nobody reads any more."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    stream = _Stream(lines, media_type="text/event-stream", headers=headers)
    stream.gone = gone
    return stream


async def changes(job: Job) -> AsyncIterator[bool]:
    """Yield after every change of a job, the last time when it is over.

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
