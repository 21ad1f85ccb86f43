"""The routes of the native API."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from sdlite import registry
from sdlite.errors import PackageError, RuntimeUnavailable
from sdlite.server.call import Call, Endpoint, in_thread
from sdlite.server.events import changes, event, streaming
from sdlite.server.jobs import DONE, QUEUED, RUNNING, Job, Order
from sdlite.server.native.outlook import outlook
from sdlite.server.native.reading import lists, read_settings
from sdlite.server.native.schema import JobBody, PictureBody, read_margins, read_request
from sdlite.server.pictures import MEDIA_TYPES, preview, to_base64
from sdlite.server.problem import Refused, message_of
from sdlite.server.state import Server

if TYPE_CHECKING:
    from sdlite.home import Model

PREFIX = "/api/v1/"
KEPT_JOBS = 100
"""Jobs that are over and can still be asked for."""
KEPT_PIXELS = 64 << 20
"""Pixels of their pictures, together."""


class Kept:
    """Jobs by name; of those that are over the oldest are forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def add(self, job: Job) -> None:
        """Remember a job."""
        with self._lock:
            self._jobs[job.id] = job
            over = [job for job in self._jobs.values() if job.over]
            pixels = sum(map(_pixels, over))
            while over and (len(over) > KEPT_JOBS or pixels > KEPT_PIXELS):
                oldest = over.pop(0)
                pixels -= _pixels(oldest)
                del self._jobs[oldest.id]

    def find(self, name: str, client: str) -> Job:
        """A job of a client; those of others are not there for it."""
        with self._lock:
            job = self._jobs.get(name)
        if job is None or job.order.client != client:
            raise Refused(404, f"no job {name[:40]!r}", "not_found")
        return job

    def of_client(self, client: str) -> list[Job]:
        """A client's jobs, newest first."""
        with self._lock:
            return [job for job in reversed(self._jobs.values()) if job.order.client == client]


def _pixels(job: Job) -> int:
    return sum(image.width * image.height for result in job.results for image in result.images)


class Api:
    """The native routes over a server.

    Args:
        server: what they are over.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._kept = Kept()

    def endpoints(self) -> list[Endpoint]:
        """Every route."""
        jobs = PREFIX + "jobs"
        return [
            Endpoint("POST", jobs, self._submit, "Ask for pictures; answers 202.", JobBody),
            Endpoint("GET", jobs, self._list, "Your jobs, newest first."),
            Endpoint("GET", jobs + "/{job}", self._get, "A job."),
            Endpoint("DELETE", jobs + "/{job}", self._cancel, "Cancel a job."),
            Endpoint("GET", jobs + "/{job}/events", self._events, "A job while it runs (SSE)."),
            Endpoint("GET", jobs + "/{job}/images/{number:int}", self._image, "A picture."),
            Endpoint("POST", PREFIX + "plan", self._plan, "What a job would take.", JobBody),
            Endpoint("POST", PREFIX + "read", self._read, "A picture's settings.", PictureBody),
            Endpoint("GET", PREFIX + "choices", self._choices, "What there is to choose from."),
            Endpoint("GET", PREFIX + "models", self._models, "Models."),
            Endpoint("GET", PREFIX + "devices", self._devices, "Engines and their devices."),
        ]

    def _order(self, body: JobBody, client: str) -> Order:
        request = read_request(body, self._server.limits)
        margins = read_margins(body)
        return self._server.order(body.model, [request], client, "native", margins)

    async def _submit(self, call: Call) -> Any:
        order = await in_thread(self._order, call.body, call.client)
        job = self._server.room.submit(order)
        self._kept.add(job)
        return JSONResponse(self._view(job), 202, {"Location": f"{PREFIX}jobs/{job.id}"})

    async def _list(self, call: Call) -> Any:
        return {"jobs": [self._view(job) for job in self._kept.of_client(call.client)]}

    def _find(self, call: Call) -> Job:
        return self._kept.find(call.request.path_params["job"], call.client)

    async def _get(self, call: Call) -> Any:
        return self._view(self._find(call))

    async def _cancel(self, call: Call) -> Any:
        job = self._find(call)
        self._server.room.cancel(job)
        return self._view(job)

    async def _events(self, call: Call) -> Any:
        with_preview = call.request.query_params.get("preview", "").lower() in ("1", "true", "yes")
        return streaming(self._told(self._find(call), with_preview))

    async def _told(self, job: Job, with_preview: bool) -> AsyncIterator[str]:
        ended = False
        async for news in changes(job):
            if ended:
                continue  # it ended while the event before was made, which said so already
            if not news:
                yield ": waiting\n\n"
                continue
            view = self._view(job)
            if with_preview and job.progress.latents is not None:
                picture = await in_thread(preview, self._server, job)
                if picture is not None:
                    view["preview"] = await in_thread(to_base64, picture)
            ended = view["state"] not in (QUEUED, RUNNING)
            yield event(view["state"] if ended else "progress", view)

    async def _image(self, call: Call) -> Any:
        job = self._find(call)
        number = call.request.path_params["number"]
        format = call.request.query_params.get("format", "png")
        if format not in MEDIA_TYPES:
            raise Refused(422, f"format {format[:20]!r} is none of {', '.join(MEDIA_TYPES)}")
        if job.state != DONE:
            raise Refused(409, f"the job is {job.state}; it has no pictures", "not_done")
        pictures = [
            pair
            for result in job.results
            for pair in zip(result.images, result.infotexts, strict=True)
        ]
        if number >= len(pictures):
            raise Refused(404, f"no picture {number}; there are {len(pictures)}", "not_found")
        from sdlite.output import encode

        image, text = pictures[number]
        data = await in_thread(encode, image, format, text if self._server.setup.metadata else None)
        return Response(data, media_type=MEDIA_TYPES[format])

    def _view(self, job: Job) -> dict[str, Any]:
        """A job as JSON."""
        room = self._server.room
        position = room.position(job)
        left = None
        if not job.over:
            left = job.seconds_left if job.started else room.seconds_before(job)
        request = job.order.requests[0]
        return {
            "id": job.id,
            "state": job.state,
            "model": job.order.model,
            "prompt": request.prompt,
            "created": round(job.created, 3),
            "position": position,
            "share": round(job.share, 4),
            "step": job.progress.step,
            "steps": job.progress.steps or request.steps,
            "seconds": round(job.seconds, 3),
            "seconds_left": None if left is None else round(left, 3),
            "width": request.width,
            "height": request.height,
            "seed": request.seed,
            "images": [
                {"url": f"{PREFIX}jobs/{job.id}/images/{index}", "seed": seed, "infotext": text}
                for index, (seed, text) in enumerate(
                    pair
                    for result in job.results
                    for pair in zip(result.seeds, result.infotexts, strict=True)
                )
            ],
            "notes": [note for result in job.results for note in result.notes],
            "error": None if job.error is None else message_of(job.error),
            "error_kind": None if job.error is None else type(job.error).__name__,
        }

    async def _plan(self, call: Call) -> Any:
        return await in_thread(self._planned, call.body, call.client)

    def _planned(self, body: JobBody, client: str) -> dict[str, Any]:
        order = self._order(body, client)
        with self._server.open_model(order.model) as pipe:
            plan = pipe.plan(order.requests[0])
            seconds, faster = outlook(self._server, pipe, order)
        return {
            "model": order.model,
            "memory_mode": plan.memory_mode,
            "private_bytes": plan.private_bytes,
            "peak_bytes": plan.peak_bytes,
            "reasons": list(plan.reasons),
            "explanation": plan.explain(),
            "seconds": seconds,
            "faster": faster,
            "waiting": len(self._server.room.waiting()),
        }

    async def _read(self, call: Call) -> Any:
        return await in_thread(read_settings, self._server, call.body)

    async def _choices(self, call: Call) -> Any:
        return await in_thread(self._choose)

    def _choose(self) -> dict[str, Any]:
        models = [self._model(model) for model in self._server.shelf.models()]
        default = self._server.shelf.find(None).name
        models.sort(key=lambda model: model["name"] != default)
        return {"models": models, **lists()}

    async def _models(self, call: Call) -> Any:
        models = await in_thread(self._server.shelf.models)
        return {"models": [await in_thread(self._model, model) for model in models]}

    def _model(self, model: Model) -> dict[str, Any]:
        try:
            manifest = self._server.shelf.manifest(model)
        except PackageError as error:
            return {"name": model.name, "problem": str(error)}
        defaults = manifest.defaults
        return {
            "name": model.name,
            "family": manifest.family,
            "task": manifest.task,
            "width": defaults.width,
            "height": defaults.height,
            "steps": defaults.steps,
            "guidance": defaults.guidance,
            "sampler": defaults.sampler,
            "licence": manifest.licence.id,
            "problem": None,
        }

    async def _devices(self, call: Call) -> Any:
        return {"engines": await in_thread(_engines)}


def _engines() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, devices in registry.available():
        if isinstance(devices, RuntimeUnavailable):
            found.append({"name": name, "devices": [], "problem": str(devices)})
            continue
        listed = [
            {
                "name": device.name,
                "description": device.description,
                "memory_bytes": device.memory_bytes,
                "precisions": list(device.precisions),
            }
            for device in devices
        ]
        found.append({"name": name, "devices": listed, "problem": None})
    return found
