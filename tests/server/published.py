"""Whether answers are what the published description says: asked of every answer in the tests."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest


@cache
def document() -> dict[str, Any]:
    """What ``/openapi.json`` says."""
    from starlette.testclient import TestClient

    from sdlite.server.app import make_app
    from sdlite.server.state import Server

    client = TestClient(make_app(Server()), base_url="http://localhost")
    described: dict[str, Any] = client.get("/openapi.json").json()
    return described


@cache
def _paths() -> list[tuple[re.Pattern[str], str]]:
    """Patterns of paths, those without parameters first."""
    paths = sorted(document()["paths"], key=lambda path: str(path).count("{"))
    return [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path) for path in paths]


@cache
def _validator(method: str, path: str, status: str, media: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema to run these")
    operation = document()["paths"][path].get(method.lower())
    if operation is None:
        return None
    said = operation["responses"].get(status) or operation["responses"]["default"]
    if "*/*" in said["content"]:  # a file of the page
        return None
    assert media in said["content"], f"{method} {path} answers with {media}, which is not published"
    schema = said["content"][media].get("schema")
    if schema is None:
        return None
    return jsonschema.Draft202012Validator({**schema, "components": document()["components"]})


def check(answer: Any) -> None:
    """A hook of a client: fails for an answer that is not as published."""
    method, place = answer.request.method, answer.request.url.path
    path = next((path for pattern, path in _paths() if pattern.fullmatch(place)), None)
    media = answer.headers.get("content-type", "").partition(";")[0]
    if path is None or media != "application/json":
        return
    validator = _validator(method, path, str(answer.status_code), media)
    if validator is not None:
        answer.read()
        found = validator.iter_errors(answer.json())
        wrong = [f"{error.json_path}: {error.message}"[:300] for error in found]
        assert not wrong, f"{method} {path}: {'; '.join(wrong)}"
