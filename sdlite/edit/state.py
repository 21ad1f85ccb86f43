"""A half finished job as a file: saved every few steps, gone on with after a crash or sleep.

The file is a NumPy archive: arrays of the sampler, the pictures of an edit as PNG, and a header in
JSON that says which job, which model and which version of sdlite it belongs to.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdlite import __version__, schema
from sdlite.errors import RequestError
from sdlite.image.source import open_picture
from sdlite.output import write_whole
from sdlite.package import Package
from sdlite.planner import Plan
from sdlite.types import Array, Request, SamplerState

FORMAT = 1
MAX_BYTES = 4 << 30
"""Most bytes a state may unpack to."""
HISTORY, CACHE = "history:", "cache:"
PICTURES = ("image", "mask")
"""Pictures of an edit, and of a control."""
CONTROL = "control:"
"""Begins the name of a control's picture, its number follows."""


@dataclass(frozen=True)
class Header:
    """What a state says about itself."""

    format: int
    """Version of this form."""
    version: str
    """Of sdlite."""
    model: str
    """Name of the model."""
    fingerprint: str
    """Hash over the model's files, see ``fingerprint``."""
    index: int
    """Intervals finished in the stage."""
    noise_position: int
    """Draws taken."""
    stage: int
    """Run of the sampler within the job."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What whoever saved it wants to know again, as text: engine, memory mode, threads ..."""


@dataclass(frozen=True)
class Saved:
    """A state that was read."""

    header: Header
    """What it says about itself."""
    request: Request
    """The job, completed."""
    state: SamplerState
    """Where it stopped."""


def pack_request(request: Request) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """A request as JSON, and its pictures by name; ``unpack_request`` is the way back."""
    job = schema.encode(request)
    pictures = {}
    if request.edit is not None:
        for name in PICTURES:
            picture = job["edit"].pop(name, None)
            if picture is not None:
                pictures[name] = picture
    for index, control in enumerate(job.get("controls", ())):
        for name in PICTURES:
            picture = control.pop(name, None)
            if picture is not None:
                pictures[f"{CONTROL}{index}:{name}"] = picture
    return job, pictures


def unpack_request(job: dict[str, Any], pictures: Mapping[str, Image.Image]) -> Request:
    """The request of ``pack_request``; raises ``KeyError`` or ``ValueError`` for what is none."""
    job = {**job, "controls": [dict(control) for control in job.get("controls", ())]}
    for place, picture in pictures.items():
        if place.startswith(CONTROL):
            index, _, name = place.removeprefix(CONTROL).partition(":")
            job["controls"][int(index)][name] = picture
        else:
            job["edit"] = {**job["edit"], place: picture}
    return schema.decode(Request, job)


def plan_words(plan: Plan) -> str:
    """What of a plan decides the last bits of a picture."""
    unet = plan.placement("unet")
    graph = unet.artifacts[0]
    return (
        f"{unet.device.runtime} on {unet.device.name}, {graph.variant} {graph.precision} graphs, "
        f"{unet.options.threads} threads, {plan.call_batch} items a call"
    )


def fingerprint(package: Package) -> str:
    """SHA-256 over names and hashes of a package's files, hexadecimal."""
    entries = sorted((entry.path, entry.sha256) for entry in package.files())
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def save_state(
    path: Path,
    package: Package,
    request: Request,
    state: SamplerState,
    settings: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write a state, whole or not at all.

    Args:
        path: file to write.
        package: the model.
        request: the completed job, ``Result.request`` or what ``complete`` made of it.
        state: a ``Step.state`` of it.
        settings: what ``Header.settings`` shall say.
        overwrite: replace a file that is there, usually the state before.

    Raises:
        OutputError: it cannot be written, or it exists and ``overwrite`` is false.
    """
    header = Header(
        format=FORMAT,
        version=__version__,
        model=package.manifest.name,
        fingerprint=fingerprint(package),
        index=state.index,
        noise_position=state.noise_position,
        stage=state.stage,
        settings=dict(settings or {}),
    )
    arrays: dict[str, Array] = {"x": state.x}
    if state.base is not None:
        arrays["base"] = state.base
    arrays |= {HISTORY + name: value for name, value in state.history.items()}
    arrays |= {CACHE + name: value for name, value in state.cache.items()}
    job, pictures = pack_request(request)
    arrays |= {name: np.frombuffer(png(picture), np.uint8) for name, picture in pictures.items()}
    text = json.dumps({"header": schema.encode(header), "request": job})
    arrays["json"] = np.frombuffer(text.encode(), np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    write_whole(path, stream.getvalue(), overwrite)


def load_state(path: Path) -> Saved:
    """Read a state; raises ``RequestError`` for what is none, or of another version of sdlite."""
    arrays = _read(path)
    try:
        parts = json.loads(arrays.pop("json").tobytes())
        header = schema.decode(Header, parts["header"])
        job: dict[str, Any] = parts["request"]
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path} is no state of a job saved by sdlite") from error
    if (header.format, header.version) != (FORMAT, __version__):
        raise RequestError(
            f"{path} was saved by sdlite {header.version}, this is {__version__}: the rest would "
            "not be the same picture; finish it with the version that began it"
        )
    pictures = {
        name: open_picture(arrays.pop(name).tobytes(), f"{name} in {path}")
        for name in list(arrays)
        if name in PICTURES or name.startswith(CONTROL)
    }
    try:
        state = SamplerState(
            index=header.index,
            x=arrays.pop("x"),
            history={
                name.removeprefix(HISTORY): value
                for name, value in arrays.items()
                if name.startswith(HISTORY)
            },
            noise_position=header.noise_position,
            stage=header.stage,
            base=arrays.get("base"),
            cache={
                name.removeprefix(CACHE): value
                for name, value in arrays.items()
                if name.startswith(CACHE)
            },
        )
        request = unpack_request(job, pictures)
    except (KeyError, ValueError) as error:
        raise RequestError(f"{path} is damaged: {error}") from error
    return Saved(header, request, state)


def check_model(saved: Saved, package: Package) -> None:
    """Raises ``RequestError`` when a state belongs to another model."""
    if saved.header.fingerprint != fingerprint(package):
        raise RequestError(
            f"the state belongs to another model than {package.manifest.name}: it was saved with "
            f"{saved.header.model} (files hash {saved.header.fingerprint[:10]})"
        )


def _read(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise RequestError(f"no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise RequestError(f"{path} is larger than any state")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RequestError(f"{path} is no state of a job saved by sdlite, or damaged") from error


def png(picture: Image.Image) -> bytes:
    """A picture as a file, written fast rather than small."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
