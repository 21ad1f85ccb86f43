"""A stack machine for pickles whose values are inert: lists, dicts, strings, tensor records."""

from __future__ import annotations

import struct
from collections.abc import Callable

from sdlite.errors import SourceCorrupt, SourceHostile
from sdlite.tensors.pickle_names import DICTIONARIES, REBUILD, STORAGES, is_inert
from sdlite.tensors.pickle_values import (
    Name,
    Opaque,
    Storage,
    TensorRecord,
    is_shape,
    is_size,
)

_MARK = Opaque()


def run(program: bytes, where: str) -> object:
    """Interpret a pickle; returns dicts, lists, tuples, plain values and tensor records.

    ``where`` starts the messages. Raises ``SourceHostile`` naming the first global that is not
    known to be harmless, ``SourceCorrupt`` for a program that makes no sense.
    """
    return run_at(program, 0, where, {})[0]


def run_at(program: bytes, start: int, where: str, dtypes: dict[str, str]) -> tuple[object, int]:
    """The same for a pickle that starts at a byte of ``program``; also returns where it ends.

    ``dtypes`` gets the element type of every storage it mentions, by key.
    """
    machine = _Machine(program, where, start, dtypes)
    try:
        return machine.run(), machine.position
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise machine.bad(f"broken at byte {machine.position}") from error


class _Machine:
    """Program counter, stack and memo of one run."""

    def __init__(self, program: bytes, where: str, start: int, dtypes: dict[str, str]) -> None:
        self.program = program
        self.where = where
        self.position = start
        self.dtypes = dtypes
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def bad(self, what: str) -> SourceCorrupt:
        return SourceCorrupt(f"{self.where}: pickle {what}; the file is damaged, get it again")

    def run(self) -> object:
        while True:
            code = self.take(1)
            if code == b".":
                return self.pop()
            action = _ACTIONS.get(code)
            if action is None and code in _FOREIGN:
                raise SourceHostile(
                    f"{self.where}: the pickle uses instruction {code!r}, which PyTorch never "
                    "writes; it is refused. Nothing was executed"
                )
            if action is None:
                raise self.bad(f"instruction {code!r} at byte {self.position - 1} is not known")
            action(self)

    # Reading the program.

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.program):
            raise self.bad("ends in the middle")
        piece = self.program[self.position : end]
        self.position = end
        return piece

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def line(self) -> str:
        end = self.program.find(b"\n", self.position)
        if end < 0:
            raise self.bad("ends in the middle")
        piece = self.take(end - self.position)
        self.position += 1
        return piece.decode("utf-8")

    # The stack.

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        value = self.stack.pop()
        if value is _MARK:
            raise self.bad(f"takes a value that is not there, at byte {self.position}")
        return value

    def top(self) -> object:
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_mark(self) -> list[object]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise self.bad(f"lacks a mark at byte {self.position}")

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise self.bad(f"recalls value {index}, which it never stored")
        self.push(self.memo[index])

    # Containers.

    def append(self, items: list[object]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise self.bad(f"appends to a {type(target).__name__}")

    def set_items(self, items: list[object]) -> None:
        target = self.top()
        if len(items) % 2:
            raise self.bad("has a key without a value")
        if isinstance(target, Opaque):
            return
        if not isinstance(target, dict):
            raise self.bad(f"sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys (tuples may nest without end) matter to no tensor.
            if isinstance(key, str | int | Name):
                target[key] = value

    def new_dict(self) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)

    # Globals and what would be calls.

    def find(self, module: str, name: str) -> None:
        known = Name(module, name)
        path = str(known)
        if path not in REBUILD and path not in STORAGES and not is_inert(module, name):
            raise SourceHostile(
                f"{self.where}: the pickle asks for {path[:120]!r}, which is no part of a model; "
                "it may be malicious and is refused. Nothing was executed. "
                "Use the model's .safetensors file"
            )
        self.push(known)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.bad("names a global by something that is no string")
        self.find(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple):
            raise self.bad(f"calls with a {type(arguments).__name__} instead of a tuple")
        if isinstance(function, Name):
            self.push(self.build_value(str(function), arguments))
        elif isinstance(function, Opaque):
            self.push(function)
        else:
            raise self.bad(f"calls a {type(function).__name__}")

    def build_value(self, function: str, arguments: tuple[object, ...]) -> object:
        if function in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            return self.tensor(arguments)
        if function in ("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"):
            if not arguments or not isinstance(arguments[0], TensorRecord):
                raise self.bad("makes a parameter of something that is no tensor")
            return arguments[0]
        if function == "collections.OrderedDict":
            return self.ordered(arguments)
        if function in STORAGES:
            raise SourceHostile(f"{self.where}: the pickle calls {function}; refused")
        return Opaque()

    def ordered(self, arguments: tuple[object, ...]) -> object:
        """``OrderedDict()``, or, from Python 2, ``OrderedDict([[key, value], ...])``."""
        made: dict[object, object] = {}
        pairs = arguments[0] if arguments else []
        if len(arguments) > 1 or not isinstance(pairs, list):
            raise self.bad("makes an OrderedDict of something that is no list of pairs")
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise self.bad("makes an OrderedDict of something that is no list of pairs")
            if isinstance(pair[0], str | int | Name):
                made[pair[0]] = pair[1]
        return made

    def tensor(self, arguments: tuple[object, ...]) -> TensorRecord:
        if len(arguments) < 4:
            raise self.bad(f"makes a tensor of {len(arguments)} values")
        storage, offset, shape, strides = arguments[:4]
        if not isinstance(storage, Storage):
            raise self.bad(f"makes a tensor of a {type(storage).__name__}")
        if not is_size(offset) or not is_shape(shape) or not is_shape(strides):
            raise self.bad("makes a tensor whose offset, shape or strides are no sizes")
        assert isinstance(offset, int) and isinstance(shape, tuple) and isinstance(strides, tuple)
        if len(shape) != len(strides):
            raise self.bad(f"makes a tensor of {len(shape)} dimensions with {len(strides)} strides")
        return TensorRecord(storage, offset, shape, strides)

    def persistent(self) -> None:
        value = self.pop()
        if not isinstance(value, tuple) or len(value) < 5 or value[0] != "storage":
            raise self.bad("refers to something that is no storage")
        _, kind, key, _, count = value[:5]
        dtype = STORAGES.get(str(kind)) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(key, str) or not is_size(count):
            raise self.bad("has a storage without type, key and length")
        if len(value) > 5 and value[5] is not None:
            raise self.bad("has a storage that is a part of another, as PyTorch before 0.4 wrote")
        self.dtypes.setdefault(key, dtype)
        assert isinstance(count, int)
        self.push(Storage(key, dtype, count))

    def new_object(self, keywords: bool = False) -> None:
        if keywords:
            self.pop()
        arguments, kind = self.pop(), self.pop()
        if isinstance(kind, Name) and isinstance(arguments, tuple):
            if str(kind) in REBUILD or str(kind) in STORAGES:
                raise SourceHostile(f"{self.where}: the pickle makes a {kind}; refused")
            self.push({} if str(kind) in DICTIONARIES else Opaque())
        elif isinstance(kind, Opaque):
            self.push(kind)
        else:
            raise self.bad(f"makes an object of a {type(kind).__name__}")

    def build(self) -> None:
        """Attributes for an object: dropped, but for the tensors of a ``ParameterDict``."""
        state = self.pop()
        target = self.top()
        inner = state.get("_parameters") if isinstance(state, dict) else None
        if isinstance(target, dict) and isinstance(inner, dict) and inner is not target:
            target.update(inner)
        if not isinstance(target, dict | Opaque | TensorRecord):
            raise SourceHostile(
                f"{self.where}: the pickle sets the state of a {type(target).__name__}; refused"
            )


def _tuple(count: int) -> Callable[[_Machine], None]:
    def action(machine: _Machine) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(items)))

    return action


def _text(form: str) -> Callable[[_Machine], None]:
    def action(machine: _Machine) -> None:
        machine.push(machine.take(machine.number(form)).decode("utf-8", "surrogatepass"))

    return action


def _old_text(form: str) -> Callable[[_Machine], None]:
    """Python 2 strings; torch decodes them as ASCII or Latin-1, of which ASCII is a part."""

    def action(machine: _Machine) -> None:
        machine.push(machine.take(max(machine.number(form), 0)).decode("latin-1"))

    return action


def _bytes(form: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(machine.take(machine.number(form)))


def _integer(form: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(machine.number(form))


def _long(form: str) -> Callable[[_Machine], None]:
    def action(machine: _Machine) -> None:
        piece = machine.take(max(machine.number(form), 0))
        machine.push(int.from_bytes(piece, "little", signed=True))

    return action


def _constant(value: object) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(value)


def _pair(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _one(machine: _Machine) -> None:
    value = machine.pop()
    machine.append([value])


def _set(machine: _Machine) -> None:
    machine.pop_mark()
    machine.push(Opaque())


def _instance(machine: _Machine) -> None:
    """Protocol 0's way to make an object: the name is screened like any other."""
    machine.find(machine.line(), machine.line())
    _set(machine)


_FOREIGN = frozenset(bytes([code]) for code in b"FILSVPgp\x82\x83\x84\x96\x97\x98")
"""Protocol 0's text forms, the extension registry, out-of-band buffers."""

_ACTIONS: dict[bytes, Callable[[_Machine], object]] = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME
    b"(": _constant(_MARK),
    b"0": lambda m: m.stack.pop(),
    b"1": lambda m: m.pop_mark(),
    b"2": lambda m: m.push(m.top()),
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"J": _integer("<i"),
    b"K": _integer("<B"),
    b"M": _integer("<H"),
    b"\x8a": _long("<B"),
    b"\x8b": _long("<i"),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"X": _text("<I"),
    b"\x8c": _text("<B"),
    b"\x8d": _text("<Q"),
    b"T": _old_text("<i"),
    b"U": _old_text("<B"),
    b"B": _bytes("<I"),
    b"C": _bytes("<B"),
    b"\x8e": _bytes("<Q"),
    b")": _constant(()),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.pop_mark()),
    b"a": _one,
    b"e": lambda m: m.append(m.pop_mark()),
    b"}": lambda m: m.push({}),
    b"d": lambda m: m.new_dict(),
    b"s": _pair,
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"\x8f": _constant(Opaque()),  # EMPTY_SET
    b"\x90": lambda m: m.append(m.pop_mark()),  # ADDITEMS
    b"\x91": _set,  # FROZENSET
    b"q": lambda m: m.remember(m.number("<B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),  # MEMOIZE
    b"h": lambda m: m.recall(m.number("<B")),
    b"j": lambda m: m.recall(m.number("<I")),
    b"c": lambda m: m.find(m.line(), m.line()),
    b"\x93": lambda m: m.stack_global(),
    b"R": lambda m: m.reduce(),
    b"i": _instance,
    b"o": _set,  # OBJ; its class was screened when it was named
    b"Q": lambda m: m.persistent(),
    b"\x81": lambda m: m.new_object(),
    b"\x92": lambda m: m.new_object(keywords=True),
    b"b": lambda m: m.build(),
}
