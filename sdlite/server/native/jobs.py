"""Jobs and pictures of the native API."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from starlette.responses import JSONResponse, Response

from sdlite.server.call import Call, Endpoint, in_thread
from sdlite.server.events import changes, event, streaming
from sdlite.server.jobs import QUEUED, RUNNING, Job, Order
from sdlite.server.native import answers as gives
from sdlite.server.native.outlook import planned
from sdlite.server.native.schema import JobBody, read_margins, read_request
from sdlite.server.pictures import MEDIA_TYPES, preview, to_base64
from sdlite.server.problem import Refused
from sdlite.server.query import Query
from sdlite.server.record import Record, Shown, record_of
from sdlite.server.state import Server

PREFIX = "/api/v1/"
LISTED = 100
"""Jobs a list has unless more are asked for."""
MOST_LISTED = 1000
LIMIT = Query("limit", "integer", f"At most so many; {LISTED} unless given.", 1, MOST_LISTED)
SEARCH = Query("search", "string", "Only pictures whose parameters have every one of these words.")
PLACE = Query("before", "string", "Only what is older: the next of the answer before.")
SIZE = Query("size", "integer", "Make the longer side that long, if it is longer.", 16, 1024)
BEFORE = Query("before", "string", "Only what is older than the job of this id.")
FORGET = Query("forget", "boolean", "Delete a job that is over, with its pictures.")
PREVIEW = Query("preview", "boolean", "Send previews with the steps.")
FORMAT = Query("format", "string", "png (the default), jpg or webp.", choices=tuple(MEDIA_TYPES))
LOOKS = (FORMAT, SIZE)


class Jobs:
    """The routes over a server.

    Args:
        server: what they are over.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def endpoints(self) -> list[Endpoint]:
        """Every route."""
        jobs, job = PREFIX + "jobs", PREFIX + "jobs/{job}"
        image = job + "/images/{number:int}"
        return [
            Endpoint(
                "POST",
                jobs,
                self._submit,
                "Ask for pictures; answers 202.",
                JobBody,
                status=202,
                gives=gives.Job,
            ),
            Endpoint(
                "GET",
                jobs,
                self._list,
                "Your jobs, newest first.",
                query=(LIMIT, BEFORE),
                gives=gives.Jobs,
            ),
            Endpoint("GET", job, self._get, "A job.", gives=gives.Job),
            Endpoint(
                "DELETE",
                job,
                self._cancel,
                "Cancel a job, or forget it.",
                query=(FORGET,),
                gives=gives.Job | gives.Deleted,
            ),
            Endpoint(
                "GET",
                job + "/events",
                self._events,
                "A job while it runs, as server-sent events.",
                query=(PREVIEW,),
                media="text/event-stream",
            ),
            Endpoint(
                "GET", image, self._image, "A picture.", query=(FORMAT, SIZE), media="image/*"
            ),
            Endpoint("DELETE", image, self._delete_image, "Delete a picture.", gives=gives.Deleted),
            Endpoint(
                "GET",
                PREFIX + "pictures",
                self._pictures,
                "Finished pictures, newest first.",
                query=(LIMIT, PLACE, SEARCH),
                gives=gives.Pictures,
            ),
            Endpoint(
                "POST",
                PREFIX + "plan",
                self._plan,
                "What a job would take.",
                JobBody,
                gives=gives.Planned,
            ),
        ]

    def _order(self, body: JobBody, client: str) -> Order:
        request = read_request(body, self._server.intake())
        margins = read_margins(body)
        return self._server.order(body.model, [request], client, "native", margins)

    def _ordered(self, body: JobBody, client: str) -> Job:
        return self._server.submit(self._order(body, client))

    async def _submit(self, call: Call) -> Any:
        job = await in_thread(self._ordered, call.body, call.client)
        view = self._view(record_of(job))
        return JSONResponse(view, 202, {"Location": f"{PREFIX}jobs/{job.id}"})

    def _found(self, call: Call) -> Record:
        return self._server.archive.find(call.request.path_params["job"], call.client)

    def _page(self, call: Call) -> list[Record]:
        limit = call.query(LIMIT) or LISTED
        return self._server.archive.of_client(call.client, limit, call.query(BEFORE))

    async def _list(self, call: Call) -> Any:
        records = await in_thread(self._page, call)
        return {"jobs": [self._view(record) for record in records]}

    async def _pictures(self, call: Call) -> Any:
        limit = call.query(LIMIT) or LISTED
        words = (call.query(SEARCH) or "").split()
        archive, before = self._server.archive, call.query(PLACE)
        found = await in_thread(archive.pictures, call.client, limit + 1, before, words)
        listed, more = found[:limit], len(found) > limit
        return {
            "pictures": [
                {
                    "job": item.job,
                    "model": item.model,
                    "created": round(item.created, 3),
                    **_shown(item.job, item.shown),
                }
                for item in listed
            ],
            "next": listed[-1].place if more else None,
        }

    async def _get(self, call: Call) -> Any:
        return self._view(await in_thread(self._found, call))

    async def _cancel(self, call: Call) -> Any:
        record = await in_thread(self._found, call)
        if call.query(FORGET):
            await in_thread(self._server.archive.forget, record)
            return {"deleted": record.id}
        if record.job is not None:
            await in_thread(self._server.room.cancel, record.job)
        return self._view(await in_thread(self._found, call))

    async def _delete_image(self, call: Call) -> Any:
        record = await in_thread(self._found, call)
        number = call.request.path_params["number"]
        await in_thread(self._server.archive.forget, record, number)
        return {"deleted": f"{record.id}/{number}"}

    async def _events(self, call: Call) -> Any:
        record = await in_thread(self._found, call)
        if record.job is None:
            return streaming(_once(event(record.state, self._view(record))))
        return streaming(self._told(record.job, call, bool(call.query(PREVIEW))))

    async def _told(self, job: Job, call: Call, with_preview: bool) -> AsyncIterator[str]:
        ended = False
        async for news in changes(job):
            if ended:
                continue  # it ended while the event before was made, which said so already
            if not news:
                yield ": waiting\n\n"
                continue
            record = await in_thread(self._last, call, job) if job.over else record_of(job)
            view = self._view(record)
            if with_preview and job.progress.latents is not None:
                picture = await in_thread(preview, self._server, job)
                if picture is not None:
                    view["preview"] = await in_thread(to_base64, picture)
            ended = view["state"] not in (QUEUED, RUNNING)
            yield event(view["state"] if ended else "progress", view)

    def _last(self, call: Call, job: Job) -> Record:
        """A job that is over, as it is kept or, when it was forgotten meanwhile, as it was."""
        try:
            return self._found(call)
        except Refused:
            return record_of(job)

    async def _image(self, call: Call) -> Any:
        format = call.query(FORMAT) or "png"
        data = await in_thread(self._file, call, format, call.query(SIZE))
        return Response(data, media_type=MEDIA_TYPES[format])

    def _file(self, call: Call, format: str, size: int | None) -> bytes:
        from PIL import Image

        from sdlite.output import encode

        record, number = self._found(call), call.request.path_params["number"]
        picture = self._server.archive.picture(record, number)
        if isinstance(picture, bytes):
            if format == "png" and size is None:
                return picture
            picture = Image.open(io.BytesIO(picture))
        if size is not None:
            picture = picture.copy()
            picture.thumbnail((size, size))
            return encode(picture, format)
        texts = {shown.number: shown.infotext for shown in record.pictures}
        return encode(picture, format, texts[number] if self._server.setup.metadata else None)

    def _view(self, record: Record) -> dict[str, Any]:
        """A job as JSON."""
        room, job = self._server.room, record.job
        left = None
        if job is not None:
            left = job.seconds_left if job.started else room.seconds_before(job)
        return {
            "id": record.id,
            "state": record.state,
            "model": record.model,
            "prompt": record.prompt,
            "created": round(record.created, 3),
            "position": None if job is None else room.position(job),
            "share": round(record.share, 4),
            "step": record.step,
            "steps": record.steps,
            "seconds": round(record.seconds, 3),
            "seconds_left": None if left is None else round(left, 3),
            "width": record.width,
            "height": record.height,
            "seed": record.seed,
            "images": [_shown(record.id, shown) for shown in record.pictures],
            "notes": list(record.notes),
            "error": record.error,
            "error_kind": record.error_kind,
        }

    async def _plan(self, call: Call) -> Any:
        order = await in_thread(self._order, call.body, call.client)
        return await in_thread(planned, self._server, order)


def _shown(job: str, shown: Shown) -> dict[str, Any]:
    url = f"{PREFIX}jobs/{job}/images/{shown.number}"
    return {"url": url, **asdict(shown)}


async def _once(text: str) -> AsyncIterator[str]:
    yield text
