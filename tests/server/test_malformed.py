"""Bad requests of every kind to a server in a process of its own, and what it publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra [server] is not installed")
pytest.importorskip("uvicorn", reason="the extra [server] is not installed")

from benchmarks.server_malformed import RAW, SMALL, Found, make, operations
from benchmarks.serving import serving


def test_nothing_is_answered_500(place: Path) -> None:
    """A part of ``python -m benchmarks.server_malformed``, each way of broken HTTP among it."""
    found = Found()
    with serving("tiny", "--runtime", "null", *SMALL) as server:
        make(server, 5 * len(RAW), seed=2, found=found, raw_every=5)
    assert found.wrong == []
    assert found.sent == 5 * len(RAW) and found.statuses[422] > 15


def test_every_route_is_published(client: Any) -> None:
    document = client.get("/openapi.json").json()
    published = {(method, path) for method, path, _ in operations(document)}
    assert len(published) > 50 and ("POST", "/sdapi/v1/txt2img") in published
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            named = {item["name"] for item in operation.get("parameters", ()) if item["required"]}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            answers = operation["responses"]
            assert any(status.startswith("2") for status in answers)
            assert "schema" in answers["default"]["content"]["application/json"]
            for status in answers:
                json = answers[status]["content"].get("application/json", {"schema": None})
                lacking = "schema" not in json and operation["summary"] != "Not supported."
                assert not lacking, f"{method} {path} does not say what it answers"
            assert method in ("get", "post", "delete")


def test_answers_are_what_is_published(client: Any) -> None:
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        if "get" not in methods or "{" in path:
            continue
        answer = client.get(path)
        published = methods["get"]["responses"][str(answer.status_code)]["content"]
        assert answer.headers["content-type"].partition(";")[0] in published, path


def test_null_is_published_where_it_means_the_default(client: Any) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    null = {"type": "null"}
    assert null in schemas["Txt2Img"]["properties"]["width"]["anyOf"]
    assert null in schemas["ExtraBatch"]["properties"]["imageList"]["anyOf"]
    assert schemas["Generation"]["properties"]["prompt"] == {"title": "Prompt", "type": "string"}
    assert client.post("/sdapi/v1/extra-batch-images", json={"imageList": None}).status_code == 200
    assert null not in schemas["JobBody"]["properties"]["images"].get("anyOf", [])
