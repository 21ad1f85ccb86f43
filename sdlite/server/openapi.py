"""The published description of every route, made of what bodies are checked against."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from sdlite import __version__
from sdlite.server.call import Endpoint, Shape

_PLACE = "#/components/schemas/"
_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")


@dataclass(frozen=True)
class Group:
    """The routes of one API."""

    tag: str
    """What it is called."""
    error: Any
    """The type of its errors."""
    shape: Shape
    """How it writes them."""
    endpoints: Sequence[Endpoint]
    """Its routes."""


def document(groups: Sequence[Group]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    taken: dict[Any, TypeAdapter[Any]] = {}
    given: dict[Any, TypeAdapter[Any]] = {}
    for group in groups:
        given[group.error] = TypeAdapter(group.error)
        for endpoint in group.endpoints:
            for model in (endpoint.body, endpoint.form):
                if model is not None:
                    taken[model] = TypeAdapter(model)
            if endpoint.gives is not None:
                given[endpoint.gives] = TypeAdapter(endpoint.gives)
    schemas, found = TypeAdapter.json_schemas(
        [(key, "validation", adapter) for key, adapter in (taken | given).items()],
        ref_template=_PLACE + "{model}",
    )
    definitions = found.get("$defs", {})
    known = {key: schema for (key, _), schema in schemas.items()}
    for name in _named([known[key] for key in given], definitions):
        # What is answered has nothing but what is said here.
        if definitions[name].get("type") == "object":
            definitions[name].setdefault("additionalProperties", False)
    paths: dict[str, dict[str, Any]] = {}
    for group in groups:
        for endpoint in group.endpoints:
            place = paths.setdefault(_PARAMETER.sub(r"{\1}", endpoint.path), {})
            place[endpoint.method.lower()] = _operation(group, endpoint, known)
    return {
        "openapi": "3.1.0",
        "info": {"title": "sdlite", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "user": {"type": "http", "scheme": "basic"},
            },
        },
        "security": [{}, {"key": []}, {"user": []}],
    }


def _named(schemas: Sequence[Any], definitions: Mapping[str, Any]) -> set[str]:
    """Definitions that schemas refer to, directly or not."""
    found: set[str] = set()
    left: list[Any] = list(schemas)
    while left:
        item = left.pop()
        if isinstance(item, list):
            left += item
        elif isinstance(item, dict):
            left += item.values()
            name = str(item.get("$ref", "")).removeprefix(_PLACE)
            if name in definitions and name not in found:
                found.add(name)
                left.append(definitions[name])
    return found


def _operation(group: Group, endpoint: Endpoint, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    answer = {} if endpoint.gives is None else {"schema": schemas[endpoint.gives]}
    good: dict[str, Any] = {"description": "Done.", "content": {endpoint.media: answer}}
    if endpoint.streams:
        good["content"]["text/event-stream"] = {}
    operation: dict[str, Any] = {
        "tags": [group.tag],
        "summary": endpoint.summary,
        "responses": {
            str(endpoint.status): good,
            "default": {
                "description": "An error, as this API writes them.",
                "content": {"application/json": {"schema": schemas[group.error]}},
            },
        },
    }
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "minimum": 0} if kind == "int" else {"type": "string"},
        }
        for name, kind in _PARAMETER.findall(endpoint.path)
    ]
    parameters += [query.described() for query in endpoint.query]
    if parameters:
        operation["parameters"] = parameters
    content = {}
    if endpoint.body is not None:
        content["application/json"] = {"schema": schemas[endpoint.body]}
    if endpoint.form is not None:
        content["multipart/form-data"] = {
            "schema": _with_files(schemas[endpoint.form], endpoint.files)
        }
    if content:
        operation["requestBody"] = {"content": content, "required": _needed(endpoint)}
    return operation


def _needed(endpoint: Endpoint) -> bool:
    """Whether an empty body, which counts as an empty object, is refused."""
    if endpoint.files or endpoint.body is None:
        return True
    return any(field.is_required() for field in endpoint.body.model_fields.values())


def _with_files(form: dict[str, Any], files: Sequence[str]) -> dict[str, Any]:
    kind = {"type": "string", "format": "binary"}
    parts = {"type": "object", "properties": dict.fromkeys(files, kind), "required": [*files[:1]]}
    return {"allOf": [form, parts]} if files else form
