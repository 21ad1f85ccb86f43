"""Every error sdlite raises on purpose.

    SdliteError
    ├── RequestError            the request cannot be carried out as written          (exit 2)
    │   ├── UnknownName         a name that is not in a list; offers the nearest one
    │   └── NoPlan              nothing on this machine fits the request and the budget
    ├── PackageError            a package folder breaks its specification             (exit 1)
    │   ├── PackageMissing      a file the manifest names is not there
    │   ├── PackageCorrupt      size or hash of a file is not what the manifest says
    │   ├── PackageTooNew       written for a later reader than this one
    │   └── PackageInvalid      the manifest itself is not what the specification allows
    ├── SourceError             a checkpoint cannot be read                           (exit 1)
    │   ├── SourceCorrupt       truncated, overlapping, out of bounds, wrong dtype
    │   ├── SourceHostile       would execute code or leave its folder; refused
    │   ├── CalibrationFailed   ranges of layers could not be measured
    │   └── UnknownFamily       readable, but no model family sdlite knows
    ├── RuntimeUnavailable      an engine cannot be used here; carries the fix        (exit 1)
    ├── EngineError             an engine failed while loading or running             (exit 1)
    │   ├── OutOfMemory         ... because memory ran out
    │   └── NotFinite           ... by giving values that are no numbers
    ├── OutputError             a result cannot be written                            (exit 1)
    └── Cancelled               somebody asked to stop                                (exit 130)

Messages are one line each: the wrong value, what is allowed, what to do next. The command line
prints them as they are and exits with ``exit_code``; the server maps the classes to HTTP status.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar


class SdliteError(Exception):
    """Base of all errors sdlite raises on purpose."""

    exit_code: ClassVar[int] = 1


class RequestError(SdliteError):
    """The request cannot be carried out as written."""

    exit_code: ClassVar[int] = 2


class UnknownName(RequestError):
    """A name is not among the valid ones.

    Args:
        kind: what is named, e.g. ``"sampler"``.
        name: the value given.
        valid: the names that would have worked, in the order to show them.
    """

    def __init__(self, kind: str, name: str, valid: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.valid = tuple(valid)
        folded = {known.casefold(): known for known in self.valid}
        near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
        hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
        known = ", ".join(self.valid) if self.valid else "none"
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {known}")


class NoPlan(RequestError):
    """Nothing on this machine fits the request and the budget; ``reasons`` says why, one each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("no plan fits: " + "; ".join(self.reasons))


class PackageError(SdliteError):
    """A package folder breaks its specification."""


class PackageMissing(PackageError):
    """A file the manifest names, or the manifest itself, is not there."""


class PackageCorrupt(PackageError):
    """A file's size or hash is not what the manifest says."""


class PackageTooNew(PackageError):
    """The package needs a later reader than this one."""


class PackageInvalid(PackageError):
    """The manifest is not what the specification allows."""


class SourceError(SdliteError):
    """A checkpoint cannot be read."""


class SourceCorrupt(SourceError):
    """A checkpoint file is truncated or contradicts itself."""


class SourceHostile(SourceError):
    """A checkpoint file would execute code or reach outside its folder; it is refused."""


class UnknownFamily(SourceError):
    """A checkpoint is readable, but it is no model family sdlite knows."""


class CalibrationFailed(SourceError):
    """A layer took in numbers that are not finite while its range was measured."""


class RuntimeUnavailable(SdliteError):
    """An engine cannot be used on this machine.

    Args:
        reason: what was tried and what happened.
        fix: what the user can do, usually a pip command.
    """

    def __init__(self, reason: str, fix: str) -> None:
        self.reason = reason
        self.fix = fix
        super().__init__(f"{reason}. {fix}")


class EngineError(SdliteError):
    """An engine failed while loading or running a graph.

    Args:
        runtime: engine name, e.g. ``"onnxruntime"``.
        device: device name, e.g. ``"cpu"``.
        component: model component, e.g. ``"unet"``.
        artifact: graph file inside the package.
        detail: the engine's own words, first line only.
    """

    def __init__(
        self, runtime: str, device: str, component: str, artifact: str, detail: str
    ) -> None:
        self.runtime = runtime
        self.device = device
        self.component = component
        self.artifact = artifact
        self.detail = detail
        super().__init__(f"{runtime} on {device} failed at {component} ({artifact}): {detail}")


class OutOfMemory(EngineError):
    """An engine ran out of memory while loading or running a graph."""


class NotFinite(EngineError):
    """A graph gave values that are infinite or not numbers."""


class OutputError(SdliteError):
    """A result cannot be written."""


class Cancelled(SdliteError):
    """Somebody asked to stop; what was finished before is kept."""

    exit_code: ClassVar[int] = 130
