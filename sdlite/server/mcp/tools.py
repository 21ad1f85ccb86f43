"""The tools: generate, edit, list models, plan."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server as Protocol
from pydantic import BaseModel

from sdlite import __version__
from sdlite.errors import SdliteError
from sdlite.server.call import Watch, check_body, in_thread, outcome
from sdlite.server.jobs import Job, Order
from sdlite.server.mcp.schema import EditArguments, ImageArguments, NoArguments, job_of
from sdlite.server.native.outlook import planned
from sdlite.server.native.reading import model_view
from sdlite.server.native.schema import read_request
from sdlite.server.pictures import to_base64
from sdlite.server.problem import message_of
from sdlite.server.state import Server

INSTRUCTIONS = (
    "Draws pictures on this machine. Each answer names its pictures; give such a name to "
    "edit_image to go on from one. plan_image says beforehand how long a picture takes."
)
LOCAL = "mcp"
"""Whose turn calls over standard input take."""
Context = ServerRequestContext[Any, Any]


@dataclass(frozen=True)
class Tool:
    """One tool."""

    name: str
    """What it is called by."""
    about: str
    """What it does, for the assistant."""
    takes: type[BaseModel]
    """Its arguments."""
    answer: Callable[[Context, Any], Awaitable[types.CallToolResult]]
    """Does it."""
    reads: bool = False
    """Whether it changes nothing and takes no engine's time."""


class Tools:
    """The tools over a server.

    Args:
        server: what draws; its room is started and closed by the caller.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        tools = (
            Tool("generate_image", "Draw pictures of a prompt.", ImageArguments, self._generate),
            Tool("edit_image", "Change a picture as a prompt says.", EditArguments, self._generate),
            Tool("list_models", "The models there are.", NoArguments, self._models, reads=True),
            Tool(
                "plan_image",
                "How long generate_image would take with these arguments, and how much memory.",
                ImageArguments,
                self._plan,
                reads=True,
            ),
        )
        self._tools = {tool.name: tool for tool in tools}

    def protocol(self) -> Protocol[Any]:
        """The protocol's side of it, to be run over a transport."""
        return Protocol(
            "sdlite",
            version=__version__,
            instructions=INSTRUCTIONS,
            on_list_tools=self._list,
            on_call_tool=self._call,
        )

    async def _list(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    description=tool.about,
                    input_schema=tool.takes.model_json_schema(),
                    annotations=types.ToolAnnotations(
                        read_only_hint=tool.reads, destructive_hint=False, open_world_hint=False
                    ),
                )
                for tool in self._tools.values()
            ]
        )

    async def _call(
        self, context: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        tool = self._tools.get(params.name)
        if tool is None:
            known = ", ".join(self._tools)
            return _failed(f"no tool {params.name[:40]!r}; there are {known}")
        try:
            return await tool.answer(context, check_body(tool.takes, params.arguments or {}))
        except SdliteError as error:
            return _failed(message_of(error))

    async def _generate(self, context: Context, arguments: ImageArguments) -> types.CallToolResult:
        jobs: list[Job] = []
        try:
            await in_thread(lambda: jobs.append(self._submit(arguments, _client(context))))
            (job,) = jobs
            await _watched(context, job)
        finally:
            for job in jobs:
                if not job.over:
                    # The call was cancelled, or whoever made it is gone.
                    self._server.room.cancel(job)
        outcome(job)
        return await in_thread(self._told, job)

    def _order(self, arguments: ImageArguments, client: str) -> Order:
        if isinstance(arguments, EditArguments):
            arguments = arguments.model_copy(update={"image": self._picture(arguments, client)})
        request = read_request(job_of(arguments), self._server.intake())
        return self._server.order(arguments.model, [request], client, LOCAL)

    def _submit(self, arguments: ImageArguments, client: str) -> Job:
        return self._server.submit(self._order(arguments, client))

    def _picture(self, arguments: EditArguments, client: str) -> str:
        """The picture of an edit as base64; names are compared with those of the caller's own."""
        job, _, number = arguments.image.strip().rpartition("-")
        if not (job.isalnum() and number.isdigit() and len(arguments.image) < 40):
            return arguments.image
        archive = self._server.archive
        picture = archive.picture(archive.find(job, client), int(number))
        if isinstance(picture, bytes):
            return base64.b64encode(picture).decode("ascii")
        return to_base64(picture)

    def _told(self, job: Job) -> types.CallToolResult:
        """The pictures of a job that is done, and what to call them."""
        archive = self._server.archive
        record = archive.find(job.id, job.order.client)
        content: list[types.ContentBlock] = []
        listed = []
        for shown in record.pictures:
            name = f"{record.id}-{shown.number}"
            picture = archive.picture(record, shown.number)
            if isinstance(picture, bytes):
                data = base64.b64encode(picture).decode("ascii")
            else:
                text = shown.infotext if self._server.setup.metadata else None
                data = to_base64(picture, "png", text)
            content.append(types.ImageContent(type="image", data=data, mime_type="image/png"))
            size = {"width": shown.width, "height": shown.height}
            listed.append({"name": name, "seed": shown.seed, **size, "infotext": shown.infotext})
        told = {"model": record.model, "seconds": round(record.seconds, 2), "pictures": listed}
        told["notes"] = list(record.notes)
        content.append(_text(told))
        return types.CallToolResult(content=content, structured_content=told)

    async def _models(self, context: Context, arguments: BaseModel) -> types.CallToolResult:
        models = await in_thread(self._server.shelf.models)
        views = [await in_thread(model_view, self._server, model) for model in models]
        default = self._server.shelf.find(None).name
        return _told({"models": views, "default": default})

    async def _plan(self, context: Context, arguments: ImageArguments) -> types.CallToolResult:
        def plan() -> dict[str, Any]:
            return planned(self._server, self._order(arguments, _client(context)))

        return _told(await in_thread(plan))


async def _watched(context: Context, job: Job) -> None:
    """Wait for a job and tell its steps."""
    watch = Watch(job)
    try:
        while not job.over:
            await watch.change()
            now = job.progress
            if now.steps:
                await context.session.report_progress(now.step, now.steps)
    finally:
        watch.close()


def _client(context: Context) -> str:
    """Who calls: over HTTP as everywhere else, over standard input whoever started this."""
    if context.request is None:
        return LOCAL
    name = context.request.scope.get("sdlite.client")
    if name is not None:
        return str(name)
    peer = context.request.client
    return "-" if peer is None else str(peer.host)


def _text(data: dict[str, Any]) -> types.TextContent:
    return types.TextContent(type="text", text=json.dumps(data, ensure_ascii=False))


def _told(data: dict[str, Any]) -> types.CallToolResult:
    return types.CallToolResult(content=[_text(data)], structured_content=data)


def _failed(message: str) -> types.CallToolResult:
    text = types.TextContent(type="text", text=message)
    return types.CallToolResult(content=[text], is_error=True)
