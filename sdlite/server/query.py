"""Parameters of an address: declared, checked and published in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdlite.server.problem import Refused

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
LONGEST = 1000
"""Characters of a value."""


@dataclass(frozen=True)
class Query:
    """One parameter after the question mark; it may always be left out."""

    name: str
    """As it is written."""
    kind: str
    """``integer``, ``boolean`` or ``string``."""
    about: str
    """One line for the published description."""
    low: int | None = None
    """Smallest integer."""
    high: int | None = None
    """Largest integer."""
    choices: tuple[str, ...] = ()
    """What a string may be; empty for anything."""

    def read(self, given: Mapping[str, str]) -> Any:
        """The value in ``given``, None where it is left out; raises ``Refused`` (422)."""
        text = given.get(self.name)
        if text is None:
            return None
        if self.kind == "boolean":
            if text.lower() in TRUE or text.lower() in FALSE:
                return text.lower() in TRUE
            raise self._refused(text, "neither true nor false")
        if self.kind == "integer":
            if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20):
                raise self._refused(text, "no whole number")
            number = int(text)
            if not (self.low or 0) <= number <= (self.high or number):
                raise self._refused(text, f"not from {self.low or 0} to {self.high}")
            return number
        if self.choices and text not in self.choices:
            raise self._refused(text, f"none of {', '.join(self.choices)}")
        if len(text) > LONGEST:
            raise self._refused(text, f"longer than {LONGEST} characters")
        return text

    def described(self) -> dict[str, Any]:
        """As OpenAPI writes it."""
        schema: dict[str, Any] = {"type": self.kind}
        if self.kind == "integer":
            schema["minimum"] = self.low or 0
            if self.high is not None:
                schema["maximum"] = self.high
        if self.choices:
            schema["enum"] = list(self.choices)
        elif self.kind == "string":
            schema["maxLength"] = LONGEST
        about = {"description": self.about, "required": False, "schema": schema}
        return {"name": self.name, "in": "query", **about}

    def _refused(self, text: str, what: str) -> Refused:
        return Refused(422, f"{self.name} {text[:40]!r} is {what}", "invalid_query")
