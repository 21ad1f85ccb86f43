"""Enlarging pictures, and reading what is written in them.

Resampling is done at once; a network takes its turn in the engine room as a drawing does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from sdlite.errors import UnknownName
from sdlite.server.a1111.lists import PIXEL_UPSCALERS
from sdlite.server.a1111.schema import ExtraBatch, Extras, ExtraSingle
from sdlite.server.jobs import Progress
from sdlite.server.problem import Refused, unsupported

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdlite.server.jobs import Job
    from sdlite.server.state import Server
    from sdlite.upscalers.files import UpscalerFile


Encode: TypeAlias = "Callable[[Image], str]"
"""Makes base64 of a picture."""
Way: TypeAlias = "str | UpscalerFile"
"""How to enlarge: the name of a way of resampling, or a network."""


def extra_single(
    server: Server, body: ExtraSingle, encode: Encode, job: Job | None
) -> dict[str, Any]:
    """``POST extra-single-image``; ``job`` is whose turn it is where a network is used."""
    words, picture = enlarged(server, server.intake().read(body.image), body, job)
    return {"html_info": f"<p>{words}</p>", "image": encode(picture)}


def extra_batch(
    server: Server, body: ExtraBatch, encode: Encode, job: Job | None
) -> dict[str, Any]:
    """``POST extra-batch-images``; ``job`` is whose turn it is where a network is used."""
    limits = server.limits
    if len(body.imageList) > limits.input_images:
        raise Refused(
            422,
            f"{len(body.imageList)} pictures; at most {limits.input_images} are read",
            "too_many_images",
        )
    words, images = "", []
    for item in body.imageList:
        # One after the other: a batch takes the memory of one picture.
        image = server.intake().read(item.data, "an image")
        words, picture = enlarged(server, image, body, job)
        images.append(encode(picture))
    return {"html_info": f"<p>{words}</p>", "images": images}


def networks(body: Extras) -> bool:
    """Whether a network is asked for; raises ``Refused`` for an upscaler that is not there."""
    ways = [_upscaler(body.upscaler_1)]
    if body.extras_upscaler_2_visibility > 0:
        ways.append(_upscaler(body.upscaler_2))
    return any(way is not None and not isinstance(way, str) for way in ways)


def enlarged(server: Server, image: Image, body: Extras, job: Job | None) -> tuple[str, Image]:
    """What was done, in A1111's words, and the picture.

    As there, the upscaler ``None`` leaves a picture as it is, whatever the size asked for.
    """
    limits = server.limits
    if body.gfpgan_visibility > 0:
        raise unsupported("gfpgan_visibility above 0")
    if body.codeformer_visibility > 0:
        raise unsupported("codeformer_visibility above 0")
    first = _upscaler(body.upscaler_1)
    second = _upscaler(body.upscaler_2)
    if first is None:
        return "Postprocess upscaler: None", image
    if body.resize_mode == 0:
        size = tuple(max(int(side * body.upscaling_resize), 1) for side in image.size)
        whole = size
        words = f"Postprocess upscale by: {body.upscaling_resize:g}"
    else:
        size = (body.upscaling_resize_w, body.upscaling_resize_h)
        # With a crop the picture covers the size, else it fits into it.
        shares = [wanted / side for wanted, side in zip(size, image.size, strict=True)]
        share = max(shares) if body.upscaling_crop else min(shares)
        whole = tuple(max(round(side * share), 1) for side in image.size)
        words = f"Postprocess upscale to: {size[0]}x{size[1]}"
    if whole[0] * whole[1] > limits.input_pixels or size[0] * size[1] > limits.input_pixels:
        raise Refused(
            422,
            f"a picture of {whole[0]}x{whole[1]}; at most {limits.input_pixels} pixels are made",
            "too_many_pixels",
        )
    done = _resized(server, image, whole, first, job)
    words += f", Postprocess upscaler: {_name(first)}"
    if second is not None and body.extras_upscaler_2_visibility > 0:
        from PIL import Image as Images

        other = _resized(server, image, whole, second, job)
        done = Images.blend(done, other, body.extras_upscaler_2_visibility)
        words += f", Postprocess upscaler 2: {_name(second)}"
    if body.resize_mode == 1 and body.upscaling_crop and whole != size:
        left, top = ((a - b) // 2 for a, b in zip(whole, size, strict=True))
        done = done.crop((left, top, left + size[0], top + size[1]))
        words += ", Postprocess crop to: True"
    return words, done


def _upscaler(name: str) -> Way | None:
    """An upscaler in any case; None for none."""
    from sdlite.upscalers.files import find_named

    for known in PIXEL_UPSCALERS:
        if known.casefold() == name.strip().casefold():
            return None if known == "None" else known
    try:
        return find_named(name.strip())
    except UnknownName as error:
        names = ", ".join((*PIXEL_UPSCALERS, *error.valid))
        raise Refused(
            404, f"Upscaler {name[:80]!r} not found; known: {names}", "not_found"
        ) from error


def _name(way: Way) -> str:
    return way if isinstance(way, str) else way.name


def _resized(
    server: Server, image: Image, size: tuple[int, ...], way: Way, job: Job | None
) -> Image:
    width, height = size
    if isinstance(way, str):
        from sdlite.edit.upscale import UPSCALERS

        return image.resize((width, height), UPSCALERS[way].pixels)
    from sdlite.upscalers.enlarge import upscale

    assert job is not None

    def on_tile(done: int, total: int) -> None:
        job.progress = Progress(step=done, steps=total)
        job.tell()

    setup = server.setup
    return upscale(
        image,
        way.path,
        size=(width, height),
        runtime=setup.runtime,
        device=setup.devices[job.place],
        threads=setup.threads,
        precision=setup.precision,
        max_memory=setup.max_memory,
        on_tile=on_tile,
        cancel=job.cancel,
    ).image


def png_info(server: Server, text: str) -> dict[str, Any]:
    """``POST png-info``: what is written in a picture."""
    from sdlite.metadata import EXIF_IFD, USER_COMMENT, decode_comment, parse

    image = server.intake().opened(text)
    items = {
        name: value
        for name, value in image.info.items()
        if isinstance(name, str) and isinstance(value, str)
    }
    written = items.pop("parameters", None)
    if written is None:
        comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
        written = decode_comment(comment) if isinstance(comment, str | bytes) else None
    if written is None:
        return {"info": "", "items": items, "parameters": {}}
    read = parse(written)
    parameters = {
        "Prompt": read.prompt,
        "Negative prompt": read.negative_prompt,
        **read.fields,
    }
    return {"info": written, "items": items, "parameters": parameters}
