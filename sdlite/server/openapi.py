"""The published description of every route, made of what bodies are checked against."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from sdlite import __version__
from sdlite.server.call import Endpoint

_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")


def document(groups: Sequence[tuple[str, Sequence[Endpoint]]]) -> dict[str, Any]:
    """OpenAPI 3.1.

    Args:
        groups: a tag and the routes under it.
    """
    endpoints = [endpoint for _, group in groups for endpoint in group]
    bodies: dict[type[BaseModel], None] = {}
    for endpoint in endpoints:
        for model in (endpoint.body, endpoint.form):
            if model is not None:
                bodies[model] = None
    schemas, definitions = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for tag, group in groups:
        for endpoint in group:
            place = paths.setdefault(_PARAMETER.sub(r"{\1}", endpoint.path), {})
            place[endpoint.method.lower()] = _operation(tag, endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "sdlite", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "user": {"type": "http", "scheme": "basic"},
            },
        },
        "security": [{}, {"key": []}, {"user": []}],
    }


def _operation(tag: str, endpoint: Endpoint, schemas: Any) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done.", "content": {endpoint.media: {}}}
    operation: dict[str, Any] = {
        "tags": [tag],
        "summary": endpoint.summary,
        "responses": {
            str(endpoint.status): good,
            "default": {
                "description": "An error, as this API writes them.",
                "content": {"application/json": {}},
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
        content["application/json"] = {"schema": schemas[(endpoint.body, "validation")]}
    if endpoint.form is not None:
        content["multipart/form-data"] = {
            "schema": _with_files(schemas[(endpoint.form, "validation")], endpoint.files)
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
