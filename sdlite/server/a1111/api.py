"""The routes of A1111's API."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from sdlite.server.a1111 import controlnet, lists
from sdlite.server.a1111.answer import answer
from sdlite.server.a1111.drawing import read_drawing
from sdlite.server.a1111.extras import Encode, extra_batch, extra_single, networks, png_info
from sdlite.server.a1111.options import Options
from sdlite.server.a1111.progress import progress
from sdlite.server.a1111.schema import (
    ExtraBatch,
    ExtraSingle,
    Img2Img,
    Interrogate,
    PngInfo,
    Settings,
    Txt2Img,
)
from sdlite.server.call import Answer, Call, Endpoint, in_thread
from sdlite.server.pictures import to_base64
from sdlite.server.problem import Refused, message_of, unsupported
from sdlite.server.state import Server

if TYPE_CHECKING:
    from sdlite.manifest import Manifest

PREFIX = "/sdapi/v1/"
LACKING = (
    ("POST", "create/embedding"),
    ("POST", "create/hypernetwork"),
    ("POST", "train/embedding"),
    ("POST", "train/hypernetwork"),
)


def shape(status: int, error: BaseException) -> dict[str, Any]:
    """How A1111 writes errors."""
    message = message_of(error)
    body: dict[str, Any] = {
        "error": "HTTPException",
        "detail": message,
        "body": "",
        "errors": message,
    }
    if isinstance(error, Refused):
        if error.details is not None:
            return body | {"error": "RequestValidationError", "detail": error.details}
        return body
    return body | {"error": type(error).__name__ if status < 500 else "Exception"}


class Api:
    """A1111's routes over a server.

    Args:
        server: what they are over.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._options = Options(server.shelf, server.setup.metadata)

    def endpoints(self) -> list[Endpoint]:
        """Every route."""
        server = self._server
        reads: tuple[tuple[str, Callable[[], Any], str], ...] = (
            ("options", self._options.values, "Settings."),
            ("cmd-flags", lambda: lists.flags(server), "Flags of the command line."),
            ("samplers", lists.samplers, "Samplers."),
            ("schedulers", lists.schedulers, "Noise schedules."),
            ("upscalers", lists.upscalers, "Upscalers over pixels."),
            ("latent-upscale-modes", lists.latent_upscale_modes, "Upscalers over latents."),
            ("sd-models", lambda: lists.models(server), "Models."),
            ("prompt-styles", lambda: lists.styles(server), "Styles."),
            ("memory", lists.memory, "Memory in bytes."),
            ("sd-vae", list, "VAEs; always none."),
            ("hypernetworks", list, "Hypernetworks; always none."),
            ("face-restorers", list, "Face restorers; always none."),
            ("realesrgan-models", list, "Real-ESRGAN models; always none."),
            ("loras", lists.loras, "LoRAs."),
            ("embeddings", lists.embeddings, "Embeddings."),
            ("scripts", lists.scripts, "Scripts."),
            ("script-info", lists.script_info, "Scripts and what they take."),
            ("extensions", list, "Extensions; always none."),
        )
        writes: tuple[tuple[str, Answer, str, Any], ...] = (
            ("txt2img", self._draw, "Draw a picture from a prompt.", Txt2Img),
            ("img2img", self._draw, "Draw a picture from a picture.", Img2Img),
            ("extra-single-image", self._extra_single, "Enlarge a picture.", ExtraSingle),
            ("extra-batch-images", self._extra_batch, "Enlarge pictures.", ExtraBatch),
            ("png-info", self._png_info, "Read what is written in a picture.", PngInfo),
            ("interrogate", _interrogate, "Not supported.", Interrogate),
            ("options", self._set_options, "Change settings.", Settings),
            ("interrupt", _interrupt, "End your job early and keep what there is.", None),
            ("skip", _skip, "End the present batch early and go on to the next.", None),
            ("unload-checkpoint", _unload, "Close the model.", None),
            ("reload-checkpoint", _nothing, "Nothing: models open when they are needed.", None),
            ("refresh-checkpoints", _refresh, "Look for models again.", None),
            ("refresh-vae", _nothing, "Nothing: models bring their own.", None),
            ("refresh-loras", _refresh, "Look for LoRAs again.", None),
            ("refresh-embeddings", _refresh, "Look for embeddings again.", None),
        )
        nets: tuple[tuple[str, Callable[[], Any], str], ...] = (
            ("version", lambda: {"version": 2}, "Version of the extension's API."),
            ("model_list", lambda: controlnet.model_list(self._manifest()), "ControlNets."),
            ("module_list", controlnet.module_list, "Preprocessors."),
            ("control_types", lambda: controlnet.control_types(self._manifest()), "Both."),
            (
                "settings",
                lambda: {"control_net_unit_count": controlnet.MOST_UNITS},
                "How many units a request may have.",
            ),
        )
        detect = controlnet.PREFIX + "detect"
        return [
            *(
                Endpoint("GET", controlnet.PREFIX + path, _in_thread(read), summary)
                for path, read, summary in nets
            ),
            Endpoint("POST", detect, self._detect, "Preprocess pictures.", controlnet.Detect),
            *(
                Endpoint("GET", PREFIX + path, _in_thread(read), summary)
                for path, read, summary in reads
            ),
            Endpoint("GET", PREFIX + "progress", self._progress, "How far your job is."),
            *(Endpoint("POST", PREFIX + path, *rest) for path, *rest in writes),
            *(
                Endpoint(method, PREFIX + path, _lacking(path), "Not supported.")
                for method, path in LACKING
            ),
        ]

    async def _draw(self, call: Call) -> Any:
        body, server = call.body, self._server
        settings = await in_thread(self._options.with_overrides, body.override_settings)
        drawn = await in_thread(read_drawing, server, body, settings)
        name = "txt2img" if isinstance(body, Txt2Img) else "img2img"
        order = await in_thread(
            server.order, settings["sd_model_checkpoint"], drawn.requests, call.client, name
        )
        job = server.room.submit(order)
        results = await call.wait(job)
        if not body.override_settings_restore_afterwards:
            await in_thread(self._options.set, body.override_settings)
        return await in_thread(lambda: JSONResponse(answer(server, body, drawn, job, results)))

    def _manifest(self) -> Manifest:
        """Of the model that is chosen."""
        shelf = self._server.shelf
        return shelf.manifest(shelf.find(self._options.with_overrides({})["sd_model_checkpoint"]))

    async def _detect(self, call: Call) -> Any:
        return await in_thread(controlnet.detect, self._server, call.body)

    async def _progress(self, call: Call) -> Any:
        skip = call.request.query_params.get("skip_current_image", "").lower()
        picture = skip not in ("true", "1", "yes", "on")
        return await in_thread(lambda: progress(self._server, call.client, picture=picture))

    async def _set_options(self, call: Call) -> Any:
        await in_thread(self._options.set, call.body.model_dump())

    async def _extra_single(self, call: Call) -> Any:
        return await self._enlarged(call, extra_single)

    async def _extra_batch(self, call: Call) -> Any:
        return await self._enlarged(call, extra_batch)

    async def _enlarged(self, call: Call, enlarge: Callable[..., dict[str, Any]]) -> Any:
        server, body, encode = self._server, call.body, self._encoder()
        if not await in_thread(networks, body):
            return await in_thread(enlarge, server, body, encode, None)
        job = server.task(call.client, "extras", lambda job: enlarge(server, body, encode, job))
        await call.wait(job)
        return job.value

    def _encoder(self) -> Encode:
        settings = self._options.with_overrides({})
        format, quality = settings["samples_format"], settings["jpeg_quality"]
        return lambda picture: to_base64(picture, format, None, quality)

    async def _png_info(self, call: Call) -> Any:
        return await in_thread(png_info, self._server, call.body.image)


def _in_thread(read: Callable[[], Any]) -> Answer:
    async def answer_with(call: Call) -> Any:
        return await in_thread(read)

    return answer_with


def _lacking(path: str) -> Answer:
    async def refuse(call: Call) -> Any:
        raise unsupported(path)

    return refuse


async def _interrogate(call: Call) -> Any:
    raise unsupported("interrogate")


async def _interrupt(call: Call) -> Any:
    for job in call.server.room.running(call.client):
        job.interrupt()
    return {}


async def _skip(call: Call) -> Any:
    for job in call.server.room.running(call.client):
        job.skip()


async def _unload(call: Call) -> Any:
    call.server.room.unload()
    return {}


async def _refresh(call: Call) -> Any:
    call.server.shelf.refresh()


async def _nothing(call: Call) -> Any:
    return None
