"""What bodies of other APIs share: null means the default, unknown keys are left alone."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


def _nullable(schema: dict[str, Any]) -> None:
    """Publish that null may stand for whatever has a default."""
    null = {"type": "null"}
    for name, published in schema.get("properties", {}).items():
        kinds = published.get("anyOf", [])
        if name in schema.get("required", ()) or null in kinds:
            continue
        about = {key: published.pop(key) for key in ("title", "default") if key in published}
        schema["properties"][name] = {"anyOf": [published, null], **about}


class Lenient(BaseModel):
    """A body that takes what clients send, also what means nothing here."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, json_schema_extra=_nullable)

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None}
