"""Strict JSON to frozen dataclasses and back: what the type does not allow is refused by name."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class SchemaError(ValueError):
    """A JSON value does not fit its type; the message starts with its place in the document."""


def decode(kind: type[T], value: object, where: str = "") -> T:
    """Build ``kind`` from parsed JSON.

    Understands dataclasses, ``str``, ``int``, ``float``, ``bool``, ``None``, ``Literal``, unions,
    ``tuple[X, ...]`` and ``Mapping[str, X]``. Raises ``SchemaError`` for a missing field, an
    unknown field, a wrong type, a non-finite number.
    """
    return typing.cast(T, _decode(kind, value, where))


def encode(value: object) -> Any:
    """Turn dataclasses and mappings into what ``json.dump`` takes; defaults are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: encode(getattr(value, item.name))
            for item in dataclasses.fields(value)
            if not _is_default(item, getattr(value, item.name))
        }
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _is_default(item: dataclasses.Field[Any], value: object) -> bool:
    if item.default is not dataclasses.MISSING:
        return bool(value == item.default)
    if item.default_factory is not dataclasses.MISSING:
        return bool(value == item.default_factory())
    return False


def _decode(kind: Any, value: object, where: str) -> object:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast("type[Any]", kind), value, where)
    if origin is typing.Union or origin is types.UnionType:
        return _decode_union(typing.get_args(kind), value, where)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise _wrong(where, value, "one of " + ", ".join(map(repr, typing.get_args(kind))))
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, value, "a list")
        element, *others = typing.get_args(kind)
        if others and others != [...]:
            kinds = (element, *others)
            if len(value) != len(kinds):
                raise _wrong(where, value, f"a list of {len(kinds)}")
            return tuple(
                _decode(each, item, f"{where}[{i}]")
                for i, (each, item) in enumerate(zip(kinds, value, strict=True))
            )
        return tuple(_decode(element, item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        element = typing.get_args(kind)[1]
        return {key: _decode(element, item, f"{where}.{key}") for key, item in value.items()}
    return _decode_scalar(kind, value, where)


def _decode_dataclass(kind: type[Any], value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise SchemaError(f"{_at(where)}unknown field {unknown[0]!r}")
    arguments = {}
    for name, item in fields.items():
        if name in value:
            arguments[name] = _decode(hints[name], value[name], f"{where}.{name}".lstrip("."))
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise SchemaError(f"{_at(where)}field {name!r} is missing")
    return kind(**arguments)


def _decode_union(members: tuple[Any, ...], value: object, where: str) -> object:
    errors = []
    for member in members:
        try:
            return _decode(member, value, where)
        except SchemaError as error:
            errors.append(error)
    raise errors[0]


def _decode_scalar(kind: Any, value: object, where: str) -> object:
    if kind is type(None):
        if value is None:
            return None
        raise _wrong(where, value, "null")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        # An integer beyond a double's range is as little a finite number as infinity.
        value = float(value) if abs(value) < 1 << 1023 else math.inf
    if kind is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(where, value, f"a {kind.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(where, value, "a finite number")
    return value


def _wrong(where: str, value: object, wanted: str) -> SchemaError:
    shown = repr(value)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return SchemaError(f"{_at(where)}{shown} is not {wanted}")


def _at(where: str) -> str:
    return f"{where}: " if where else ""
