"""One job from its first run of the sampler to its pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from PIL import Image

from sdlite.adapterentry import IMAGE_ENCODER, kind_of
from sdlite.adapters import Applied
from sdlite.control.images import NO_IMAGES
from sdlite.edit.request import stages_of
from sdlite.edit.start import Start, lay_out_edit
from sdlite.edit.upscale import scale_latents
from sdlite.errors import RequestError
from sdlite.ladder import FAILURES, Failure, Ladder
from sdlite.phases import Phases, check_cancel
from sdlite.planner import Plan
from sdlite.recorder import Recorder
from sdlite.request import unused_options
from sdlite.text.conditioning import Conditioning
from sdlite.types import Float32, Request, SamplerState, Step
from sdlite.upscalers.enlarge import enlarge_to
from sdlite.upscalers.files import UpscalerFile
from sdlite.upscalers.network import Upscaler

Made = TypeVar("Made")


class Run:
    """A completed request being carried out.

    Args:
        request: completed.
        plans: one for each of its stages.
        phases: what does the work.
        cancel: set from any thread, it ends the job with ``Cancelled``.
        applied: LoRAs and embeddings of each stage.
        ladder: what to do when memory runs out on the way, or values are not finite.

    Raises:
        RequestError: the mask of an edit is empty.
    """

    def __init__(
        self,
        request: Request,
        plans: Sequence[Plan],
        phases: Phases,
        cancel: threading.Event | None,
        applied: Sequence[Applied],
        ladder: Ladder,
    ) -> None:
        self.plans = tuple(plans)
        self.applied = tuple(applied)
        self.recorder = Recorder(partial(check_cancel, cancel))
        self.notes = list(unused_options(request))
        self._tell(plans)
        self.ladder = ladder
        self._stages = stages_of(request)
        self._phases = phases
        self._cancel = cancel
        self._images = NO_IMAGES
        self._canvas = None
        if request.edit is not None:
            shape, (_, rows, columns) = self.plans[0].shape, phases.latent_shape(self.plans[0])
            # Of an upscaler's picture a pixel is a cell.
            size = (columns, rows) if phases.upscales else (shape.width, shape.height)
            self._canvas, notes = lay_out_edit(request.edit, size)
            self.notes.extend(notes)

    def _tell(self, plans: Sequence[Plan]) -> None:
        """Note what plans leave out."""
        told = dict.fromkeys(note for plan in plans for note in plan.notes)
        self.notes += [note for note in told if note not in self.notes]

    def steps(self, resume: SamplerState | None = None) -> Generator[Step, None, None]:
        """Every step of every stage, counted through.

        Raises:
            RequestError: ``resume`` does not belong to this job.
            Cancelled: somebody asked to stop.
        """
        first, base = 0, None
        if resume is not None:
            first, base = resume.stage, resume.base
            if not 0 <= first < len(self._stages) or (base is None) != (first == 0):
                raise RequestError(f"cannot resume stage {first} of this job")
        lengths = [plan.shape.steps for plan in self.plans]
        for number in range(first, len(self._stages)):
            check_cancel(self._cancel)
            conditioning = self._in_turn(number, "text_encoder", partial(self._condition, number))
            check_cancel(self._cancel)
            start = self._in_turn(number, "vae_encoder", partial(self._start, number, base))
            check_cancel(self._cancel)
            self._look(number)
            check_cancel(self._cancel)
            state = resume if number == first else None
            latents = None if state is None else state.x
            for step in self._denoise(number, conditioning, start, state):
                latents = step.x
                yield replace(
                    step,
                    index=step.index + sum(lengths[:number]),
                    # A sampler may take more or fewer intervals than it was asked for.
                    total=sum(lengths) - lengths[number] + step.total,
                    state=replace(step.state, stage=number, base=base),
                )
            base = latents

    def _in_turn(self, number: int, component: str, work: Callable[[], Made]) -> Made:
        """Do the work of a phase, again and again as long as the ladder has a rung for it."""
        while True:
            try:
                return work()
            except FAILURES as error:
                self._step_down(number, component, error)

    def _step_down(self, number: int, component: str, error: Failure) -> None:
        """Take the next rung; raises the error when there is none."""
        plans = self.ladder.down(self.plans, number, error, component)
        if plans is None:
            raise error
        self.plans = plans
        self._tell(plans)
        # What stayed open is of the old plan, and in the way.
        self._phases.release()

    def _condition(self, number: int) -> Conditioning:
        stage, applied = self._stages[number], self.applied[number]
        conditioning = self._phases.condition(
            stage.request,
            self.plans[number],
            self.recorder,
            self._stages[0].request.steps if number else None,
            more=number + 1 < len(self._stages),
            applied=applied,
        )
        told = (*applied.notes, *conditioning.notes)
        self.notes.extend(note for note in told if note not in self.notes)
        return conditioning

    def _look(self, number: int) -> None:
        """Look at pictures that are prompts: once for all runs of the job."""
        encoders = [
            name for name in self.plans[number].shape.controls if kind_of(name) == IMAGE_ENCODER
        ]
        if encoders and not self._images.seen:
            request = self._stages[number].request
            self._images = self._in_turn(
                number,
                encoders[0],
                lambda: self._phases.look(request, self.plans[number], self.recorder),
            )

    def _denoise(
        self, number: int, conditioning: Conditioning, start: Start, state: SamplerState | None
    ) -> Iterator[Step]:
        """The steps of a stage, going on from the last one that was finished."""
        while True:
            steps = self._phases.denoise(
                self._stages[number].request,
                self.plans[number],
                conditioning,
                start,
                self.recorder,
                self._cancel,
                state,
                self.applied[number],
                self._images,
            )
            try:
                for step in steps:
                    state = step.state
                    yield step
                return
            except FAILURES as error:
                self._step_down(number, "unet", error)

    def _start(self, number: int, base: Float32 | None) -> Start:
        stage, plan = self._stages[number], self.plans[number]
        if base is None or stage.upscaler is None:
            return self._phases.start(stage, plan, self.recorder, canvas=self._canvas)
        if stage.upscaler.latent is not None:
            _, height, width = self._phases.latent_shape(plan)
            latents = scale_latents(base, height, width, stage.upscaler.latent)
            return self._phases.start(stage, plan, self.recorder, latents=latents)
        before = self.plans[number - 1]
        small = tuple(self._phases.decode(base, before, self.recorder, self._cancel))
        check_cancel(self._cancel)
        size = (plan.shape.width, plan.shape.height)
        if stage.upscaler.network is not None:
            pictures = self._enlarged(small, stage.upscaler.network, size, plan)
        else:
            pictures = [picture.resize(size, stage.upscaler.pixels) for picture in small]
        return self._phases.start(stage, plan, self.recorder, pictures=pictures)

    def _enlarged(
        self, small: Sequence[Image.Image], file: UpscalerFile, size: tuple[int, int], plan: Plan
    ) -> list[Image.Image]:
        """Pictures to a size by a network, on the engine and device of the autoencoder."""
        placement = plan.placement("vae_encoder")
        with (
            self.recorder.phase("upscale") as meter,
            Upscaler(
                file,
                runtime=placement.device.runtime,
                device=placement.device.name,
                threads=placement.options.threads,
                precision=placement.options.precision,
            ) as network,
        ):
            made = [enlarge_to(network, item, size, meter.count, self._cancel) for item in small]
            meter.precision = network.precision
        return made

    def _decode(self, latents: Float32, number: int) -> tuple[Image.Image, ...]:
        """Pictures one by one; those that are finished are kept when no more can be."""
        pictures: list[Image.Image] = []
        while len(pictures) < len(latents):
            rest = latents[len(pictures) :]
            try:
                for picture in self._phases.decode(
                    rest, self.plans[number], self.recorder, self._cancel
                ):
                    pictures.append(picture)
            except FAILURES as error:
                try:
                    self._step_down(number, self.plans[number].decoder, error)
                except FAILURES:
                    if not pictures:
                        raise
                    self.notes.append(
                        f"only {len(pictures)} of {len(latents)} pictures were finished: {error}"
                    )
                    break
        return tuple(pictures)

    def finish(self, latents: Float32, stage: int = -1) -> tuple[Image.Image, ...]:
        """The job's pictures from the latents of its last step; ``stage`` is the one they are of,
        and not the last when the job was stopped early."""
        check_cancel(self._cancel)
        pictures = self._decode(latents, stage % len(self.plans))
        if self._canvas is None or self._phases.upscales:
            return pictures
        return tuple(self._canvas.finish(picture) for picture in pictures)
