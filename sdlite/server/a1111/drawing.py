"""Bodies of txt2img and img2img to requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdlite.choices import find_rng
from sdlite.errors import UnknownName
from sdlite.server.a1111.controlnet import SCRIPT, controls
from sdlite.server.a1111.grid import Grid, read_grid, wanted
from sdlite.server.a1111.schema import Drawing, Img2Img, Txt2Img
from sdlite.server.intake import Intake
from sdlite.server.limits import check_images, check_prompts
from sdlite.server.problem import Refused, unsupported

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdlite.server.state import Server
    from sdlite.types import Edit, Hires, Request

RESIZES = ("stretch", "crop", "fill")
CONTENTS = ("fill", "original", "noise", "nothing")
UNNAMED = ("", "none", "use same checkpoint", "use same sampler", "use same scheduler")
"""What says that nothing was chosen."""
HIRES_STRENGTH = 0.7
EDIT_STRENGTH = 0.75
IMAGE_GUIDANCE = 1.5
SEEDS = 2**64


@dataclass(frozen=True)
class Drawn:
    """What a body asks for."""

    requests: tuple[Request, ...]
    """One a batch."""
    settings: Mapping[str, Any]
    """The settings that hold for it."""
    grid: Grid | None = None
    """The X/Y/Z plot the requests are the cells of."""


def read_drawing(server: Server, body: Drawing, settings: Mapping[str, Any]) -> Drawn:
    """The requests of a body; decodes pictures, so call it in a thread.

    Raises:
        Refused: it has something that is not supported, or is beyond the limits.
        UnknownName: there is no such sampler, schedule, upscaler or style.
    """
    from sdlite.request import draw_seed

    _refuse_unsupported(body)
    prompt, negative = _styled(server, body)
    check_prompts(server.limits, prompt, negative)
    sampler, schedule = _sampler(body.sampler_name or body.sampler_index, body.scheduler)
    intake = server.intake()
    sizes, edits = _pictures(server, body, intake)
    first = draw_seed() if body.seed == -1 else body.seed
    varies = body.subseed_strength > 0
    second = draw_seed() if body.subseed == -1 else body.subseed
    resize = (body.seed_resize_from_w, body.seed_resize_from_h)
    model = server.shelf.find(settings["sd_model_checkpoint"])
    source = edits[0].image if edits[0] is not None else None
    hires = isinstance(body, Txt2Img) and body.enable_hr
    followed = controls(intake, body.alwayson_scripts, server.shelf.manifest(model), source, hires)
    options = _options(server, body, sampler, settings["sd_model_checkpoint"])
    batch = max(body.batch_size // len(edits), 1)
    check_images(batch * len(edits) * body.n_iter, server.limits)
    requests = []
    for number in range(body.n_iter * len(edits)):
        requests.append(
            _request(
                prompt=prompt,
                negative_prompt=negative,
                width=sizes[0],
                height=sizes[1],
                steps=body.steps,
                guidance=body.cfg_scale,
                sampler=sampler,
                schedule=schedule,
                seed=first if varies else (first + number * batch) % SEEDS,
                variation_strength=body.subseed_strength,
                variation_seed=(second + number * batch) % SEEDS if varies else -1,
                seed_resize=resize if min(resize) > 0 else None,
                seed_delta=settings["eta_noise_seed_delta"],
                images=batch,
                rng=find_rng(str(settings["randn_source"])),
                tiling="xy" if body.tiling else "",
                clip_skip=settings["CLIP_stop_at_last_layers"],
                emphasis=settings["emphasis"],
                edit=edits[number % len(edits)],
                hires=_hires(body) if isinstance(body, Txt2Img) else None,
                controls=followed,
                **options,
            )
        )
    if not wanted(body.script_name):
        return Drawn(tuple(requests), settings)
    if len(requests) != 1:
        raise unsupported("X/Y/Z plot with n_iter or several init_images")
    grid = read_grid(body, requests[0])
    check_images(len(grid.cells), server.limits)
    return Drawn(tuple(grid.requests()), settings, grid)


def _request(**fields: Any) -> Request:
    from sdlite.types import Request

    return Request(**fields)


def _refuse_unsupported(body: Drawing) -> None:
    if named(body.script_name) and not wanted(body.script_name):
        raise Refused(422, f"Script {str(body.script_name)[:80]!r} not found", "script_not_found")
    for name, value in body.alwayson_scripts.items():
        if name.casefold() != SCRIPT and _used(value):
            raise Refused(422, f"always on script {name[:80]!r} not found", "script_not_found")
    if body.restore_faces:
        raise unsupported("restore_faces")
    if named(body.refiner_checkpoint):
        raise unsupported("refiner_checkpoint")


def _used(script: Any) -> bool:
    """Whether a script that is always there was asked to do something."""
    arguments = script.get("args") if isinstance(script, dict) else script
    if not isinstance(arguments, list):
        return bool(arguments)
    for item in arguments:
        if isinstance(item, dict):
            if item and item.get("enabled", True) is not False:
                return True
        elif item not in (None, False, "", 0):
            return True
    return False


def named(text: str | None) -> bool:
    """Whether a name says something."""
    return text is not None and text.strip().casefold() not in UNNAMED


def _styled(server: Server, body: Drawing) -> tuple[str, str]:
    names = [name for name in body.styles if named(name)]
    if not names:
        return body.prompt, body.negative_prompt
    from sdlite.text.styles import apply_styles, find_styles, read_styles

    path = server.styles_file
    styles = find_styles(names, read_styles(path) if path.is_file() else {})
    return apply_styles(body.prompt, body.negative_prompt, styles)


def _sampler(sampler: str | None, schedule: str | None) -> tuple[str | None, str | None]:
    from sdlite.sampling import find_schedule, resolve

    chosen = sampler if named(sampler) else None
    wanted = schedule if named(schedule) else None
    try:
        if chosen is not None:
            resolve(chosen, wanted)
        elif wanted is not None and wanted.casefold() != "automatic":
            find_schedule(wanted)
    except UnknownName as error:
        # A1111's clients look for these words.
        word = "Scheduler" if error.kind == "schedule" else "Sampler"
        raise Refused(404, f"{word} not found: {error}", "sampler_not_found") from error
    return chosen, wanted


def _options(
    server: Server, body: Drawing, sampler: str | None, model: str | None
) -> dict[str, float]:
    """What the sampler takes of eta and its like: clients send them with every sampler."""
    from sdlite.sampling import find_sampler

    name = sampler or server.shelf.manifest(server.shelf.find(model)).defaults.sampler
    given = {option: getattr(body, option) for option in find_sampler(name).options}
    return {option: value for option, value in given.items() if value is not None}


def _pictures(
    server: Server, body: Drawing, intake: Intake
) -> tuple[tuple[int | None, int | None], list[Edit | None]]:
    """The size to draw, and what each picture of a batch begins with."""
    if isinstance(body, Txt2Img):
        if body.enable_hr and body.firstphase_width and body.firstphase_height:
            return (body.firstphase_width, body.firstphase_height), [None]
        return (body.width, body.height), [None]
    assert isinstance(body, Img2Img)
    if not body.init_images:
        raise Refused(404, "Init image not found", "init_image_not_found")
    limits = server.limits
    if len(body.init_images) > limits.input_images:
        raise Refused(
            422,
            f"{len(body.init_images)} pictures; at most {limits.input_images} are read",
            "too_many_images",
        )
    if body.resize_mode == 3:
        raise unsupported("resize_mode 3 (latent upscale)", "use 0, 1 or 2")
    if body.initial_noise_multiplier != 1:
        raise unsupported("initial_noise_multiplier other than 1")
    if named(body.latent_mask):
        raise unsupported("latent_mask", "use mask")
    mask = intake.read(body.mask, "mask") if named(body.mask) and body.mask else None
    edits: list[Edit | None] = []
    for number, text in enumerate(body.init_images):
        image = intake.read(text, f"init_images[{number}]")
        edits.append(_edit(body, image, mask))
    return (body.width, body.height), edits


def _edit(body: Img2Img, image: Image, mask: Image | None) -> Edit:
    from sdlite.types import Edit

    strength = EDIT_STRENGTH if body.denoising_strength is None else body.denoising_strength
    resize = None
    if body.width is not None or body.height is not None:
        resize = RESIZES[body.resize_mode]
    guidance = IMAGE_GUIDANCE if body.image_cfg_scale is None else body.image_cfg_scale
    if mask is None:
        return Edit(image, strength=strength, resize=resize, image_guidance=guidance)
    if body.mask_blur is None and body.mask_blur_x != body.mask_blur_y:
        raise unsupported("mask_blur_x other than mask_blur_y")
    return Edit(
        image,
        strength=strength,
        mask=mask,
        invert_mask=bool(body.inpainting_mask_invert),
        soft_mask=not body.mask_round,
        mask_blur=body.mask_blur_x if body.mask_blur is None else body.mask_blur,
        mask_content=CONTENTS[body.inpainting_fill],
        only_masked=body.inpaint_full_res,
        padding=body.inpaint_full_res_padding,
        resize=resize,
        image_guidance=guidance,
    )


def _hires(body: Txt2Img) -> Hires | None:
    from sdlite.types import Hires

    if not body.enable_hr:
        return None
    if named(body.hr_checkpoint_name):
        raise unsupported("hr_checkpoint_name")
    sampler, schedule = _sampler(body.hr_sampler_name, body.hr_scheduler)
    width, height = body.hr_resize_x or None, body.hr_resize_y or None
    if body.firstphase_width and body.firstphase_height:
        width, height = body.width, body.height
    strength = HIRES_STRENGTH if body.denoising_strength is None else body.denoising_strength
    return Hires(
        scale=body.hr_scale,
        width=width,
        height=height,
        upscaler=body.hr_upscaler,
        steps=body.hr_second_pass_steps or None,
        strength=strength,
        sampler=sampler,
        schedule=schedule,
        prompt=body.hr_prompt,
        negative_prompt=body.hr_negative_prompt,
        guidance=body.hr_cfg,
    )
