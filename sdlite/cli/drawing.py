"""The work of the commands that draw: one picture after the other, each kept once it is there."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlite import __version__, home
from sdlite.cli.controls import NAMES as CONTROLS
from sdlite.cli.controls import read_controls
from sdlite.cli.describe import describe_picture, describe_plan
from sdlite.cli.edge import INTERRUPTED, tell
from sdlite.cli.interrupt import Job
from sdlite.cli.loras import read_embeddings, read_loras
from sdlite.cli.options import PICTURE_SETTINGS, load_settings
from sdlite.cli.progress import wanted
from sdlite.cli.table import readable
from sdlite.cli.wording import Wording, wording
from sdlite.errors import Cancelled
from sdlite.output import Destination, destination
from sdlite.settings import find_option

if TYPE_CHECKING:
    from sdlite.controls import Control
    from sdlite.loras import LoraUse
    from sdlite.pipeline import Pipeline
    from sdlite.types import Request, Result, Step

log = logging.getLogger("sdlite.cli")

SEEDS = 2**64
FLAGS = ("metadata", "overwrite", "preview", "progress", "quiet", "as_json")
LISTS = ("styles", "loras", "embeddings", *CONTROLS)
"""Options that are no settings with a value; ``LISTS`` may be given several times."""
COUNTS = ("full", "skipped")
"""What a phase counts of the model's answers."""

Change = Callable[["Request", "Pipeline"], "Request"]
"""What a command makes of a request with the common options, for an opened model."""
Work = Callable[["Pipeline", "Request", Callable[["Step"], object], threading.Event], "Result"]
"""``(pipe, request, on_step, cancel) -> Result``: how a picture is made."""


def generate_one(
    pipe: Pipeline, request: Request, on_step: Callable[[Step], object], cancel: threading.Event
) -> Result:
    """The usual work."""
    return pipe.generate(request, on_step=on_step, cancel=cancel)


@dataclass(frozen=True)
class DrawingOptions:
    """What the options of every command that draws say."""

    settings: Mapping[str, Any]
    """Parsed values by name."""
    metadata: bool
    """Whether pictures carry their parameters."""
    overwrite: bool
    """Whether files may be replaced."""
    preview: bool
    """Whether to show pictures grow."""
    progress: bool
    """Whether to show a bar."""
    quiet: bool
    """Whether nothing but paths is printed."""
    as_json: bool
    """Whether one JSON object is printed instead."""
    styles: tuple[str, ...]
    """Names of styles to add to the prompts."""
    loras: tuple[LoraUse, ...]
    """LoRAs to apply."""
    embeddings: tuple[Path, ...]
    """Files of embeddings."""
    controls: tuple[Control, ...]
    """Pictures to follow."""
    beside: Path
    """The folder of the settings file."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> DrawingOptions:
        """Options as click gives them; settings that were not given are looked up elsewhere."""
        values = load_settings()
        flags = {name: given[name] for name in FLAGS}
        for name in ("metadata", "preview"):
            flags[name] = values.get(name).value if flags[name] is None else flags[name]
        flags["progress"] = wanted(False if flags["quiet"] else flags["progress"])
        flags["styles"] = given["styles"]
        flags["loras"] = read_loras(given["loras"], given["lora_weight"])
        flags["embeddings"] = read_embeddings(given["embeddings"])
        flags["controls"] = read_controls({name: given[name] for name in CONTROLS})
        plain = (*FLAGS, *LISTS, "lora_weight")
        chosen = {
            name: values.get(name, text).value for name, text in given.items() if name not in plain
        }
        return cls(settings=chosen, beside=values.path.parent, **flags)

    @classmethod
    def of_one(cls, given: Mapping[str, Any]) -> DrawingOptions:
        """The same where a file says what is drawn, one picture: settings do not."""
        read = cls.read(
            dict.fromkeys(PICTURE_SETTINGS)
            | dict.fromkeys(LISTS, ())
            | {"lora_weight": 1.0}
            | dict(given)
        )
        plain = {name: find_option(name) for name in PICTURE_SETTINGS}
        unset = {
            name: None if option.default is None else option.parse(name, option.default)
            for name, option in plain.items()
        }
        return replace(read, settings={**read.settings, **unset})


def draw(
    ctx: click.Context,
    options: DrawingOptions,
    prompts: tuple[str, ...],
    change: Change = lambda request, _: request,
    work: Work = generate_one,
) -> None:
    """Draw a picture of each prompt, say what came of it, and exit as the command should."""
    chosen = options.settings
    words = wording(options.styles, chosen["styles_file"], chosen["wildcards"], options.beside)
    if not options.quiet and (note := words.note([*prompts, chosen["negative"]])):
        tell(f"note: {note}")
    job = Drawing(
        prompts=prompts,
        wording=words,
        settings=chosen,
        loras=options.loras,
        embeddings=options.embeddings,
        controls=options.controls,
        target=destination(
            chosen["output"],
            len(prompts) * chosen["images"],
            chosen["format"],
            options.overwrite,
        ),
        metadata=options.metadata,
        preview=options.preview,
        progress=options.progress,
        quiet=options.quiet,
        report=None if options.as_json else Lines(options.quiet),
        change=change,
        work=work,
    )
    try:
        Job(job.draw).run()
    finally:
        if options.as_json:
            click.echo(json.dumps(job.summary(sys.exc_info()[1]), indent=1))
    if job.cancelled:
        tell(f"stopped; {len(job.pictures)} of {job.total} pictures were finished and kept")
        ctx.exit(INTERRUPTED)
    if not options.as_json and not options.quiet:
        job.closing_line()


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
    """A job of a command that draws."""

    prompts: tuple[str, ...]
    """What to draw."""
    wording: Wording
    """What styles and wildcards make of it."""
    settings: Mapping[str, Any]
    """Parsed options by name."""
    loras: tuple[LoraUse, ...]
    """LoRAs to apply."""
    embeddings: tuple[Path, ...]
    """Files of embeddings."""
    controls: tuple[Control, ...]
    """Pictures to follow."""
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
    change: Change
    """What is made of each request."""
    work: Work
    """How a picture is made."""
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
        from sdlite.cli.fitting import Fitting
        from sdlite.cli.progress import Preview, StepBar
        from sdlite.forecast import learn
        from sdlite.preview import map_for

        chosen = self.settings
        with ExitStack() as stack:
            pipe: Pipeline = stack.enter_context(
                sdlite.load(
                    chosen["model"],
                    threads=chosen["threads"],
                    precision=chosen["precision"],
                    max_memory=chosen["max_memory"],
                    max_vram=chosen["max_vram"],
                    memory_mode=chosen["memory_mode"],
                    vae_tiles=chosen["vae_tiles"],
                    runtime=chosen["runtime"],
                    device=chosen["device"],
                    cache_limit=chosen["cache_limit"],
                    vae=chosen["vae"],
                )
            )
            manifest = pipe.package.manifest
            bar = stack.enter_context(StepBar(self.total, self.progress))
            shown = None
            if self.preview:
                decode = pipe.preview if pipe.previews else None
                latent = manifest.latent
                shown = Preview(map_for(latent), latent.factor, bar, writing, self.quiet, decode)

            def on_step(step: Step) -> None:
                bar.step(step)
                if shown is not None:
                    shown.step(step)

            fitted = Fitting(pipe, chosen["deadline"], self.total, self.quiet)
            for request in map(fitted, self._requests(pipe)):
                index = len(self.pictures)
                if index == 0:
                    for line in pipe.plan(request).explain().splitlines():
                        log.info("plan: %s", line)
                bar.begin(index)
                if shown is not None:
                    shown.begin(self.target, index)
                result = self.work(pipe, request, on_step, cancel)
                text = result.infotexts[0] if self.metadata else None
                with writing:
                    path = self.target.save(index, result.images[0], text)
                self.pictures.append(Picture(path, result.seeds[0], result))
                learn(home.folders().cache, result)
                if shown is not None:
                    shown.end(result.images[0])
                if self.report is not None:
                    bar.hide()
                    self.report.picture(self.pictures[-1])

    def _requests(self, pipe: Pipeline) -> Iterator[Request]:
        """One request a picture: what is finished is kept, and memory is that of one picture.

        Where memory holds one part of the model at a time, each picture opens all of them again.
        Sampling every picture before decoding the first would open each part once, but on just
        these machines a picture takes minutes, and a failure or Ctrl-C would leave none of those
        that are done.
        """
        from sdlite.request import draw_seed
        from sdlite.types import Request

        chosen = self.settings
        width, height = chosen["size"] or (None, None)
        varied = chosen["variation_strength"] > 0
        for prompt in self.prompts:
            first, variation = (
                draw_seed() if chosen[name] == -1 else chosen[name]
                for name in ("seed", "variation_seed")
            )
            for index in range(chosen["images"]):
                seed = first if varied else (first + index) % SEEDS
                words, negative = self.wording.apply(prompt, chosen["negative"], seed)
                request = Request(
                    prompt=words,
                    negative_prompt=negative,
                    width=width,
                    height=height,
                    steps=chosen["steps"],
                    guidance=chosen["guidance"],
                    sampler=chosen["sampler"],
                    schedule=chosen["schedule"],
                    seed=seed,
                    rng=chosen["rng"],
                    tiling=chosen["tiling"],
                    safety_checker=chosen["safety_checker"],
                    clip_skip=chosen["clip_skip"],
                    emphasis=chosen["emphasis"],
                    guidance_rescale=chosen["guidance_rescale"],
                    guidance_interval=chosen["guidance_interval"],
                    decoder=chosen["decoder"],
                    profile=chosen["profile"],
                    loras=self.loras,
                    embeddings=self.embeddings,
                    controls=self.controls,
                    variation_strength=chosen["variation_strength"],
                    variation_seed=(variation + index) % SEEDS if varied else -1,
                    seed_resize=chosen["seed_resize"],
                    seed_delta=chosen["ensd"],
                    eta=chosen["eta"],
                    s_churn=chosen["s_churn"],
                    s_tmin=chosen["s_tmin"],
                    s_tmax=chosen["s_tmax"],
                    s_noise=chosen["s_noise"],
                    sigmas=chosen["sigmas"],
                )
                yield self.change(request, pipe)

    def closing_line(self) -> None:
        """Count, time and memory, on standard error."""
        count = len(self.pictures)
        words = [f"{count} picture{'s' if count > 1 else ''} in {self.seconds:.1f} s"]
        if count == 1:
            words.append(f"seed {self.pictures[0].seed}")
        phases = [phase for picture in self.pictures for phase in picture.result.phases]
        full, skipped = (sum(getattr(phase, name) for phase in phases) for name in COUNTS)
        if skipped:
            words.append(f"{full} of {full + skipped} answers of the model computed")
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
            "images": [
                describe_picture(picture.path, picture.seed, picture.result)
                for picture in self.pictures
            ],
            "seconds": round(self.seconds, 4),
            "peak_bytes": self._peak(),
            "plan": describe_plan(self.pictures[0].result.plan) if self.pictures else None,
            "cancelled": self.cancelled,
            "error": None if error is None else " ".join(str(error).split()),
        }
