"""The phases of a run: text, denoise, decode, each opened, measured and closed."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from PIL import Image

from sdlite.components import Components, Meter
from sdlite.edit.request import Stage
from sdlite.edit.start import (
    Start,
    inpainting_channels,
    keeping,
    start_edit,
    starting_latents,
    with_channels,
)
from sdlite.engine import Session
from sdlite.errors import Cancelled, EngineError, RequestError
from sdlite.image.canvas import Canvas
from sdlite.image.pictures import from_picture, to_pictures
from sdlite.package import Package
from sdlite.planner import Plan
from sdlite.ports import DecoderPort, EncoderPort, TextEncoderPort, UnetPort, noisy_channels
from sdlite.recorder import Recorder
from sdlite.registry import get as get_runtime
from sdlite.request import seeds_of
from sdlite.sampling import (
    BatchNoise,
    NoiseLevels,
    Predict,
    batch_noise,
    denoiser,
    final_latents,
    noise_for,
    resolve,
    sigmas_for,
    skipped_levels,
)
from sdlite.text.conditioning import Conditioning, condition
from sdlite.text.encoder import Encoder
from sdlite.text.tokenizer import ClipTokenizer
from sdlite.types import Cond, Float32, Request, SamplerState, Step


class Phases:
    """What a pipeline does with a package, phase by phase, as a plan says.

    Args:
        package: the opened package.
    """

    def __init__(self, package: Package) -> None:
        self._package = package
        self._components = Components(package, get_runtime)
        self._levels = NoiseLevels.from_table(package.manifest.noise)
        self._tokenizer = ClipTokenizer.from_package(package)

    def close(self) -> None:
        """Free the weights; may be called twice."""
        self._components.close()

    def condition(
        self, request: Request, chosen: Plan, recorder: Recorder, earlier: int | None = None
    ) -> Conditioning:
        """Prompts to what the U-Net is told.

        Args:
            request: settings of the run, completed.
            chosen: its plan.
            recorder: measures.
            earlier: in a second pass, the steps of the first. Prompts that change count on from
                there; in a first pass they count the steps of the whole schedule, also where an
                edit starts in the middle of it, as A1111 does.
        """
        with (
            recorder.phase("text") as meter,
            self._session("text_encoder", chosen, meter) as session,
        ):
            port = TextEncoderPort(session)
            encoder = Encoder(
                self._tokenizer, lambda ids: port.encode(ids, clip_skip=request.clip_skip)
            )
            return condition(
                [encoder],
                request.prompt,
                request.negative_prompt,
                guided=chosen.shape.guided,
                steps=chosen.shape.steps if earlier else request.steps or 1,
                earlier=earlier,
                emphasis=request.emphasis,
            )

    @property
    def inpaints(self) -> bool:
        """Whether the U-Net takes a mask and a masked picture beside the noisy latents."""
        latent = self._package.manifest.latent
        for artifact in self._package.manifest.artifacts:
            if artifact.component == "unet" and artifact.index == 0:
                return noisy_channels(artifact.inputs) == 2 * latent.channels + 1
        return False

    def start(
        self,
        stage: Stage,
        chosen: Plan,
        recorder: Recorder,
        *,
        canvas: Canvas | None = None,
        latents: Float32 | None = None,
        pictures: Sequence[Image.Image] = (),
    ) -> Start:
        """Where a run begins: its pictures encoded.

        Args:
            stage: the run.
            chosen: its plan.
            recorder: measures.
            canvas: layout of the picture to edit.
            latents: of the run before, at the size of this one.
            pictures: of the run before, at the size of this one, instead of ``latents``.
        """
        latent, request = self._package.manifest.latent, stage.request
        start = Start(stage.first, latents)
        if not chosen.shape.encodes:
            return start
        with (
            recorder.phase("encode") as meter,
            self._session("vae_encoder", chosen, meter) as session,
        ):
            encoder = EncoderPort(session)
            if request.edit is not None and canvas is not None:
                drawn = self._first_noise(request, chosen)(0.0, 0.0)
                start = start_edit(request.edit, canvas, stage.first, encoder, latent.scale, drawn)
            elif pictures:
                # One picture a call, as in decoding.
                means = [encoder.encode(from_picture(picture)).mean for picture in pictures]
                start = replace(start, latents=np.concatenate(means) * np.float32(latent.scale))
            if self.inpaints:
                size = (chosen.shape.width, chosen.shape.height)
                channels = inpainting_channels(canvas, size, encoder, latent.scale, latent.factor)
                start = replace(start, channels=channels)
        return start

    def _first_noise(self, request: Request, chosen: Plan) -> BatchNoise:
        return batch_noise(request.rng, seeds_of(request), self.latent_shape(chosen))

    def latent_shape(self, chosen: Plan) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a plan."""
        latent, shape = self._package.manifest.latent, chosen.shape
        return latent.channels, shape.height // latent.factor, shape.width // latent.factor

    def denoise(
        self,
        request: Request,
        chosen: Plan,
        conditioning: Conditioning,
        start: Start,
        recorder: Recorder,
        cancel: threading.Event | None,
        resume: SamplerState | None = None,
    ) -> Iterator[Step]:
        """Noise to latents, step by step.

        Args:
            request: settings of the run, completed.
            chosen: its plan.
            conditioning: what is drawn.
            start: where it begins.
            recorder: measures.
            cancel: set from any thread, it ends the run with ``Cancelled``.
            resume: a ``Step.state`` of this run to go on from.
        """
        manifest = self._package.manifest
        shape = chosen.shape
        sampler, schedule = resolve(str(request.sampler), request.schedule)
        sdxl = manifest.family.startswith("sdxl")
        count = request.steps or 1
        whole = sigmas_for(schedule, self._levels, count, sampler, sdxl=sdxl)
        sigmas = whole[skipped_levels(whole, start.first, count) :]
        latent_shape = self.latent_shape(chosen)
        noise = noise_for(sampler, request.rng, seeds_of(request), latent_shape, self._levels)
        if resume is not None and resume.x.shape != (shape.images, *latent_shape):
            raise RequestError(
                f"the state to resume has latents {resume.x.shape}, "
                f"this request needs {(shape.images, *latent_shape)}"
            )
        with (
            recorder.phase("denoise") as meter,
            self._session("unet", chosen, meter) as session,
        ):
            told = conditioning.over(sigmas)
            if start.channels is not None:
                told = with_channels(told, start.channels)
            denoise = denoiser(
                _in_calls_of(chosen.call_batch, UnetPort(session)),
                self._levels,
                manifest.prediction,
                told,
                float(request.guidance or 0.0),
                rescale=request.guidance_rescale or 0.0,
                interval=request.guidance_interval,
                factor=sampler.guidance_factor,
                consistency=sampler.consistency,
            )
            if start.drawn:
                # diffusers' order: the first noise was the encoder's, the second is the run's.
                source = self._first_noise(request, chosen)
                source.seek(1)
                drawn = source(float(sigmas[0]), float(sigmas[0]))
                noise.seek(2)
            else:
                drawn = noise(float(sigmas[0]), float(sigmas[0]))
            first, clean = starting_latents(start, sampler, drawn, sigmas)
            if clean is not None and start.mask is not None:
                blind = float(sigmas[0]) if start.pure else math.inf
                denoise = keeping(denoise, clean, start.mask, blind)
            steps = sampler.bind(self._levels)(denoise, first, sigmas, noise, resume)
            check_cancel(cancel)
            for step in steps:
                if not np.isfinite(step.x).all():
                    raise EngineError(
                        chosen.placement("unet").device.runtime,
                        chosen.placement("unet").device.name,
                        "unet",
                        chosen.placement("unet").artifacts[0].graph,
                        f"latents are not finite after step {step.index + 1}",
                    )
                if step.index + 1 == step.total:
                    step = replace(step, x=final_latents(sampler, step.x, sigmas))
                with recorder.outside():
                    yield step
                check_cancel(cancel)

    def decode(
        self,
        latents: Float32,
        chosen: Plan,
        recorder: Recorder,
        cancel: threading.Event | None,
    ) -> tuple[Image.Image, ...]:
        """Latents ``(batch, channels, height/8, width/8)`` to RGB pictures."""
        pictures: list[Image.Image] = []
        scale = np.float32(self._package.manifest.latent.scale)
        with (
            recorder.phase("decode") as meter,
            self._session("vae_decoder", chosen, meter) as session,
        ):
            decoder = DecoderPort(session)
            # One picture a call: the decoder's activations are the largest of the whole run.
            for index in range(len(latents)):
                check_cancel(cancel)
                pictures.extend(to_pictures(decoder.decode(latents[index : index + 1] / scale)))
        return tuple(pictures)

    @contextmanager
    def _session(self, component: str, chosen: Plan, meter: Meter) -> Iterator[Session]:
        placement = chosen.placement(component)
        with self._components.use(placement, meter, keep=chosen.resident) as session:
            yield session


def _in_calls_of(most: int, port: UnetPort) -> Predict:
    """The U-Net in calls of at most ``most`` items."""

    def predict(x: Float32, timestep: Float32, cond: Cond) -> Float32:
        if len(x) <= most:
            return port.predict(x, timestep, cond.context, cond.added)
        pieces = [slice(start, start + most) for start in range(0, len(x), most)]
        return np.concatenate([predict(x[p], timestep[p], cond.take(p)) for p in pieces])

    return predict


def check_cancel(cancel: threading.Event | None) -> None:
    """Raises ``Cancelled`` when somebody asked to stop."""
    if cancel is not None and cancel.is_set():
        raise Cancelled("stopped as asked")
