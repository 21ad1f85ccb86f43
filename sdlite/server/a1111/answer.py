"""Results as txt2img and img2img answer them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sdlite import __version__
from sdlite.server.a1111.schema import Drawing, Img2Img
from sdlite.server.pictures import to_base64
from sdlite.server.shelf import HASH_DIGITS

if TYPE_CHECKING:
    from sdlite.server.a1111.drawing import Drawn
    from sdlite.server.jobs import Job
    from sdlite.server.state import Server
    from sdlite.types import Result


def timestamp(seconds: float) -> str:
    """Local time as A1111 writes it."""
    return datetime.fromtimestamp(seconds).strftime("%Y%m%d%H%M%S")


def answer(
    server: Server, body: Drawing, drawn: Drawn, job: Job, results: Sequence[Result]
) -> dict[str, Any]:
    """What a client gets; encodes pictures, so call it in a thread."""
    format = str(drawn.settings["samples_format"])
    quality = int(drawn.settings["jpeg_quality"])
    pictures = [
        (image, text)
        for result in results
        for image, text in zip(result.images, result.infotexts, strict=True)
    ]
    about = info(server, job, results, body.styles)
    if drawn.grid is not None:
        sheet = drawn.grid.sheet(results)
        alone = pictures if drawn.grid.alone else []
        pictures = [(sheet, about["infotexts"][0]), *alone]
        about["infotexts"] = [text for _, text in pictures]
        about["index_of_first_image"] = 1
        about["extra_generation_params"] |= {"Script": "X/Y/Z plot"}
        for axis, letter in zip(drawn.grid.axes, "XYZ", strict=False):
            about["extra_generation_params"][f"{letter} Type"] = axis.name
            about["extra_generation_params"][f"{letter} Values"] = ", ".join(axis.texts)
    metadata = server.setup.metadata
    if body.save_images and server.setup.output is not None:
        save(server, format, quality, pictures)
    images = []
    if body.send_images:
        images = [
            to_base64(image, format, text if metadata else None, quality)
            for image, text in pictures
        ]
    return {
        "images": images,
        "parameters": echo(body),
        "info": json.dumps(about),
    }


def save(server: Server, format: str, quality: int, pictures: Sequence[tuple[Any, str]]) -> None:
    """Write pictures into the server's folder, under the next free numbers."""
    from sdlite.output import Destination

    assert server.setup.output is not None
    target = Destination(server.setup.output, (), format, quality=quality)
    for number, (image, text) in enumerate(pictures):
        target.save(number, image, text if server.setup.metadata else None)


def echo(body: Drawing) -> dict[str, Any]:
    """The request as it was read, without its pictures unless they are asked for."""
    fields = body.model_dump()
    if isinstance(body, Img2Img) and not body.include_init_images:
        fields["init_images"] = fields["mask"] = None
    return fields


def info(
    server: Server, job: Job, results: Sequence[Result], styles: Sequence[str] = ()
) -> dict[str, Any]:
    """What A1111 tells about a job in ``info``."""
    request = results[0].request if results else job.order.requests[0]
    seeds = [seed for result in results for seed in result.seeds]
    variations = [seed for result in results for seed in result.variation_seeds]
    resized = request.seed_resize or (-1, -1)
    texts = [text for result in results for text in result.infotexts]
    model = server.shelf.find(job.order.model)
    strength = request.edit or request.hires
    return {
        "prompt": request.prompt,
        "all_prompts": [result.request.prompt for result in results for _ in result.seeds],
        "negative_prompt": request.negative_prompt,
        "all_negative_prompts": [
            result.request.negative_prompt for result in results for _ in result.seeds
        ],
        "seed": request.seed,
        "all_seeds": seeds,
        "subseed": variations[0] if variations else -1,
        "all_subseeds": variations or [-1] * len(seeds),
        "subseed_strength": request.variation_strength,
        "width": request.width,
        "height": request.height,
        "sampler_name": request.sampler,
        "cfg_scale": request.guidance,
        "steps": request.steps,
        "batch_size": request.images,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": model.name,
        "sd_model_hash": server.shelf.hash(model)[:HASH_DIGITS],
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": resized[0],
        "seed_resize_from_h": resized[1],
        "denoising_strength": None if strength is None else strength.strength,
        "extra_generation_params": extra(texts[0]) if texts else {},
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": list(styles),
        "job_timestamp": timestamp(job.created),
        "clip_skip": request.clip_skip,
        "is_using_inpainting_conditioning": server.shelf.manifest(model).task == "inpaint",
        "version": f"sdlite {__version__}",
        "notes": list(dict.fromkeys(note for result in results for note in result.notes)),
    }


USUAL = frozenset(
    {"Steps", "Sampler", "CFG scale", "Seed", "Size-1", "Size-2", "Model hash", "Model"}
    | {"Denoising strength", "Clip skip", "RNG", "Version"}
)
"""Parameters that have keys of their own."""


def extra(text: str) -> dict[str, str]:
    """The other parameters of an infotext."""
    from sdlite.metadata import parse

    fields = parse(text).fields
    return {name: value for name, value in fields.items() if name not in USUAL}
