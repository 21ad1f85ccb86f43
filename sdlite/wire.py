"""The wire format of protocol buffers, walked directly: nothing is copied, nothing is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Malformed(ValueError):
    """Bytes that are no message, or a part of one."""


def messages(data: memoryview, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """First and last byte of every message in a field."""
    for number, wire, first, last in fields(data, start, end):
        if number == wanted and wire == BYTES:
            yield first, last


def scalars(data: memoryview, start: int, end: int) -> tuple[Mapping[int, str], Mapping[int, int]]:
    """Short texts and numbers of a flat message, by field."""
    texts, numbers = {}, {}
    for number, wire, first, last in fields(data, start, end):
        if wire == BYTES:
            texts[number] = text(data, first, last)
        elif wire == VARINT:
            numbers[number] = first
    return texts, numbers


def fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Fields of a message: number, wire type, and first and last byte (or a varint's value).

    Raises ``Malformed``.
    """
    while start < end:
        key, start = varint(data, start, end)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, start = varint(data, start, end)
            yield number, wire, value, value
            continue
        if wire == BYTES:
            size, start = varint(data, start, end)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise Malformed(f"there is no wire type {wire}")
        if start + size > end:
            raise Malformed("it ends too early")
        yield number, wire, start, start + size
        start += size


def varint(data: memoryview, start: int, end: int) -> tuple[int, int]:
    """A number, and where the next byte is."""
    value = shift = 0
    while start < end and shift < 70:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
    raise Malformed("it ends too early")


def text(data: memoryview, start: int, end: int) -> str:
    """A text; what is not UTF-8 is replaced."""
    return bytes(data[start:end]).decode("utf-8", errors="replace")
