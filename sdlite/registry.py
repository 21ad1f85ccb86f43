"""Names to engine adapters: strings until first use, so that importing sdlite loads no engine.

Adapters of other distributions register under the entry point group ``sdlite.runtimes``; the ones
that come with sdlite are listed here as well, so that they are found without installed metadata
(a frozen application, a plain checkout).
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import cast

from sdlite import trial
from sdlite.engine import Runtime
from sdlite.errors import RuntimeUnavailable, UnknownName
from sdlite.hardware import describe
from sdlite.types import Device

GROUP = "sdlite.runtimes"
BUILT_IN = {
    "coreml": "sdlite_runtimes.coreml:CoremlRuntime",
    "onnxruntime": "sdlite_runtimes.ort:OrtRuntime",
    "openvino": "sdlite_runtimes.ov:OvRuntime",
    "null": "sdlite_runtimes.null:NullRuntime",
}
"""Adapters that come with sdlite, in the order they are preferred."""
NEVER_CHOSEN = frozenset({"null"})
"""Adapters that are used only when asked for by name."""
INSTALL = 'Install an engine with: pip install "sdlite[cpu]"'

_lock = threading.Lock()
_runtimes: dict[str, Runtime] = {}


@cache
def _targets() -> dict[str, str]:
    # Imported here: it draws in the email package, which nothing else needs.
    import importlib.metadata

    found = dict(BUILT_IN)
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda item: item.name):
        found.setdefault(entry.name, entry.value)
    return found


def names() -> tuple[str, ...]:
    """Names of all registered engines, usable or not, preferred ones first."""
    return tuple(_targets())


def get(name: str) -> Runtime:
    """The engine of that name; one object for the whole process.

    Raises ``UnknownName``, or ``RuntimeUnavailable`` when its adapter cannot be imported.
    """
    targets = _targets()
    if name not in targets:
        raise UnknownName("runtime", name, targets)
    with _lock:
        if name not in _runtimes:
            module, _, attribute = targets[name].partition(":")
            try:
                kind = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise RuntimeUnavailable(
                    f"the adapter {targets[name]} of runtime {name!r} cannot be imported ({error})",
                    "Install it again, or choose another runtime",
                ) from error
            _runtimes[name] = cast("Runtime", kind())
        return _runtimes[name]


def probe(name: str) -> tuple[Device, ...]:
    """Devices of one engine; raises ``UnknownName`` and ``RuntimeUnavailable``, nothing else."""
    runtime = get(name)
    module = getattr(runtime, "module", None)
    try:
        if module is not None:
            trial.check(module)
        return tuple(runtime.probe())
    except RuntimeUnavailable:
        raise
    except Exception as error:
        raise RuntimeUnavailable(
            f"looking for devices of runtime {name!r} failed ({type(error).__name__}: {error})",
            "Choose another runtime, or report this to the adapter's authors",
        ) from error


def absent(name: str) -> Mapping[str, RuntimeUnavailable]:
    """Devices an engine is made for that are not here, by name, with why and what to do.

    Raises what ``probe`` raises.
    """
    probe(name)
    told = getattr(get(name), "absent", None)
    return {} if told is None else dict(told())


def check_device(name: str, runtime: str | None = None) -> None:
    """Raise ``RuntimeUnavailable`` for a device whose engine is installed and which is not here."""
    for engine in names() if runtime is None else (runtime,):
        try:
            devices = {device.name for device in probe(engine)}
            missing = absent(engine)
        except RuntimeUnavailable:
            continue
        if name in missing and name not in devices:
            raise missing[name]


def available() -> list[tuple[str, tuple[Device, ...] | RuntimeUnavailable]]:
    """Every registered engine with its devices, or with the reason why there are none."""
    found: list[tuple[str, tuple[Device, ...] | RuntimeUnavailable]] = []
    for name in names():
        try:
            found.append((name, probe(name)))
        except RuntimeUnavailable as error:
            found.append((name, error))
    return found


def devices(
    runtime: str | None = None, formats: Collection[str] = ("onnx",), first: bool = False
) -> tuple[Device, ...]:
    """Devices that can run graphs of a format, preferred ones first, with their free memory.

    A runtime asked for by name is the only one looked at; with ``first``, the first that can be
    used is the last one looked at, as loading an engine takes a while. Raises ``UnknownName`` when
    there is no such runtime, ``RuntimeUnavailable`` with every engine's reason when nothing opens
    (its cause is an ``ExceptionGroup`` of them).
    """
    if runtime is not None:
        return tuple(with_memory(device) for device in probe(runtime))
    found: list[Device] = []
    refused: list[RuntimeUnavailable] = []
    for name in names():
        try:
            if name not in NEVER_CHOSEN and get(name).formats & set(formats):
                found += [with_memory(device) for device in probe(name)]
                if found and first:
                    break
        except RuntimeUnavailable as error:
            refused.append(error)
    if not found:
        raise _nothing(formats, refused)
    return tuple(found)


def with_memory(device: Device) -> Device:
    """A device without memory of its own uses the machine's."""
    if device.memory_bytes is not None or device.own_memory:
        return device
    return replace(device, memory_bytes=describe().ram_available)


def _nothing(formats: Collection[str], refused: Sequence[RuntimeUnavailable]) -> RuntimeUnavailable:
    reasons = "; ".join(error.reason for error in refused) or "none is registered"
    fix = refused[0].fix if len(refused) == 1 else INSTALL
    what = " or ".join(sorted(formats))
    error = RuntimeUnavailable(f"no engine here can run {what} graphs: {reasons}", fix)
    if refused:
        error.__cause__ = ExceptionGroup("every engine's reason", list(refused))
    return error
