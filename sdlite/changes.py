"""One setting of a request changed by its name on the command line: for ``again`` and grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sdlite.errors import RequestError, UnknownName
from sdlite.settings import Parse, find_option, real, size, text_value, whole
from sdlite.types import Request

FIELDS = {
    "negative": "negative_prompt",
    "steps": "steps",
    "guidance": "guidance",
    "seed": "seed",
    "sampler": "sampler",
    "schedule": "schedule",
    "rng": "rng",
    "clip-skip": "clip_skip",
    "emphasis": "emphasis",
    "guidance-rescale": "guidance_rescale",
    "guidance-interval": "guidance_interval",
    "decoder": "decoder",
    "profile": "profile",
    "variation-strength": "variation_strength",
    "variation-seed": "variation_seed",
    "seed-resize": "seed_resize",
    "ensd": "seed_delta",
    "eta": "eta",
    "s-churn": "s_churn",
    "s-tmin": "s_tmin",
    "s-tmax": "s_tmax",
    "s-noise": "s_noise",
    "sigmas": "sigmas",
    "tiling": "tiling",
    "safety-checker": "safety_checker",
}
"""Settings that ``sdlite.settings`` reads, and what a request calls them."""
OTHERS: dict[str, Parse] = {
    "prompt": text_value,
    "size": size,
    "width": whole(8, 4096),
    "height": whole(8, 4096),
    "strength": real(0, 1),
    "image-guidance": real(0, 100),
    "noise-level": whole(0, 999),
    "mask-blur": real(0, 256),
    "mask-content": text_value,
    "hires": real(1, 8),
    "hires-strength": real(0, 1),
    "hires-steps": whole(1, 1000),
    "hires-upscaler": text_value,
    "hires-sampler": text_value,
    "hires-schedule": text_value,
    "hires-guidance": real(0, 100),
    "hires-prompt": text_value,
    "hires-negative": text_value,
}
"""Settings of a request that have no default of the user's."""
CHANGES = ("prompt", *FIELDS, *(name for name in OTHERS if name != "prompt"))
"""All names, in the order to show them."""
_EDITS = {
    "image-guidance": "image_guidance",
    "noise-level": "noise_level",
    "mask-blur": "mask_blur",
    "mask-content": "mask_content",
}


def spelled(name: str) -> str:
    """A setting's name as it is written here, whatever case and dashes were used."""
    return "-".join(name.strip().lower().replace("_", " ").replace("-", " ").split())


def parse_change(name: str, value: str, label: str) -> Any:
    """The value of a setting; ``label`` starts the message when it cannot be used.

    Raises:
        UnknownName: there is no such setting.
        RequestError: it cannot have this value.
    """
    if name in OTHERS:
        return OTHERS[name](f"{label} {name}", value)
    if name not in FIELDS:
        raise UnknownName("setting", name, CHANGES)
    return find_option(name).parse(f"{label} {name}", value)


def read_changes(texts: Sequence[str], label: str = "--change") -> dict[str, Any]:
    """Parsed values by name from ``KEY=VALUE``; raises what ``parse_change`` raises."""
    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise RequestError(f"{label} {text!r} is not KEY=VALUE, like steps=30")
        found[spelled(name)] = parse_change(spelled(name), value, label)
    return found


def changed(request: Request, changes: Mapping[str, Any]) -> Request:
    """A request with settings changed, by their names, to parsed values.

    What the changed ones decided goes with them: another sampler has its own schedule, other steps
    or another schedule other sigmas.

    Raises:
        RequestError: there is nothing such a setting could change.
    """
    rest = dict(changes)
    fields = {FIELDS[name]: rest.pop(name) for name in list(rest) if name in FIELDS}
    request = replace(request, **fields)
    if "sampler" in fields and "schedule" not in fields:
        request = replace(request, schedule=None)
    if {"steps", "schedule"} & set(fields) and "sigmas" not in fields:
        request = replace(request, sigmas=None)
    for name, value in rest.items():
        if name == "prompt":
            request = replace(request, prompt=value)
        elif name == "size":
            request = _resized(request, *value)
        elif name in ("width", "height"):
            request = _resized(request, **{name: value})
        elif name.startswith("hires"):
            request = _hires(request, name, value)
        else:
            request = _edit(request, name, value)
    return request


def _resized(request: Request, width: int | None = None, height: int | None = None) -> Request:
    edit = request.edit
    if edit is not None and edit.resize is None:
        edit = replace(edit, resize="stretch")
    return replace(
        request, width=width or request.width, height=height or request.height, edit=edit
    )


def _hires(request: Request, name: str, value: Any) -> Request:
    hires = request.hires
    if hires is None:
        if name != "hires":
            raise RequestError(f"{name} is about a second pass, and there is none")
        from sdlite.types import Hires

        return replace(request, hires=Hires(scale=value))
    if name == "hires":
        return replace(request, hires=replace(hires, scale=value, width=None, height=None))
    field = {"hires-negative": "negative_prompt"}.get(name, name.removeprefix("hires-"))
    return replace(request, hires=replace(hires, **{field: value}))


def _edit(request: Request, name: str, value: Any) -> Request:
    if request.edit is not None:
        return replace(request, edit=replace(request.edit, **{_EDITS.get(name, name): value}))
    if name == "strength" and request.hires is not None:
        return replace(request, hires=replace(request.hires, strength=value))
    raise RequestError(f"there is no {name} to change: the picture is drawn from nothing")
