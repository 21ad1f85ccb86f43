"""Requests to pictures: plan, take turns, run the phases in order. No maths."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from types import TracebackType

from PIL import Image

from sdlite import __version__, downsampling, safety
from sdlite.adapters import Applied, hashes_of
from sdlite.components import FindRuntime
from sdlite.control.steer import components_of
from sdlite.controls import Control
from sdlite.edit.request import Stage, stages_of
from sdlite.engine import LoadOptions
from sdlite.errors import RequestError
from sdlite.ladder import Ladder
from sdlite.loras import LoraUse
from sdlite.manifest import TINY_DECODER
from sdlite.metadata import infotext
from sdlite.package import Package
from sdlite.phases import Phases, check_cancel
from sdlite.planner import Budget, Plan, Preferences, Relief, RequestShape, check, plan
from sdlite.profiles import find_profile
from sdlite.recorder import Recorder
from sdlite.registry import get as get_runtime
from sdlite.request import complete, seeds_of, variation_seeds_of
from sdlite.run import Run
from sdlite.text.prompt import evaluations
from sdlite.text.tags import with_tags
from sdlite.types import (
    Device,
    Edit,
    Float32,
    Hires,
    Request,
    Result,
    SamplerState,
    Step,
)
from sdlite.weights.vae import Vae

OnStep = Callable[[Step], object]
CANCEL_SECONDS = 0.1
"""How often a job that waits for its turn looks whether it was cancelled."""


class Pipeline:
    """A package ready to draw on this machine.

    Made by ``sdlite.load``; closed by ``with`` or ``close``. May be shared between threads:
    ``generate`` runs one job at a time, the others wait.

    Args:
        package: the opened package.
        devices: devices that can be used, best first.
        budget: limits set by the user.
        preferences: choices made by the user.
        vae: an autoencoder instead of the package's.
        runtime: gives the adapter of an engine by name.
    """

    def __init__(
        self,
        package: Package,
        devices: Sequence[Device],
        budget: Budget,
        preferences: Preferences,
        vae: Vae | None = None,
        runtime: FindRuntime = get_runtime,
    ) -> None:
        check(package, devices, preferences)
        self.package = package
        self.fields: dict[str, str] = {} if vae is None else vae.fields
        """Further fields of the pictures' parameters."""
        self._devices = tuple(devices)
        self._budget = budget
        self._preferences = preferences
        self._phases = Phases(package, vae, runtime)
        # One thread may draw inside its own `on_step`.
        self._turn = threading.RLock()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the weights; may be called twice. A closed pipeline cannot draw."""
        self._phases.close()

    def plan(self, request: Request) -> Plan:
        """What ``generate`` would do for this request; reads no weights.

        With ``hires`` it is the plan of the second pass, which needs more than the first.

        Raises:
            RequestError: the request cannot be carried out as written.
            NoPlan: it does not fit the budget.
        """
        full = self._completed(request)
        return self._plans(full, self._applied(full))[-1]

    def hashes(self, request: Request) -> dict[str, str]:
        """Hashes of the LoRAs and embeddings a request is drawn with, as its pictures tell them."""
        return hashes_of(self._applied(self._completed(request)))

    def _completed(self, request: Request) -> Request:
        """``complete``, and whether the package has what it asks for."""
        full = complete(request, self.package.manifest)
        if full.safety_checker:
            safety.checker_of(self.package)
        return full

    def _applied(self, full: Request) -> tuple[Applied, ...]:
        """LoRAs and embeddings of each run of a completed request."""
        return tuple(self._phases.adapters.of(stage.request) for stage in stages_of(full))

    def _plans(
        self, full: Request, applied: Sequence[Applied], relief: Relief | None = None
    ) -> tuple[Plan, ...]:
        """The plan of each run of a completed request."""
        return tuple(
            self._plan(
                replace(self._shape_of(stage), embeddings=each.embeds, replaced=each.sizes), relief
            )
            for stage, each in zip(stages_of(full), applied, strict=True)
        )

    def _checked(self, pictures: tuple[Image.Image, ...], run: Run) -> tuple[Image.Image, ...]:
        """Pictures the safety checker objects to made black, and told."""
        place = run.plans[-1].placement("vae_decoder")
        several = len(place.device.precisions) > 1 and "fp32" in place.device.precisions
        options = LoadOptions(place.options.threads, precision="fp32" if several else None)
        with run.recorder.phase("safety"):
            kept, objected = safety.checked(pictures, self.package, place.device, options)
        run.notes += [f"the safety checker made picture {i + 1} black" for i in objected]
        return kept

    def _run(self, full: Request, cancel: threading.Event | None) -> Run:
        if self._phases.upscales and full.edit is None:
            raise RequestError(
                f"{self.package.manifest.name} is an upscaler: it enlarges a picture, and there is "
                "none (sdlite edit PICTURE PROMPT; in Python an Edit)"
            )
        applied = self._applied(full)
        ladder = Ladder(lambda relief: self._plans(full, applied, relief), self._preferences)
        return Run(full, self._plans(full, applied), self._phases, cancel, applied, ladder)

    def _plan(self, shape: RequestShape, relief: Relief | None = None) -> Plan:
        wishes = self._preferences
        if relief is not None:
            wishes = replace(wishes, relief=relief)
        return plan(self.package, shape, self._devices, self._budget, wishes)

    def _shape_of(self, stage: Stage) -> RequestShape:
        request = stage.request
        if request.width is None or request.height is None or request.steps is None:
            raise AssertionError("the request was completed before")
        pixels = stage.upscaler is not None and stage.upscaler.latent is None
        prompts, guided = evaluations(request.prompt, self._phases.guidance(request))
        if guided and self.package.manifest.task == "edit":
            prompts += 1  # the picture without the prompt
        return RequestShape(
            width=request.width,
            height=request.height,
            images=request.images,
            steps=request.steps - stage.first,
            guided=guided,
            prompts=prompts,
            encodes=not self._phases.upscales
            and (request.edit is not None or pixels or self.package.manifest.task == "inpaint"),
            controls=components_of(request.controls, self.package.manifest),
            tiling=request.tiling,
            partly=guided and request.guidance_interval is not None,
            tiny=request.decoder == "tiny",
            downsampled=find_profile(request.profile).downsamples,
        )

    def generate(
        self,
        prompt: str | Request,
        *,
        negative_prompt: str = "",
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        schedule: str | None = None,
        seed: int = -1,
        images: int = 1,
        rng: str = "cpu",
        edit: Edit | None = None,
        hires: Hires | None = None,
        loras: Sequence[LoraUse] = (),
        embeddings: Sequence[Path] = (),
        controls: Sequence[Control] = (),
        profile: str = "quality",
        resume: SamplerState | None = None,
        on_step: OnStep | None = None,
        cancel: threading.Event | None = None,
        stop: threading.Event | None = None,
    ) -> Result:
        """Draw.

        Args:
            prompt: what to draw, or a whole ``Request``, which the other fields then do not touch.
            negative_prompt: what to steer away from.
            width: pixels, a multiple of the model's cells, 8 as a rule; None is the model's own.
            height: pixels, a multiple of the model's cells, 8 as a rule; None is the model's own.
            steps: intervals of the schedule, 1 to 1000.
            guidance: guidance scale, 0 to 100; 1 or less turns it off.
            sampler: name in any usual spelling, also joined with a schedule.
            schedule: name in any usual spelling.
            seed: 0 to 2**64-1; -1 draws one. Image i uses ``seed + i``.
            images: pictures in one batch, 1 to 64.
            rng: ``cpu`` (torch's stream), ``nv`` (NVIDIA's Philox) or ``numpy``.
            edit: a picture to start from, and where to paint; width and height are then its own.
            hires: a second, larger pass.
            loras: LoRAs beside those the prompt names in tags, ``<lora:name:0.8>``.
            embeddings: files of textual inversions; those in the model folders are known by name.
            controls: pictures to follow, each read by an adapter that was added to the package.
            profile: ``quality``, ``balanced``, ``fast`` or ``draft``: how far to go from the
                model's own answer to save time.
            resume: a ``Step.state`` of the same whole ``Request``, to go on from there to the bit.
            on_step: called after each step, in the same thread.
            cancel: set from any thread, it ends the job with ``Cancelled`` after the engine call,
                or the segment of one, it is at.
            stop: set from any thread, it ends sampling after the current step too, but what the
                model took the picture for at that moment is decoded and returned, with a note.

        Returns:
            Pictures, seeds, the plan, and what each phase cost.

        Raises:
            RequestError: the request cannot be carried out as written.
            Cancelled: ``cancel`` was set.
            EngineError: an engine failed.
        """
        if isinstance(prompt, Request):
            request = prompt
        else:
            request = Request(
                prompt=prompt,
                negative_prompt=negative_prompt,
                width=width,
                height=height,
                steps=steps,
                guidance=guidance,
                sampler=sampler,
                schedule=schedule,
                seed=seed,
                images=images,
                rng=rng,
                edit=edit,
                hires=hires,
                loras=tuple(loras),
                embeddings=tuple(embeddings),
                controls=tuple(controls),
                profile=profile,
            )
        request = self._completed(request)
        with _turn(self._turn, cancel):
            start = time.perf_counter()
            run = self._run(request, cancel)
            latents, stage = (None, -1) if resume is None else (resume.x, resume.stage)
            with closing(run.steps(resume)) as steps_run:
                for step in steps_run:
                    latents, stage = step.x, step.state.stage
                    if on_step is not None:
                        on_step(step)
                    if stop is not None and stop.is_set() and step.index + 1 < step.total:
                        latents = step.x0
                        run.notes.append(f"stopped after step {step.index + 1} of {step.total}")
                        break
            if latents is None:
                raise AssertionError("a schedule has at least one interval")
            pictures = run.finish(latents, stage)
            if request.safety_checker:
                pictures = self._checked(pictures, run)
            # A precision that gave no numbers will give none the next time either.
            relief = replace(self._preferences.relief, precisions=run.ladder.wider)
            self._preferences = replace(self._preferences, relief=relief)
            # Fewer pictures than seeds when memory ran out after some were finished.
            seeds = seeds_of(request)[: len(pictures)]
            variations = variation_seeds_of(request)[: len(pictures)]
            manifest = self.package.manifest
            told_calls = run.recorder.fields(request.images) | downsampling.fields(run.plans)
            safe = {safety.FIELD: "on"} if request.safety_checker else {}
            told = replace(request, prompt=with_tags(request.prompt, request.loras))
            return Result(
                images=pictures,
                seeds=seeds,
                request=request,
                plan=run.plans[-1],
                phases=tuple(run.recorder.reports),
                seconds=time.perf_counter() - start,
                peak_bytes=run.recorder.peak_bytes,
                notes=(*run.ladder.steps, *run.notes, *run.recorder.notes),
                relieved=tuple(run.ladder.steps),
                infotexts=tuple(
                    infotext(
                        told,
                        seed,
                        manifest,
                        __version__,
                        {**self.fields, **hashes_of(run.applied), **told_calls, **safe},
                        variation_seed=variation,
                    )
                    for seed, variation in zip_longest(seeds, variations)
                ),
                variation_seeds=variations,
            )

    def steps(
        self,
        request: Request,
        *,
        resume: SamplerState | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[Step]:
        """Sample step by step; ``decode`` turns a step's ``x0`` or ``x`` into pictures.

        Args:
            request: the job. Its seed must be given when the run is to be resumed.
            resume: a ``Step.state`` of the same request, to go on from there to the bit.
            cancel: set from any thread, it ends the run with ``Cancelled``.

        Raises:
            RequestError: the request, or ``resume``, does not fit.
            Cancelled: ``cancel`` was set.
        """
        full = complete(request, self.package.manifest)
        yield from self._run(full, cancel).steps(resume)

    def decode(self, latents: Float32) -> tuple[Image.Image, ...]:
        """Latents ``(batch, channels, rows, columns)`` of cells to RGB pictures."""
        latent = self.package.manifest.latent
        if latents.ndim != 4 or latents.shape[1] != latent.channels:
            raise RequestError(
                f"latents have shape {latents.shape}, not (batch, {latent.channels}, height, width)"
            )
        return self._decoded(latents, tiny=False)

    @property
    def previews(self) -> bool:
        """Whether ``preview`` can be asked: a tiny decoder is there."""
        return any(a.component == TINY_DECODER for a in self.package.manifest.artifacts)

    def preview(self, latents: Float32) -> Image.Image:
        """What a tiny decoder makes of the first of some latents, e.g. of ``Step.x0``."""
        return self._decoded(latents[:1], tiny=True)[0]

    def _decoded(self, latents: Float32, tiny: bool) -> tuple[Image.Image, ...]:
        factor = self.package.manifest.latent.factor
        batch, _, height, width = latents.shape
        shape = RequestShape(width * factor, height * factor, batch, 1, False, tiny=tiny)
        return tuple(self._phases.decode(latents, self._plan(shape), Recorder(), None))


@contextmanager
def _turn(lock: threading.RLock, cancel: threading.Event | None) -> Iterator[None]:
    """Hold the lock; who is asked to stop while waiting for it raises ``Cancelled``."""
    while not lock.acquire(timeout=CANCEL_SECONDS):
        check_cancel(cancel)
    try:
        check_cancel(cancel)
        yield
    finally:
        lock.release()
