"""The routes of OpenAI's images API."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from sdlite.errors import SdliteError, UnknownName
from sdlite.server.call import Call, Endpoint, check_body, in_thread, outcome
from sdlite.server.events import changes, event, streaming
from sdlite.server.jobs import Job, Order
from sdlite.server.limits import check_images, check_prompts
from sdlite.server.native.schema import uses
from sdlite.server.openai.answers import Generated, ListedModel, ListedModels
from sdlite.server.openai.schema import EditForm, Generation, Images, VariationForm
from sdlite.server.pictures import MEDIA_TYPES, preview, to_base64
from sdlite.server.problem import Refused, message_of, status_of
from sdlite.server.state import Server

if TYPE_CHECKING:
    from sdlite.types import Edit, Request, Result

PREFIX = "/v1/"
THEIRS = re.compile(r"(dall-e|gpt-image|chatgpt-image)[\w.-]*")
"""Names of OpenAI's own models, which clients send unasked: they mean the default model."""
QUALITY = {"low": 0.5, "high": 1.5, "hd": 1.5}
"""How many times the model's own steps a quality takes."""
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
MASKED_STRENGTH = 1.0
EDIT_STRENGTH = 0.75
FORMATS = {"png": "png", "jpeg": "jpg", "webp": "webp"}
Form = TypeVar("Form", bound=Images)


def shape(status: int, error: BaseException) -> dict[str, Any]:
    """How OpenAI writes errors."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    param = None
    if isinstance(error, Refused) and error.details:
        param = ".".join(map(str, error.details[0]["loc"][1:])) or None
    elif isinstance(error, UnknownName):
        param = error.kind
    code = error.kind if isinstance(error, Refused) else None
    body = {"message": message_of(error), "type": kind, "param": param, "code": code}
    return {"error": body}


class Api:
    """OpenAI's routes over a server.

    Args:
        server: what they are over.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._started = int(time.time())

    def endpoints(self) -> list[Endpoint]:
        """Every route."""
        images = PREFIX + "images/"
        return [
            Endpoint(
                "POST",
                images + "generations",
                self._generate,
                "Draw pictures.",
                body=Generation,
                gives=Generated,
                streams=True,
            ),
            Endpoint(
                "POST",
                images + "edits",
                self._edit,
                "Edit a picture.",
                form=EditForm,
                gives=Generated,
                streams=True,
                files=("image", "mask"),
            ),
            Endpoint(
                "POST",
                images + "variations",
                self._vary,
                "Vary a picture.",
                form=VariationForm,
                gives=Generated,
                streams=True,
                files=("image",),
            ),
            Endpoint("GET", PREFIX + "models", self._models, "Models.", gives=ListedModels),
            Endpoint("GET", PREFIX + "models/{model}", self._model, "A model.", gives=ListedModel),
        ]

    async def _models(self, call: Call) -> Any:
        models = await in_thread(self._server.shelf.models)
        return {"object": "list", "data": [self._describe(model.name) for model in models]}

    async def _model(self, call: Call) -> Any:
        model = await in_thread(self._server.shelf.find, call.request.path_params["model"])
        return self._describe(model.name)

    def _describe(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "sdlite"}

    async def _generate(self, call: Call) -> Any:
        return await self._answer(call, call.body, None, "image_generation")

    async def _edit(self, call: Call) -> Any:
        body, files = await self._form(call, EditForm)
        edit = await in_thread(self._edit_of, body, files)
        return await self._answer(call, body, edit, "image_edit")

    async def _vary(self, call: Call) -> Any:
        body, files = await self._form(call, VariationForm)
        files.pop("mask", None)
        edit = await in_thread(self._edit_of, body, files)
        return await self._answer(call, body, edit, "image_edit")

    async def _form(self, call: Call, model: type[Form]) -> tuple[Form, dict[str, bytes]]:
        limits = self._server.limits
        most = {"max_files": limits.input_images, "max_part_size": limits.body_bytes}
        try:
            async with call.request.form(max_fields=100, **most) as form:
                fields: dict[str, Any] = {}
                files: dict[str, bytes] = {}
                for name, value in form.multi_items():
                    if not isinstance(value, UploadFile):
                        fields[name] = value
                        continue
                    name = name.removesuffix("[]")
                    if name in files:
                        raise Refused(400, f"more than one {name}; one is edited", "unsupported")
                    files[name] = await value.read()
        except HTTPException as error:
            raise Refused(
                400, f"the form cannot be read: {error.detail}", "invalid_form"
            ) from error
        body = check_body(model, fields)
        assert isinstance(body, model)
        return body, files

    def _edit_of(self, body: EditForm | VariationForm, files: dict[str, bytes]) -> Edit:
        from sdlite.types import Edit

        if "image" not in files:
            raise Refused(400, "there is no file named image", "missing_image")
        intake = self._server.intake()
        image = intake.read_file(files["image"])
        resize = None if body.size == "auto" else "crop"
        usual = EDIT_STRENGTH
        mask = None
        transparent = False
        if "mask" in files:
            mask = intake.read_file(files["mask"], "the mask")
            if mask.mode != "RGBA":
                raise Refused(
                    400,
                    "the mask has no transparent pixels, which are what is painted",
                    "invalid_mask",
                )
            usual = MASKED_STRENGTH
        elif image.mode == "RGBA" and isinstance(body, EditForm):
            transparent, usual = True, MASKED_STRENGTH
        strength = usual if body.strength is None else body.strength
        # In a mask of ours opaque is painted, in OpenAI's transparent.
        return Edit(
            image,
            strength=strength,
            mask=mask,
            alpha_mask=transparent,
            invert_mask=mask is not None,
            resize=resize,
        )

    async def _answer(
        self, call: Call, body: Generation | EditForm | VariationForm, edit: Edit | None, word: str
    ) -> Any:
        order = await in_thread(self._order, call.client, body, edit)
        job = self._server.room.submit(order)
        if body.stream:
            return streaming(self._stream(job, body, word), lambda: self._left(job))
        results = await call.wait(job)
        return await in_thread(lambda: JSONResponse(self._reply(body, results)))

    def _order(
        self, client: str, body: Generation | EditForm | VariationForm, edit: Edit | None
    ) -> Order:
        from sdlite.types import Request

        if body.background == "transparent":
            raise Refused(400, "a transparent background is not supported", "unsupported")
        check_images(body.n, self._server.limits)
        check_prompts(self._server.limits, body.prompt, body.negative_prompt)
        width, height = self._size(body.size)
        name = body.model
        if name is not None and THEIRS.fullmatch(name):
            name = None
        steps = body.steps
        if steps is None and body.quality in QUALITY:
            shelf = self._server.shelf
            usual = shelf.manifest(shelf.find(name)).defaults.steps
            steps = min(max(round(usual * QUALITY[body.quality]), 1), self._server.limits.steps)
        request = Request(
            prompt=body.prompt,
            negative_prompt=body.negative_prompt,
            width=width,
            height=height,
            steps=steps,
            guidance=body.guidance,
            sampler=body.sampler,
            schedule=body.schedule,
            seed=body.seed,
            edit=edit,
            loras=uses(body.loras),
        )
        return self._server.order(name, _one_each(request, body.n), client, "openai")

    def _size(self, text: str) -> tuple[int | None, int | None]:
        if text == "auto":
            return None, None
        match = SIZE.fullmatch(text)
        if match is None:
            raise Refused(
                400, f"size {text[:40]!r} is neither WIDTHxHEIGHT nor auto", "invalid_size"
            )
        return int(match[1]), int(match[2])

    def _reply(self, body: Images, results: list[Result]) -> dict[str, Any]:
        format = FORMATS[body.output_format]
        data = []
        for result in results:
            for image, text in zip(result.images, result.infotexts, strict=True):
                told = text if self._server.setup.metadata else None
                coded = to_base64(image, format, told, _quality(body))
                item: dict[str, Any] = {"b64_json": coded}
                if body.response_format == "url":
                    # Nothing is kept for a later visit: the URL is the picture.
                    item = {"url": f"data:{MEDIA_TYPES[format]};base64,{coded}"}
                data.append({**item, "seed": result.seeds[0]})
        return {"created": int(time.time()), "data": data, **_about(body, results[0])}

    def _left(self, job: Job) -> None:
        if not job.over:
            self._server.room.cancel(job)

    async def _stream(self, job: Job, body: Images, word: str) -> AsyncIterator[str]:
        shown, number = 0, 0
        seen: tuple[int, int] | None = None
        async for news in changes(job):
            if not news:
                yield ": waiting\n\n"
                continue
            now = job.progress
            if now.number != number:
                number, shown = now.number, 0
            due = now.steps and (shown + 1) * now.steps / (body.partial_images + 1)
            if shown < body.partial_images and due <= now.step < now.steps:
                picture = await in_thread(preview, self._server, job)
                if picture is not None and seen != (now.number, now.step):
                    seen = (now.number, now.step)
                    format = FORMATS[body.output_format]
                    coded = await in_thread(to_base64, picture, format, None, _quality(body))
                    about = _about(body, None, picture.size)
                    yield event(
                        f"{word}.partial_image",
                        {
                            "type": f"{word}.partial_image",
                            "b64_json": coded,
                            "partial_image_index": shown,
                            "created_at": int(time.time()),
                            **about,
                        },
                    )
                    shown += 1
        try:
            results = outcome(job)
        except SdliteError as error:
            yield event("error", {"type": "error", **shape(status_of(error), error)})
            return
        except Exception as error:
            yield event("error", {"type": "error", **shape(500, error)})
            return
        reply = await in_thread(self._reply, body, results)
        for item, result in zip(reply["data"], results, strict=True):
            yield event(
                f"{word}.completed",
                {
                    "type": f"{word}.completed",
                    "b64_json": item.get("b64_json") or item["url"].partition(",")[2],
                    "created_at": reply["created"],
                    **_about(body, result),
                },
            )


def _quality(body: Images) -> int | None:
    """``output_compression`` as encoders count; their scale has no 0."""
    return None if body.output_compression is None else max(body.output_compression, 1)


def _one_each(request: Request, count: int) -> list[Request]:
    """A request a picture, so that each is there as soon as it is drawn."""
    from dataclasses import replace

    from sdlite.request import draw_seed

    first = draw_seed() if request.seed == -1 else request.seed
    return [replace(request, seed=(first + index) % 2**64) for index in range(count)]


def _about(
    body: Images, result: Result | None, size: tuple[int, int] | None = None
) -> dict[str, Any]:
    width, height = size or (0, 0)
    if result is not None:
        width, height = result.images[0].size
    quality = {"standard": "medium", "hd": "high"}.get(body.quality, body.quality)
    return {
        "size": f"{width}x{height}",
        "quality": quality,
        "background": "opaque",
        "output_format": body.output_format,
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
            "output_tokens": 0,
            "total_tokens": 0,
        },
    }
