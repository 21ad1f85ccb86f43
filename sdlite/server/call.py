"""A request on its way to an endpoint and back: body, client, waiting, answers and errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from sdlite.errors import Cancelled
from sdlite.server.jobs import DONE, FAILED, Job
from sdlite.server.problem import ClientGone, Refused, message_of, status_of
from sdlite.server.query import Query

if TYPE_CHECKING:
    from sdlite.server.state import Server
    from sdlite.types import Result

log = logging.getLogger("sdlite.server")
T = TypeVar("T")

SMALL = 64 << 10
"""Bytes of a body that is read at once."""
GONE = 499
"""Status, in the log, of an answer nobody waited for."""


class Call:
    """One request.

    Args:
        server: what serves it.
        request: as it came.
        body: validated, where the endpoint takes one.
    """

    def __init__(self, server: Server, request: Request, body: Any = None) -> None:
        self.server = server
        self.request = request
        self.body = body

    @property
    def client(self) -> str:
        """Whose turn the request takes: the name that signed in, else the address."""
        name = self.request.scope.get("sdlite.client")
        if name is not None:
            return str(name)
        peer = self.request.client
        return "-" if peer is None else peer.host

    def query(self, parameter: Query) -> Any:
        """A parameter of the address; None when it is not there. Raises ``Refused``."""
        return parameter.read(self.request.query_params)

    async def wait(self, job: Job) -> list[Result]:
        """The pictures of a job.

        A client that goes away meanwhile cancels it.

        Raises:
            ClientGone: the client went away.
            SdliteError: why the job failed.
        """
        watch = Watch(job, steps=False)
        gone = asyncio.ensure_future(self._gone())
        try:
            while not job.over:
                change = asyncio.ensure_future(watch.change())
                await asyncio.wait({change, gone}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                if gone.done() and not job.over:
                    raise ClientGone("the client went away")
        finally:
            gone.cancel()
            if not job.over:
                self.server.room.cancel(job)
        return outcome(job)

    async def _gone(self) -> None:
        """Return when the client has gone away."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


def outcome(job: Job) -> list[Result]:
    """The results of a job that is over; raises why there are none."""
    if job.state == DONE:
        return job.results
    if job.state == FAILED and job.error is not None:
        raise job.error
    raise Cancelled("the job was cancelled")


class Watch:
    """Tells a coroutine of the changes of a job.

    Args:
        job: which; it may be over already.
        steps: whether to tell of every step; otherwise only of the end.
    """

    def __init__(self, job: Job, *, steps: bool = True) -> None:
        self._event = asyncio.Event()
        loop = asyncio.get_running_loop()

        def listener() -> None:
            # The loop may be closed while a last job ends.
            if (steps or job.over) and not loop.is_closed():
                loop.call_soon_threadsafe(self._event.set)

        self._job, self._listener = job, listener
        job.listeners.append(listener)
        if job.over:
            self._event.set()

    def close(self) -> None:
        """Stop being told."""
        with contextlib.suppress(ValueError):
            self._job.listeners.remove(self._listener)

    async def change(self) -> None:
        """Wait until something changed since the last call."""
        await self._event.wait()
        self._event.clear()


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Do what takes processor time in a thread, so that other requests go on."""
    return await anyio.to_thread.run_sync(partial(work, *arguments))


Answer = Callable[[Call], Awaitable[Any]]
Shape = Callable[[int, BaseException], dict[str, Any]]
"""``(status, error) -> body``: how an API writes errors."""


@dataclass(frozen=True)
class Endpoint:
    """One route."""

    method: str
    """``GET``, ``POST`` or ``DELETE``."""
    path: str
    """As Starlette writes it."""
    answer: Answer
    """Takes the call; gives a ``Response`` or what becomes its JSON."""
    summary: str
    """One line for the published description."""
    body: type[BaseModel] | None = None
    """What its JSON body is checked against; None for none, or one it reads itself."""
    open: bool = False
    """Whether it is answered without a key."""
    form: type[BaseModel] | None = None
    """What its form fields are, for the published description; it reads them itself."""
    files: tuple[str, ...] = ()
    """Files of the form; the first is required."""
    query: tuple[Query, ...] = ()
    """Parameters of its address."""
    status: int = 200
    """What a good answer has."""
    media: str = "application/json"
    """What a good answer is."""
    gives: Any = None
    """The type of its JSON; None where it is no JSON."""
    streams: bool = False
    """Whether it answers with server-sent events where it is asked to."""


def handler(
    server: Server, endpoint: Endpoint, shape: Shape
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint as Starlette calls it: nothing is raised, whatever happens."""

    async def handle(request: Request) -> Response:
        try:
            body = None
            if endpoint.body is not None:
                raw = await request.body()
                read = partial(_read_body, endpoint.body, raw, server.limits.body_values)
                # What is large is mostly a picture and soon read; the other requests go on anyway.
                body = read() if len(raw) <= SMALL else await in_thread(read)
            answer = await endpoint.answer(Call(server, request, body))
            if isinstance(answer, Response):
                return answer
            return await in_thread(JSONResponse, answer)
        except (ClientGone, ClientDisconnect):
            return Response(status_code=GONE)
        except Exception as error:
            return error_response(error, shape)

    return handle


def error_response(error: BaseException, shape: Shape) -> JSONResponse:
    """An error as an API writes it."""
    status = status_of(error)
    if status == 500:
        log.error(
            "a request failed", exc_info=error, extra={"data": {"error": type(error).__name__}}
        )
    headers = error.headers if isinstance(error, Refused) else {}
    return JSONResponse(shape(status, error), status, headers)


def _read_body(model: type[BaseModel], raw: bytes, most: int) -> BaseModel:
    return check_body(model, read_json(raw, most))


def read_json(raw: bytes, most: int) -> Any:
    """A body as JSON; an empty one counts as an empty object.

    Raises ``Refused`` where it is none, or may have more than ``most`` values: what follows each
    comma or bracket. Those in strings count too, as there are few but in prompts.
    """
    if sum(map(raw.count, (b",", b"[", b"{"))) > most:
        raise Refused(413, f"a body of more than {most} values", "body_too_large")
    if not raw.strip():
        return {}
    try:
        data = json.loads(raw, parse_constant=_no_number)
        # Half a character can be escaped in JSON, but no answer could repeat it.
        return _whole(data) if b"\\u" in raw else data
    except (ValueError, RecursionError) as error:
        # Of the error only what says where: the rest may repeat the body.
        place = getattr(error, "msg", "it cannot be read")
        raise Refused(422, f"the body is no JSON: {place}", "invalid_json") from error


def _whole(data: Any) -> Any:
    if isinstance(data, str):
        return data.encode("utf-8", "replace").decode("utf-8")
    if isinstance(data, list):
        return [_whole(item) for item in data]
    if isinstance(data, dict):
        return {_whole(name): _whole(item) for name, item in data.items()}
    return data


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def check_body(model: type[BaseModel], data: Any) -> BaseModel:
    """Validate; raises ``Refused`` with what is wrong and where."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        details = [{**item, "loc": ("body", *item["loc"])} for item in found]
        raise Refused(
            422, "; ".join(map(_sentence, found[:5])), "validation_error", details=details
        ) from error
    except RecursionError as error:
        raise Refused(422, "the body is nested too deeply", "invalid_json") from error


def _sentence(item: Mapping[str, Any]) -> str:
    place = ".".join(map(str, item["loc"])) or "body"
    return f"{place}: {item['msg']}"


def plain_shape(status: int, error: BaseException) -> dict[str, Any]:
    """How the native API writes errors."""
    kind = error.kind if isinstance(error, Refused) else type(error).__name__
    body: dict[str, Any] = {"kind": kind, "message": message_of(error)}
    if isinstance(error, Refused) and error.details is not None:
        body["details"] = error.details
    return {"error": body}
