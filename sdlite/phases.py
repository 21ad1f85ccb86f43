"""The phases of a run: text, denoise, decode, each opened, measured and closed."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdlite.adapters import NOTHING, Adapters, Applied
from sdlite.calls import Predictor, in_calls_of
from sdlite.components import Components, FindRuntime, Meter
from sdlite.control.images import NO_IMAGES, ImagePrompt, look
from sdlite.control.scales import switches
from sdlite.control.steer import is_steered, steer
from sdlite.edit.request import Stage
from sdlite.edit.start import (
    Start,
    inpainting_channels,
    keeping,
    low_res_channels,
    picture_channels,
    start_edit,
    starting_latents,
    with_channels,
)
from sdlite.engine import Session
from sdlite.errors import Cancelled, NotFinite, RequestError
from sdlite.image.canvas import Canvas
from sdlite.image.pictures import from_picture, to_pictures
from sdlite.package import Package
from sdlite.planner import Plan
from sdlite.ports import (
    GUIDANCE,
    DecoderPort,
    EncoderPort,
    TextEncoderPort,
    TextFeatures,
    UnetPort,
    guidance_width,
)
from sdlite.profiles import QUALITY, find_profile
from sdlite.recorder import Recorder
from sdlite.registry import get as get_runtime
from sdlite.request import options_of, sampling_of, seeds_of, variation_of
from sdlite.sampling import (
    BatchNoise,
    NoiseLevels,
    Sparing,
    batch_noise,
    denoiser,
    final_latents,
    noise_for,
)
from sdlite.seamless import with_edges
from sdlite.text.conditioning import Conditioning, condition, with_added
from sdlite.text.encoder import Encode, Encoder
from sdlite.text.labels import encoding_of, guidance_embedding, labels_of, tokenizers_of
from sdlite.types import Denoise, Float32, Request, SamplerState, Step
from sdlite.weights.vae import COMPONENTS as VAE
from sdlite.weights.vae import Vae


class Phases:
    """What a pipeline does with a ``package``, phase by phase, as a plan says.

    ``vae`` is an autoencoder instead of the package's; ``runtime`` gives an engine's adapter.
    """

    def __init__(
        self, package: Package, vae: Vae | None = None, runtime: FindRuntime = get_runtime
    ) -> None:
        self._package = package
        replaced = {}
        if vae is not None:
            for part in (name for name in VAE if name in package.manifest.weights):
                replaced[part] = partial(vae.weights, package, part)
        self._components = Components(package, runtime, replaced)
        self._levels = NoiseLevels.from_table(package.manifest.noise)
        self._tokenizers = tokenizers_of(package)
        self.adapters = Adapters(package, self._tokenizers)

    def release(self) -> None:
        """Free the weights of what is idle; it is opened again when it is needed."""
        self._components.release()

    def close(self) -> None:
        """Free the weights; may be called twice."""
        self._components.close()

    def condition(
        self,
        request: Request,
        chosen: Plan,
        recorder: Recorder,
        earlier: int | None = None,
        more: bool = False,
        applied: Applied = NOTHING,
    ) -> Conditioning:
        """Prompts to what the U-Net is told.

        Args:
            request: settings of the run, completed.
            chosen: its plan.
            recorder: measures.
            earlier: in a second pass, the steps of the first. Prompts that change count on from
                there; in a first pass they count all steps of the schedule, as A1111 does.
            more: whether a second pass follows.
            applied: LoRAs and embeddings.
        """
        manifest = self._package.manifest
        encoding = encoding_of(manifest)
        with recorder.phase("text") as meter, ExitStack() as opened:
            encoders = [
                Encoder(
                    tokenizer,
                    self._encode(component, request, chosen, meter, opened, applied),
                    applied.words(component),
                )
                for component, tokenizer in zip(encoding.encoders, self._tokenizers, strict=True)
            ]
            return condition(
                encoders,
                request.prompt,
                request.negative_prompt,
                guided=chosen.shape.guided,
                steps=chosen.shape.steps if earlier else request.steps or 1,
                earlier=earlier,
                more=more,
                emphasis=request.emphasis,
                labels=labels_of(manifest, chosen.shape.width, chosen.shape.height),
            )

    def _encode(
        self,
        component: str,
        request: Request,
        chosen: Plan,
        meter: Meter,
        opened: ExitStack,
        applied: Applied,
    ) -> Encode:
        """A text encoder, opened when it is first needed; the one before is done then."""
        port: TextEncoderPort | None = None
        skip = max(request.clip_skip, encoding_of(self._package.manifest).clip_skip)
        words = applied.words(component)

        def encode(ids: npt.NDArray[np.int64]) -> TextFeatures:
            nonlocal port
            if port is None:
                opened.close()
                session = opened.enter_context(self._session(component, chosen, meter, applied))
                port = TextEncoderPort(session)
            if words is None:
                return port.encode(ids, clip_skip=skip)
            return port.encode(*words.look_up(ids), clip_skip=skip)

        return encode

    def guidance(self, request: Request) -> float:
        """The scale of guidance between prompt and negative prompt.

        A U-Net that is told the scale needs the prompt alone.
        """
        return 1.0 if self._guidance_width else float(request.guidance or 0.0)

    @property
    def _guidance_width(self) -> int | None:
        unet = (a for a in self._package.manifest.artifacts if a.component == "unet")
        return max((guidance_width(a.inputs) or 0 for a in unet), default=0) or None

    @property
    def upscales(self) -> bool:
        """Whether the U-Net takes a small picture, of which each pixel becomes a cell."""
        return self._package.manifest.task == "upscale"

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
        task, low_res = self._package.manifest.task, self._package.manifest.low_res
        if task == "edit":
            # Without a picture to follow the U-Net is told zeros (Brooks et al. 2023).
            start = replace(start, channels=np.zeros((1, *self.latent_shape(chosen)), np.float32))
        if low_res is not None and canvas is not None:
            return replace(start, channels=low_res_channels(canvas, request, low_res.noise))
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
            if task == "inpaint":
                size = (chosen.shape.width, chosen.shape.height)
                channels = inpainting_channels(canvas, size, encoder, latent.scale, latent.factor)
                if request.edit is not None and request.edit.rules == "diffusers":
                    # There only the channels know the mask, and at full strength the picture.
                    whole = request.edit.strength == 1
                    start = Start(stage.first) if whole else replace(start, mask=None)
                start = replace(start, channels=channels)
            elif task == "edit" and canvas is not None and request.edit is not None:
                channels = picture_channels(canvas, encoder)
                # At full strength only the channels know the picture, as in training.
                whole = request.edit.strength == 1 and request.edit.mask is None
                start = replace(Start(stage.first) if whole else start, channels=channels)
        return start

    def look(self, request: Request, chosen: Plan, recorder: Recorder) -> ImagePrompt:
        """What an IP-Adapter makes of the pictures of a completed request."""
        with recorder.phase("look") as meter:
            use = partial(self._session, chosen=chosen, meter=meter)
            return look(request, self._package.manifest, use)

    def _first_noise(self, request: Request, chosen: Plan) -> BatchNoise:
        variation = variation_of(request, self._package.manifest.latent.factor)
        return batch_noise(request.rng, seeds_of(request), self.latent_shape(chosen), variation)

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
        applied: Applied = NOTHING,
        images: ImagePrompt = NO_IMAGES,
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
            applied: LoRAs.
            images: what pictures say that are prompts.
        """
        manifest, shape = self._package.manifest, chosen.shape
        sampler, sigmas = sampling_of(request, manifest, self._levels, start.first)
        latent_shape = self.latent_shape(chosen)
        variation = variation_of(request, manifest.latent.factor)
        # The small picture of an upscaler had the first values.
        before = 3 * math.prod(latent_shape[1:]) if self.upscales else 0
        noise = noise_for(
            sampler, request.rng, seeds_of(request), latent_shape, self._levels, variation, before
        )
        if resume is not None and resume.x.shape != (shape.images, *latent_shape):
            raise RequestError(
                f"the state to resume has latents {resume.x.shape}, "
                f"this request needs {(shape.images, *latent_shape)}"
            )
        with (
            recorder.phase("denoise") as meter,
            self._session("unet", chosen, meter, applied) as session,
            ExitStack() as opened,
        ):
            told = images.over(conditioning.over(sigmas), sigmas)
            guidance = self.guidance(request)
            told = with_channels(told, start.channels, manifest.task, guidance, request.edit)
            if self._guidance_width:
                scale = guidance_embedding(float(request.guidance or 1.0), self._guidance_width)
                told = with_added(told, {GUIDANCE: scale})
            unet: Predictor = UnetPort(session)
            if is_steered(shape.controls):
                use = partial(self._session, chosen=chosen, meter=meter)
                unet, told = steer(session, told, sigmas, request, manifest, chosen, use, opened)
            denoise: Denoise = denoiser(
                in_calls_of(chosen.call_batch, unet),
                self._levels,
                manifest.prediction,
                told,
                guidance,
                rescale=request.guidance_rescale or 0.0,
                interval=request.guidance_interval,
                factor=sampler.guidance_factor,
                consistency=sampler.consistency,
            )
            highest = float(sigmas[0])
            denoise = sparing = Sparing(
                meter.counting(denoise, shape.guided),
                sigmas,
                find_profile(request.profile) if sampler.forecasts else QUALITY,
                (shape.images, *latent_shape),
                conditioning.changes | switches(request.controls, len(sigmas) - 1),
                resume.cache if resume is not None and resume.index else None,
            )
            if start.drawn:
                # diffusers' order: the first noise was the encoder's, the second is the run's.
                source = self._first_noise(request, chosen)
                source.seek(1)
                drawn = source(highest, highest)
                noise.seek(2)
            else:
                drawn = noise(highest, highest)
            first, clean = starting_latents(start, sampler, drawn, sigmas)
            if clean is not None and start.mask is not None:
                blind = highest if start.pure else math.inf
                denoise = keeping(denoise, clean, start.mask, blind)
            run = sampler.bind(self._levels, options_of(request))
            check_cancel(cancel)
            for step in run(denoise, first, sigmas, noise, resume):
                if not np.isfinite(step.x).all():
                    reason = f"latents are not finite after step {step.index + 1}"
                    raise self._failed(chosen, "unet", reason)
                if step.index + 1 == step.total:
                    x = final_latents(sampler, step.x, sigmas)
                    step = replace(step, x=x, state=replace(step.state, x=x))
                meter.skipped = sparing.forecast
                step = replace(step, state=replace(step.state, cache=sparing.cache))
                with recorder.outside():
                    yield step
                check_cancel(cancel)

    def decode(
        self,
        latents: Float32,
        chosen: Plan,
        recorder: Recorder,
        cancel: threading.Event | None,
    ) -> Iterator[Image.Image]:
        """Latents ``(batch, channels, rows, columns)`` of cells to RGB pictures, one by one."""
        scale = np.float32(1 if chosen.shape.tiny else self._package.manifest.latent.scale)
        with (
            recorder.phase("decode") as meter,
            self._session(chosen.decoder, chosen, meter) as session,
        ):
            decoder = DecoderPort(session)
            # One picture a call: the decoder's activations are the largest of a run.
            for index in range(len(latents)):
                check_cancel(cancel)
                pixels = decoder.decode(latents[index : index + 1] / scale)
                if not np.isfinite(pixels).all():
                    raise self._failed(
                        chosen,
                        chosen.decoder,
                        "the picture is not finite: values beyond the precision it was decoded in"
                        "; decode in float32 (--precision fp32), or use another VAE",
                    )
                for picture in to_pictures(pixels):
                    with recorder.outside():
                        yield picture

    def _failed(self, chosen: Plan, component: str, reason: str) -> NotFinite:
        device, graphs = chosen.placement(component).device, chosen.placement(component).artifacts
        return NotFinite(device.runtime, device.name, component, graphs[0].graph, reason)

    def _session(
        self, component: str, chosen: Plan, meter: Meter, applied: Applied = NOTHING
    ) -> AbstractContextManager[Session]:
        place, replaced = chosen.placement(component), applied.replaced(component)
        used = self._components.use(place, meter, chosen.resident, replaced)
        return with_edges(used, component, chosen.shape.tiling)


def check_cancel(cancel: threading.Event | None) -> None:
    """Raises ``Cancelled`` when somebody asked to stop."""
    if cancel is not None and cancel.is_set():
        raise Cancelled("stopped as asked")
