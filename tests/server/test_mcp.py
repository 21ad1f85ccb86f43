"""The tools for assistants, called with the SDK's own client in every way there is."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra [server] is not installed")
pytest.importorskip("mcp", reason="the extra [mcp] is not installed")

import anyio
import mcp

import sdlite
from sdlite.types import Edit, Request
from tests.server.helpers import PROGRAM, SLOW, Running, picture

TOOLS = ["generate_image", "edit_image", "list_models", "plan_image"]
Talk = Callable[[Any], Awaitable[None]]


def drawn(result: Any) -> list[Image.Image]:
    assert not result.is_error, result.content
    found = []
    for block in result.content:
        if block.type == "image":
            assert block.mime_type == "image/png"
            found.append(Image.open(io.BytesIO(base64.b64decode(block.data))))
    return found


def expected(request: Request) -> Image.Image:
    with sdlite.load("tiny", runtime="null") as pipe:
        return pipe.generate(request).images[0]


async def everything(client: Any) -> None:
    """Each tool once."""
    listed = (await client.list_tools()).tools
    assert [tool.name for tool in listed] == TOOLS
    assert "prompt" in listed[0].input_schema["required"]
    models = (await client.call_tool("list_models", {})).structured_content
    assert models["default"] == "tiny"
    assert {model["name"] for model in models["models"]} >= {"tiny", "other"}
    arguments = {"prompt": "a", "seed": 5, "steps": 3}
    plan = (await client.call_tool("plan_image", arguments)).structured_content
    assert plan["peak_bytes"] > 0 and plan["reasons"]

    steps: list[tuple[float, float | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        steps.append((done, total))

    made = await client.call_tool("generate_image", arguments, progress_callback=progress)
    (image,) = drawn(made)
    assert image.tobytes() == expected(Request("a", seed=5, steps=3)).tobytes()
    assert image.info["parameters"].startswith("a\nSteps: 3")
    assert steps and steps[-1][1] == 3
    told = made.structured_content["pictures"][0]
    assert (told["seed"], told["width"], told["height"]) == (5, 64, 64)

    again = {"prompt": "b", "seed": 6, "steps": 3, "strength": 0.5, "image": told["name"]}
    (edited,) = drawn(await client.call_tool("edit_image", again))
    edit = Edit(image.convert("RGB"), strength=0.5)
    assert edited.tobytes() == expected(Request("b", seed=6, steps=3, edit=edit)).tobytes()


def in_process(client: Any, talk: Talk) -> None:
    from sdlite.server.mcp.tools import Tools

    async def run() -> None:
        async with mcp.Client(Tools(client.server).protocol()) as assistant:
            await talk(assistant)

    anyio.run(run)


def test_in_process(client: Any) -> None:
    in_process(client, everything)


def test_over_standard_input(place: Path) -> None:
    command = ["-W", "error", "-c", PROGRAM, "0", "mcp", "--model", "tiny", "--runtime", "null"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    there = mcp.StdioServerParameters(command=sys.executable, args=command, env=environment)

    async def run() -> None:
        async with mcp.Client(there) as assistant:
            await everything(assistant)

    anyio.run(run)


def test_over_http(start: Callable[..., Running]) -> None:
    server = start("--mcp")

    async def run() -> None:
        async with mcp.Client(server.url + "/mcp") as assistant:
            await everything(assistant)

    anyio.run(run)


def test_http_is_guarded(serve: Any) -> None:
    from sdlite.server.guard import Access

    client = serve(mcp=True, access=Access(api_keys=("secret",)))
    assert client.post("/mcp", json={}).status_code == 401
    key = {"X-API-Key": "secret"}
    strange = {**key, "Host": "evil.example"}
    assert client.post("/mcp", json={}, headers=strange).status_code == 421
    strange = {**key, "Origin": "https://evil.example"}
    assert client.post("/mcp", json={}, headers=strange).status_code == 403
    assert client.post("/mcp", json={}, headers=key).status_code in (400, 406)


def test_it_is_not_there_unless_asked_for(client: Any) -> None:
    assert client.post("/mcp", json={}).status_code == 404


@pytest.mark.parametrize(
    "tool, arguments, words",
    [
        ("draw", {}, "no tool 'draw'; there are generate_image"),
        ("generate_image", {}, "prompt: Field required"),
        ("generate_image", {"prompt": "a", "size": 3}, "size: Extra inputs"),
        ("generate_image", {"prompt": "a", "width": 65}, "65"),
        ("generate_image", {"prompt": "a", "images": 5}, "less than or equal to 4"),
        ("generate_image", {"prompt": "a", "steps": 151}, "at most 150"),
        ("generate_image", {"prompt": "a", "model": "tyni"}, "unknown model 'tyni'"),
        ("generate_image", {"prompt": "a", "model": "../tiny"}, "unknown model"),
        ("edit_image", {"prompt": "a", "image": "ab12-0"}, "no job 'ab12'"),
        ("edit_image", {"prompt": "a", "image": "/etc/passwd"}, "damaged|no picture|base64"),
        ("edit_image", {"prompt": "a", "image": "http://x/y.png"}, "URLs are not fetched"),
        ("list_models", {"x": 1}, "Extra inputs"),
    ],
)
def test_bad_calls(client: Any, tool: str, arguments: dict[str, Any], words: str) -> None:
    async def talk(assistant: Any) -> None:
        result = await assistant.call_tool(tool, arguments)
        assert result.is_error
        (block,) = result.content
        import re

        assert re.search(words, block.text), block.text

    in_process(client, talk)


def test_a_picture_and_a_mask_as_base64(client: Any) -> None:
    async def talk(assistant: Any) -> None:
        arguments = {
            "prompt": "a",
            "steps": 2,
            "image": picture(),
            "mask": picture(colour="white", mode="L"),
            "width": 32,
            "height": 32,
        }
        (image,) = drawn(await assistant.call_tool("edit_image", arguments))
        assert image.size == (32, 32)

    in_process(client, talk)


def test_a_cancelled_call_frees_the_engine(serve: Any) -> None:
    client = serve(SLOW)

    async def talk(assistant: Any) -> None:
        with anyio.move_on_after(0.5):
            await assistant.call_tool("generate_image", {"prompt": "a", "steps": 150})
            pytest.fail("it was not cancelled")
        with anyio.fail_after(10):
            while client.server.room.running():
                await anyio.sleep(0.01)

    in_process(client, talk)


def test_a_missing_extra_is_named(place: Path) -> None:
    code = "import sys; sys.modules['mcp'] = None; from sdlite.cli import main; main()"
    for words in (["mcp"], ["serve", "--mcp"]):
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and 'pip install "sdlite[mcp]"' in done.stderr, done.stderr
