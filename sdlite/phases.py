"""The phases of a run: text, denoise, decode, each opened, measured and closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from sdlite.components import Components, Meter
from sdlite.engine import Session
from sdlite.errors import Cancelled, EngineError, RequestError
from sdlite.image.pictures import to_pictures
from sdlite.package import Package
from sdlite.planner import Plan
from sdlite.ports import DecoderPort, TextEncoderPort, UnetPort
from sdlite.recorder import Recorder
from sdlite.registry import get as get_runtime
from sdlite.request import seeds_of
from sdlite.sampling import (
    NoiseLevels,
    Predict,
    denoiser,
    initial_latents,
    noise_for,
    resolve,
    sigmas_for,
)
from sdlite.text.conditioning import Conditioning, condition
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

    def condition(self, request: Request, chosen: Plan, recorder: Recorder) -> Conditioning:
        """Prompts to what the U-Net is told."""
        with (
            recorder.phase("text") as meter,
            self._session("text_encoder", chosen, meter) as session,
        ):
            return condition(
                TextEncoderPort(session).encode_text,
                self._tokenizer,
                request.prompt,
                request.negative_prompt,
                chosen.shape.guided,
            )

    def denoise(
        self,
        request: Request,
        chosen: Plan,
        conditioning: Conditioning,
        recorder: Recorder,
        cancel: threading.Event | None,
        resume: SamplerState | None = None,
    ) -> Iterator[Step]:
        """Noise to latents, step by step; the arguments are those of ``Pipeline.steps``."""
        manifest = self._package.manifest
        shape = chosen.shape
        sampler, schedule = resolve(str(request.sampler), request.schedule)
        sigmas = sigmas_for(schedule, self._levels, shape.steps, sampler)
        latent_shape = (
            manifest.latent.channels,
            shape.height // manifest.latent.factor,
            shape.width // manifest.latent.factor,
        )
        noise = noise_for(sampler, request.rng, seeds_of(request), latent_shape, sigmas)
        if resume is not None and resume.x.shape != (shape.images, *latent_shape):
            raise RequestError(
                f"the state to resume has latents {resume.x.shape}, "
                f"this request needs {(shape.images, *latent_shape)}"
            )
        with (
            recorder.phase("denoise") as meter,
            self._session("unet", chosen, meter) as session,
        ):
            denoise = denoiser(
                _in_calls_of(chosen.call_batch, UnetPort(session)),
                self._levels,
                manifest.prediction,
                conditioning.over(sigmas),
                float(request.guidance or 0.0),
                consistency=sampler.consistency,
            )
            drawn = noise(float(sigmas[0]), float(sigmas[0]))
            first = initial_latents(sampler, drawn, sigmas)
            steps = sampler.run(denoise, first, sigmas, noise, resume)
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
