"""The routes of A1111's API."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from sdlite.server.a1111 import answers as gives
from sdlite.server.a1111 import controlnet, lists
from sdlite.server.a1111.answer import answer
from sdlite.server.a1111.drawing import read_drawing
from sdlite.server.a1111.extras import Encode, extra_batch, extra_single, networks, png_info
from sdlite.server.a1111.infotext import filled
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
from sdlite.server.query import Query
from sdlite.server.state import Server

if TYPE_CHECKING:
    from sdlite.manifest import Manifest

PREFIX = "/sdapi/v1/"
NULL = type(None)
SCRIPTS = list[gives.ScriptInfo]
SKIP = Query("skip_current_image", "boolean", "Leave the preview out.")
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
        reads: tuple[tuple[str, Callable[[], Any], str, Any], ...] = (
            ("options", self._options.values, "Settings.", dict[str, Any]),
            ("cmd-flags", lambda: lists.flags(server), "The command line.", dict[str, Any]),
            ("samplers", lists.samplers, "Samplers.", list[gives.Sampler]),
            ("schedulers", lists.schedulers, "Noise schedules.", list[gives.Scheduler]),
            ("upscalers", lists.upscalers, "Upscalers over pixels.", list[gives.Upscaler]),
            (
                "latent-upscale-modes",
                lists.latent_upscale_modes,
                "Upscalers over latents.",
                list[gives.LatentMode],
            ),
            ("sd-models", lambda: lists.models(server), "Models.", list[gives.SdModel]),
            ("prompt-styles", lambda: lists.styles(server), "Styles.", list[gives.Style]),
            ("memory", lists.memory, "Memory in bytes.", gives.Memory),
            ("sd-vae", list, "VAEs; always none.", list[str]),
            ("hypernetworks", list, "Hypernetworks; always none.", list[str]),
            ("face-restorers", list, "Face restorers; always none.", list[str]),
            ("realesrgan-models", list, "Real-ESRGAN models; always none.", list[str]),
            ("loras", lists.loras, "LoRAs.", list[gives.WebuiLora]),
            ("embeddings", lists.embeddings, "Embeddings.", gives.WebuiEmbeddings),
            ("scripts", lists.scripts, "Scripts.", gives.Scripts),
            ("script-info", lists.script_info, "Scripts and what they take.", SCRIPTS),
            ("extensions", list, "Extensions; always none.", list[str]),
        )
        writes: tuple[tuple[str, Answer, str, Any, Any], ...] = (
            ("txt2img", self._draw, "Draw a picture from a prompt.", Txt2Img, gives.Drawn),
            ("img2img", self._draw, "Draw a picture from a picture.", Img2Img, gives.Drawn),
            (
                "extra-single-image",
                self._extra_single,
                "Enlarge a picture.",
                ExtraSingle,
                gives.Enlarged,
            ),
            (
                "extra-batch-images",
                self._extra_batch,
                "Enlarge pictures.",
                ExtraBatch,
                gives.EnlargedBatch,
            ),
            ("png-info", self._png_info, "Read what is in a picture.", PngInfo, gives.Told),
            ("interrogate", _interrogate, "Not supported.", Interrogate, None),
            ("options", self._set_options, "Change settings.", Settings, NULL),
            ("interrupt", _interrupt, "End your job, keep what there is.", None, gives.Empty),
            ("skip", _skip, "End the present batch, go on to the next.", None, NULL),
            ("unload-checkpoint", _unload, "Close the model.", None, gives.Empty),
            ("reload-checkpoint", _nothing, "Nothing: models open by themselves.", None, NULL),
            ("refresh-checkpoints", _refresh, "Look for models again.", None, NULL),
            ("refresh-vae", _nothing, "Nothing: models bring their own.", None, NULL),
            ("refresh-loras", _refresh, "Look for LoRAs again.", None, NULL),
            ("refresh-embeddings", _refresh, "Look for embeddings again.", None, NULL),
        )
        nets: tuple[tuple[str, Callable[[], Any], str, Any], ...] = (
            ("version", lambda: {"version": 2}, "Version of its API.", dict[str, int]),
            (
                "model_list",
                lambda: controlnet.model_list(self._manifest()),
                "ControlNets.",
                dict[str, list[str]],
            ),
            ("module_list", controlnet.module_list, "Preprocessors.", dict[str, Any]),
            (
                "control_types",
                lambda: controlnet.control_types(self._manifest()),
                "Both.",
                dict[str, Any],
            ),
            (
                "settings",
                lambda: {"control_net_unit_count": controlnet.MOST_UNITS},
                "How many units a request may have.",
                dict[str, int],
            ),
        )
        detect = controlnet.PREFIX + "detect"
        return [
            *(
                Endpoint("GET", controlnet.PREFIX + path, _in_thread(read), summary, gives=given)
                for path, read, summary, given in nets
            ),
            Endpoint(
                "POST",
                detect,
                self._detect,
                "Preprocess pictures.",
                controlnet.Detect,
                gives=gives.Detected,
            ),
            *(
                Endpoint("GET", PREFIX + path, _in_thread(read), summary, gives=given)
                for path, read, summary, given in reads
            ),
            Endpoint(
                "GET",
                PREFIX + "progress",
                self._progress,
                "How far your job is.",
                query=(SKIP,),
                gives=gives.Progress,
            ),
            *(
                Endpoint("POST", PREFIX + path, answer, summary, body, gives=given)
                for path, answer, summary, body, given in writes
            ),
            *(
                Endpoint(method, PREFIX + path, _lacking(path), "Not supported.")
                for method, path in LACKING
            ),
        ]

    async def _draw(self, call: Call) -> Any:
        body, server = await in_thread(filled, call.body), self._server
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
        picture = not call.query(SKIP)
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
