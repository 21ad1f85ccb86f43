"""What stands in the way of drawing on this machine, and what to do about it."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sdlite import api, compilecache, home, registry, settings
from sdlite.engine import LoadOptions, report_of
from sdlite.engines import formats_read, precision_for, variants
from sdlite.errors import RuntimeUnavailable, SdliteError
from sdlite.hardware import describe
from sdlite.package import Package
from sdlite.planner import megabytes
from sdlite.ports import TextEncoderPort
from sdlite.trial import ended
from sdlite.types import Device, Request

Status = Literal["ok", "warning", "failure"]

LEAST_MEMORY = 1 << 30
LEAST_DISK = 5 << 30
EXAMINE_SECONDS = 120
"""An engine that takes longer to open a graph of 2 MB hangs."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What, in a word or two."""
    status: Status
    """``failure`` is what keeps sdlite from drawing."""
    detail: str
    """What was found."""
    fix: str = ""
    """What to do about it; empty when there is nothing to do."""


def findings() -> tuple[Finding, ...]:
    """Look at everything; takes seconds, as each engine runs a graph in a process of its own.

    Nothing is raised: what goes wrong is a finding.
    """
    values, first = _settings()
    found = [*_machine(), first, *_disk(), *_cache(values)]
    usable = 0
    for name in registry.names():
        if name not in registry.NEVER_CHOSEN and (name != "coreml" or sys.platform == "darwin"):
            states = list(_engine(name))
            usable += any(state.status == "ok" for state in states)
            found += states
    if not usable:
        found.append(Finding("engines", "failure", "no engine can be used", registry.INSTALL))
    try:
        found.append(Finding(**isolated()["finding"]))
    except RuntimeUnavailable as error:
        found.append(Finding("drawing", "failure", error.reason, error.fix))
    return tuple(found)


def examine(runtime: str) -> list[dict[str, Any]]:
    """Open and run a small real graph on every device of an engine.

    Returns one entry a device: ``device``, ``description``, and either ``seconds`` and
    ``precision`` or ``error``; with ``fix`` for devices that are not here. Raises
    ``RuntimeUnavailable``. May end the process when the engine does not fit the processor:
    ``findings`` calls it in another one.
    """
    found = []
    package = _shipped()
    for device in registry.probe(runtime):
        entry: dict[str, Any] = {"device": device.name, "description": device.description}
        try:
            if package is not None:
                entry |= _run(package, device)
        except SdliteError as error:
            entry["error"] = str(error)
        found.append(entry)
    for name, why in registry.absent(runtime).items():
        found.append({"device": name, "error": why.reason, "fix": why.fix})
    return found


def _shipped() -> Package | None:
    try:
        return Package.open(home.find_model("shapes"))
    except SdliteError:
        return None


def _run(package: Package, device: Device) -> dict[str, Any]:
    start = time.perf_counter()
    graphs = (
        package.find("text_encoder", variant, format=format)
        for format in formats_read(device.runtime)
        for variant in variants(device.runtime, "normal", device.name)
    )
    (artifact,) = next((found for found in graphs if found), (None,))
    if artifact is None:
        return {}
    precision = precision_for("text_encoder", device, None)
    options = LoadOptions(threads=describe().physical_cores, precision=precision)
    session = registry.get(device.runtime).load(artifact, package.root, device, options)
    try:
        length = package.manifest.tokenizers[0].length
        hidden = TextEncoderPort(session).encode_text(np.zeros((1, length), np.int64))
        if not np.isfinite(hidden).all():
            return {"error": "it runs, and computes values that are not numbers"}
        told = report_of(session).precision or precision or device.precisions[0]
    finally:
        session.close()
    return {"seconds": round(time.perf_counter() - start, 3), "precision": told}


def isolated(*arguments: str) -> dict[str, Any]:
    """What ``sdlite.cli.examine`` answers, in a process of its own, so that a crash is a finding.

    Raises ``RuntimeUnavailable`` saying how the process ended.
    """
    if getattr(sys, "frozen", False):  # there is no interpreter to start
        return answer(*arguments)
    what = arguments[0] if arguments else "the engine that was chosen"
    command = [sys.executable, "-m", "sdlite.cli.examine", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=EXAMINE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeUnavailable(
            f"{what} did not answer within {EXAMINE_SECONDS} s", "Choose another with --runtime"
        ) from None
    if done.returncode < 0 or done.returncode > 1:
        raise RuntimeUnavailable(
            f"loading {what} ends the process ({ended(done.returncode)}): its wheel does not fit "
            "this processor, or a driver is broken",
            "Choose another engine with --runtime, or install an older version of this one",
        )
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise RuntimeUnavailable(
            f"{what} cannot be examined: {last}", "Install sdlite again"
        ) from None
    return found


def answer(runtime: str | None = None) -> dict[str, Any]:
    """Examine an engine, or, without one, whether drawing would start as it is set up now."""
    try:
        if runtime is None:
            values, _ = _settings()
            return {"finding": asdict(_drawing(values))}
        return {"devices": examine(runtime)}
    except RuntimeUnavailable as error:
        return {"reason": error.reason, "fix": error.fix}


def _engine(name: str) -> Iterator[Finding]:
    try:
        found = isolated(name)
    except RuntimeUnavailable as error:
        found = {"reason": error.reason, "fix": error.fix}
    if "reason" in found:
        yield Finding(name, "warning", found["reason"], found["fix"])
        return
    for entry in found["devices"]:
        label = f"{name} {entry['device']}"
        if "error" in entry:
            fix = entry.get("fix", "Choose another device with --device")
            yield Finding(label, "warning", entry["error"], fix)
        else:
            ran = f", runs in {entry['precision']}" if "precision" in entry else ""
            yield Finding(label, "ok", f"{entry['description']}{ran}")


def _machine() -> Iterator[Finding]:
    machine = describe()
    python = ".".join(map(str, sys.version_info[:3]))
    if struct.calcsize("P") < 8:
        yield Finding(
            "python", "failure", f"Python {python} of 32 bits: no engine exists for it",
            "Install Python for 64 bits",
        )  # fmt: skip
    else:
        yield Finding("python", "ok", f"{python}, {machine.os} {machine.arch}")
    flags = ", ".join(machine.cpu_flags) or "no features known"
    cores = f"{machine.physical_cores} cores"
    yield Finding("processor", "ok", f"{machine.cpu_name or 'unknown'}, {cores}: {flags}")
    if machine.ram_available is None or machine.ram_total is None:
        yield Finding("memory", "ok", "unknown")
    else:
        told = f"{megabytes(machine.ram_available)} free of {megabytes(machine.ram_total)}"
        low = machine.ram_available < LEAST_MEMORY
        yield Finding(
            "memory",
            "warning" if low else "ok",
            told,
            "Close other programs, or use --memory-mode mapped and small pictures" if low else "",
        )


def _settings() -> tuple[dict[str, Any], Finding]:
    """Every setting's value, defaults where they cannot be read, and what was found."""
    path = home.folders().settings
    try:
        read = settings.read(path)
        values = {name: read.get(name).value for name in settings.OPTIONS}
    except SdliteError as error:
        plain = settings.Settings(path, {})
        values = {name: plain.get(name).value for name in settings.OPTIONS}
        fix = f"Correct it in {path} or in the environment"
        return values, Finding("settings", "failure", str(error), fix)
    there = "" if path.exists() else " (not there; defaults count)"
    return values, Finding("settings", "ok", f"{path}{there}")


def _disk() -> Iterator[Finding]:
    places = home.folders()
    for name, folder in (("models folder", places.models), ("cache folder", places.cache)):
        there = next((p for p in (folder, *folder.parents) if p.exists()), Path())
        try:
            free = shutil.disk_usage(there).free
        except OSError as error:
            yield Finding(name, "warning", f"{folder}: {error.strerror}", "Set SDLITE_HOME")
            continue
        low = free < LEAST_DISK
        yield Finding(
            name,
            "warning" if low else "ok",
            f"{folder}, {megabytes(free)} free on its disk",
            "Make room, or move it with SDLITE_HOME" if low else "",
        )


def _cache(values: dict[str, Any]) -> Iterator[Finding]:
    entries = compilecache.entries(home.compiled_folder())
    size = megabytes(sum(entry.size for entry in entries))
    damaged = sum(not entry.key for entry in entries)
    told = f"{len(entries)} compiled graphs, {size}, at most {megabytes(values['cache-limit'])}"
    if damaged:
        yield Finding(
            "compile cache", "warning", f"{told}; {damaged} damaged", "Run: sdlite cache --clear"
        )
    else:
        yield Finding("compile cache", "ok", told)


def _drawing(values: dict[str, Any]) -> Finding:
    """Whether ``sdlite generate`` would get as far as opening weights, as it is set up now."""
    try:
        with api.load(
            values["model"],
            threads=values["threads"],
            precision=values["precision"],
            max_memory=values["max-memory"],
            max_vram=values["max-vram"],
            memory_mode=values["memory-mode"],
            vae_tiles=values["vae-tiles"],
            runtime=values["runtime"],
            device=values["device"],
        ) as pipe:
            width, height = values["size"] or (None, None)
            made = pipe.plan(replace(Request(""), width=width, height=height))
    except RuntimeUnavailable as error:
        return Finding("drawing", "failure", error.reason, error.fix)
    except SdliteError as error:
        return Finding("drawing", "failure", str(error), "Change what it names")
    device = made.placement("unet").device
    told = f"{values['model']} on {device.runtime} {device.name}, {megabytes(made.peak_bytes)}"
    return Finding("drawing", "ok", told)
