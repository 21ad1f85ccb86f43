"""What a request is refused with: an error and the HTTP status that goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdlite.errors import (
    Cancelled,
    OutOfMemory,
    RequestError,
    RuntimeUnavailable,
    SdliteError,
    UnknownName,
)


class Refused(SdliteError):
    """A request the server does not carry out.

    Args:
        status: HTTP status.
        message: one line: the wrong value, what is allowed, what to do.
        kind: a word for programs, e.g. ``queue_full``.
        headers: further headers of the answer.
        details: findings of a validation, as pydantic lists them.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request",
        headers: Mapping[str, str] | None = None,
        details: list[dict[str, Any]] | None = None,
    ) -> None:
        self.status = status
        self.kind = kind
        self.headers = dict(headers or {})
        self.details = details
        super().__init__(message)


class QueueFull(Refused):
    """There is no place in the queue.

    Args:
        message: whose limit it is.
        retry_after: seconds after which a place should be free.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(503, message, "queue_full", {"Retry-After": str(retry_after)})


class TimeUp(SdliteError):
    """A job took longer than jobs may."""


class ClientGone(SdliteError):
    """Nobody waits for the answer any more."""


def unsupported(what: str, instead: str = "") -> Refused:
    """The refusal of something the API has and sdlite has not."""
    message = f"{what} is not supported by sdlite"
    return Refused(501, f"{message}; {instead}" if instead else message, "unsupported")


def status_of(error: BaseException) -> int:
    """The HTTP status of an error."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, UnknownName):
        return 404
    if isinstance(error, RequestError):
        return 400
    if isinstance(error, RuntimeUnavailable | OutOfMemory):
        return 503
    if isinstance(error, TimeUp):
        return 504
    if isinstance(error, Cancelled):
        return 409
    return 500


def message_of(error: BaseException) -> str:
    """What a stranger may read of an error: our own words, and nothing of what was unexpected."""
    if isinstance(error, SdliteError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "out of memory; ask for a smaller picture"
    return "internal error; the server's log has it"
