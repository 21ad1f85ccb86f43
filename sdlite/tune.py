"""What each profile and precision takes on this machine, and what it costs: measured, and kept.

The same prompts are drawn with the same seeds in every way; the first way, profile ``quality`` in
the widest precision, is what the others are compared with. Receipts lie in the cache folder, one
file a model, by the hash of its files.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from sdlite import schema
from sdlite.edit.state import fingerprint
from sdlite.errors import OutputError
from sdlite.forecast import Answers
from sdlite.output import write_whole
from sdlite.package import Package
from sdlite.pipeline import Pipeline
from sdlite.plans import Plan
from sdlite.profiles import PROFILES
from sdlite.types import Request, Result

log = logging.getLogger("sdlite.tune")

PROMPTS = (
    "a large red circle on a blue background",
    "a small yellow star above a green square on a white background",
    "a castle on a hill at sunset",
    "portrait of an old fisherman, detailed",
)
"""What is drawn, with seeds 1, 2, 3 and 4."""
WIDTHS = ("fp32", "bf16", "fp16")
"""Precisions, the widest first."""
MOST_DECIBELS = 99.0
"""Of pictures that are the same."""


@dataclass(frozen=True)
class Receipt:
    """One way to draw, on this machine."""

    profile: str
    """Which profile."""
    runtime: str
    """Engine."""
    device: str
    """Device within the engine."""
    precision: str | None
    """What was computed in; None where there is no choice."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    steps: int
    """Intervals of the schedule."""
    seconds: float
    """A picture, the model open; the median."""
    full: float
    """Answers of the model computed a picture, the mean."""
    skipped: float
    """Answers forecast instead."""
    unguided: float
    """How many of ``full`` needed no negative prompt."""
    psnr: float
    """Decibels to the first way's pictures, the median; ``MOST_DECIBELS`` for the first."""


Open = Callable[[str | None], Pipeline]
"""Opens the model in a precision; None is the machine's choice."""


def precisions_of(pipe: Pipeline) -> tuple[str | None, ...]:
    """What the device a pipeline chose can compute in, the widest first."""
    there = pipe.plan(Request("")).placement("unet").device.precisions
    return tuple(name for name in WIDTHS if name in there) if len(there) > 1 else (None,)


def tune(
    opened: Open,
    precisions: Sequence[str | None],
    *,
    profiles: Sequence[str] = tuple(PROFILES),
    prompts: Sequence[str] = PROMPTS,
    steps: int | None = None,
) -> Iterator[Receipt]:
    """Measure, way by way.

    Args:
        opened: opens the model; each precision is closed before the next.
        precisions: what to compute in; the first is the reference.
        profiles: which, ``quality`` first.
        prompts: what to draw.
        steps: intervals of the schedule; None is the model's own.

    Raises what drawing raises.
    """
    reference: list[Image.Image] = []
    for precision in precisions:
        with opened(precision) as pipe:
            # Opens what stays open.
            pipe.generate(Request(prompts[0], seed=1, steps=1))
            for profile in profiles:
                results = [
                    pipe.generate(Request(prompt, seed=number, steps=steps, profile=profile))
                    for number, prompt in enumerate(prompts, 1)
                ]
                pictures = [result.images[0] for result in results]
                reference = reference or pictures
                yield _receipt(profile, precision, results, reference)


def _receipt(
    profile: str,
    precision: str | None,
    results: Sequence[Result],
    reference: Sequence[Image.Image],
) -> Receipt:
    shape = results[0].plan.shape
    device = results[0].plan.placement("unet").device
    seconds = [
        result.seconds - sum(phase.load_seconds for phase in result.phases) for result in results
    ]
    full, skipped, unguided = (
        statistics.mean(sum(getattr(phase, name) for phase in r.phases) for r in results)
        for name in ("full", "skipped", "unguided")
    )
    likeness = [decibels(r.images[0], a) for r, a in zip(results, reference, strict=True)]
    return Receipt(
        profile=profile,
        runtime=device.runtime,
        device=device.name,
        precision=precision,
        width=shape.width,
        height=shape.height,
        steps=shape.steps,
        seconds=round(statistics.median(seconds), 4),
        full=full,
        skipped=skipped,
        unguided=unguided,
        psnr=round(statistics.median(likeness), 2),
    )


def decibels(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two pictures of one size, at most ``MOST_DECIBELS``."""
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return MOST_DECIBELS if error == 0 else min(MOST_DECIBELS, 10 * np.log10(255.0**2 / error))


def keep(folder: Path, package: Package, receipts: Sequence[Receipt]) -> Path:
    """Keep receipts in the place of the model's earlier ones; raises ``OutputError``."""
    path = _file(folder, package)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make folder {path.parent}: {error.strerror}") from error
    data = json.dumps([asdict(receipt) for receipt in receipts], indent=1).encode()
    write_whole(path, data, overwrite=True)
    return path


def kept(folder: Path, package: Package) -> tuple[Receipt, ...]:
    """The model's receipts; none when it was not tuned, or they cannot be read."""
    path = _file(folder, package)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return tuple(schema.decode(Receipt, entry) for entry in entries)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, schema.SchemaError) as error:
        log.info("%s cannot be used: %s", path, error)
        return ()


def receipt_for(receipts: Sequence[Receipt], request: Request, plan: Plan) -> Receipt | None:
    """The receipt of the way a completed request is drawn; of its precision, or else of any."""
    placement = plan.placement("unet")
    same = [
        receipt
        for receipt in receipts
        if (receipt.profile, receipt.runtime, receipt.device, receipt.steps)
        == (request.profile, placement.device.runtime, placement.device.name, plan.shape.steps)
    ]
    exact = [receipt for receipt in same if receipt.precision == placement.options.precision]
    return next(iter([*exact, *same]), None)


def measured(receipts: Sequence[Receipt], request: Request, plan: Plan) -> Answers | None:
    """What pictures of a request's profile asked of the model when it was tuned."""
    found = receipt_for(receipts, request, plan)
    if found is None or not found.skipped or request.guidance_interval is None:
        return None
    full = round(found.full)
    return Answers(full, plan.shape.steps - full, min(round(found.unguided), full))


def explain(receipts: Sequence[Receipt], request: Request, plan: Plan) -> tuple[str, ...]:
    """What tuning found of a request's profile, for people."""
    found = receipt_for(receipts, request, plan)
    exact = receipt_for(receipts, replace(request, profile="quality"), plan)
    if found is None or exact is None or found.profile == exact.profile or not found.seconds:
        return ()
    return (
        f"tuned: profile {found.profile} took {found.seconds:.1f} s where quality took "
        f"{exact.seconds:.1f} s, {found.psnr:.1f} dB from it",
    )


def _file(folder: Path, package: Package) -> Path:
    return folder / "tune" / f"{fingerprint(package)[:32]}.json"
