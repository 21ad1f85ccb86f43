"""The work behind ``sdlite generate``: one picture after the other, each kept once it is there."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlite import __version__
from sdlite.cli.edge import tell
from sdlite.cli.table import readable
from sdlite.errors import Cancelled
from sdlite.output import Destination

if TYPE_CHECKING:
    from sdlite.pipeline import Pipeline
    from sdlite.planner import Plan
    from sdlite.types import Request, Result, Step

log = logging.getLogger("sdlite.cli")

SEEDS = 2**64


@dataclass(frozen=True)
class Picture:
    """One finished file."""

    path: Path
    """Where it is."""
    seed: int
    """Its seed."""
    result: Result
    """What it took."""


class Lines:
    """Tells a person about each picture: its path on standard output, notes on standard error."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._told: set[str] = set()

    def picture(self, picture: Picture) -> None:
        """A picture is written."""
        click.echo(str(picture.path))
        for note in picture.result.notes:
            if note not in self._told and not self._quiet:
                tell(f"note: {note}")
            self._told.add(note)


@dataclass
class Drawing:
    """A job of ``sdlite generate``."""

    prompts: tuple[str, ...]
    """What to draw."""
    settings: Mapping[str, Any]
    """Parsed options by name."""
    target: Destination
    """Where to write."""
    metadata: bool
    """Whether pictures carry their parameters."""
    preview: bool
    """Whether to show them grow."""
    progress: bool
    """Whether to show a bar."""
    quiet: bool
    """Whether nothing but paths is printed."""
    report: Lines | None
    """Who is told about finished pictures; None for nobody."""
    pictures: list[Picture] = field(default_factory=list)
    """What is finished."""
    cancelled: bool = False
    """Whether Ctrl-C ended it."""
    seconds: float = 0.0
    """Wall-clock time of everything, opening the model included."""

    @property
    def total(self) -> int:
        """Pictures asked for."""
        return len(self.prompts) * int(self.settings["images"])

    def draw(self, cancel: threading.Event, writing: threading.Lock) -> None:
        """Draw everything; what is finished when it fails or is stopped stays in ``pictures``."""
        start = time.perf_counter()
        try:
            self._draw(cancel, writing)
        except Cancelled:
            self.cancelled = True
        finally:
            self.seconds = time.perf_counter() - start

    def _draw(self, cancel: threading.Event, writing: threading.Lock) -> None:
        import sdlite
        from sdlite.cli.progress import Preview, StepBar
        from sdlite.metadata import infotext
        from sdlite.preview import map_for

        chosen = self.settings
        with ExitStack() as stack:
            pipe: Pipeline = stack.enter_context(
                sdlite.load(
                    chosen["model"],
                    threads=chosen["threads"],
                    precision=chosen["precision"],
                    max_memory=chosen["max_memory"],
                    memory_mode=chosen["memory_mode"],
                    runtime=chosen["runtime"],
                    device=chosen["device"],
                )
            )
            manifest = pipe.package.manifest
            bar = stack.enter_context(StepBar(self.total, self.progress))
            shown = None
            if self.preview:
                shown = Preview(
                    map_for(manifest.latent), manifest.latent.factor, bar, writing, self.quiet
                )

            def on_step(step: Step) -> None:
                bar.step(step)
                if shown is not None:
                    shown.step(step)

            for request in self._requests():
                index = len(self.pictures)
                if index == 0:
                    for line in pipe.plan(request).explain().splitlines():
                        log.info("plan: %s", line)
                bar.begin(index)
                if shown is not None:
                    shown.begin(self.target, index)
                result = pipe.generate(request, on_step=on_step, cancel=cancel)
                seed = result.seeds[0]
                text = infotext(result.request, seed, manifest, __version__)
                with writing:
                    path = self.target.save(
                        index, result.images[0], text if self.metadata else None
                    )
                self.pictures.append(Picture(path, seed, result))
                if shown is not None:
                    shown.end(result.images[0])
                if self.report is not None:
                    bar.hide()
                    self.report.picture(self.pictures[-1])

    def _requests(self) -> Iterator[Request]:
        """One request a picture: what is finished is kept, and memory is that of one picture.

        Where memory holds one part of the model at a time, each picture opens all of them again.
        Sampling every picture before decoding the first would open each part once, but on just
        these machines a picture takes minutes, and a failure or Ctrl-C would leave none of those
        that are done.
        """
        from sdlite.types import Request

        chosen = self.settings
        width, height = chosen["size"] or (None, None)
        for prompt in self.prompts:
            first: int | None = None
            for index in range(chosen["images"]):
                seed = chosen["seed"] if first is None else (first + index) % SEEDS
                yield Request(
                    prompt=prompt,
                    negative_prompt=chosen["negative"],
                    width=width,
                    height=height,
                    steps=chosen["steps"],
                    guidance=chosen["guidance"],
                    sampler=chosen["sampler"],
                    schedule=chosen["schedule"],
                    seed=seed,
                    rng=chosen["rng"],
                )
                if first is None:
                    first = self.pictures[-1].seed

    def closing_line(self) -> None:
        """Count, time and memory, on standard error."""
        count = len(self.pictures)
        words = [f"{count} picture{'s' if count > 1 else ''} in {self.seconds:.1f} s"]
        if count == 1:
            words.append(f"seed {self.pictures[0].seed}")
        peak = self._peak()
        if peak is not None:
            words.append(f"peak memory {readable(peak)}")
        tell(", ".join(words))

    def _peak(self) -> int | None:
        known = [picture.result.peak_bytes for picture in self.pictures]
        return max((peak for peak in known if peak is not None), default=None)

    def summary(self, error: BaseException | None) -> dict[str, Any]:
        """The object ``--json`` prints; docs/cli.md describes it."""
        return {
            "sdlite": __version__,
            "model": self.settings["model"],
            "images": [_describe(picture) for picture in self.pictures],
            "seconds": round(self.seconds, 4),
            "peak_bytes": self._peak(),
            "plan": describe_plan(self.pictures[0].result.plan) if self.pictures else None,
            "cancelled": self.cancelled,
            "error": None if error is None else " ".join(str(error).split()),
        }


def _describe(picture: Picture) -> dict[str, Any]:
    result = picture.result
    request = asdict(result.request)
    del request["seed"], request["images"]
    return {
        "path": str(picture.path.absolute()),
        "seed": picture.seed,
        **request,
        "seconds": round(result.seconds, 4),
        "peak_bytes": result.peak_bytes,
        "phases": [_rounded(asdict(phase)) for phase in result.phases],
        "notes": list(result.notes),
    }


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in fields.items()
    }


def describe_plan(plan: Plan) -> dict[str, Any]:
    """A plan without the tensor lists of its graphs."""
    return {
        "memory_mode": plan.memory_mode,
        "call_batch": plan.call_batch,
        "resident": plan.resident,
        "private_bytes": plan.private_bytes,
        "peak_bytes": plan.peak_bytes,
        "reasons": list(plan.reasons),
        "placements": [
            {
                "component": placement.component,
                "runtime": placement.device.runtime,
                "device": placement.device.name,
                "variant": placement.artifacts[0].variant,
                "precision": placement.artifacts[0].precision,
                "parts": len(placement.artifacts),
                "private_bytes": placement.private_bytes,
                "mapped_bytes": placement.mapped_bytes,
            }
            for placement in plan.placements
        ],
    }
