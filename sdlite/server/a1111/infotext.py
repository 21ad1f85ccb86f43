"""The field ``infotext``: settings read from a picture's parameters where a body has none."""

from __future__ import annotations

from typing import TypeVar

from sdlite.server.a1111.schema import Drawing, Img2Img
from sdlite.server.call import check_body

Body = TypeVar("Body", bound=Drawing)

FIELDS = {
    "Steps": "steps",
    "Sampler": "sampler_name",
    "Schedule type": "scheduler",
    "CFG scale": "cfg_scale",
    "Seed": "seed",
    "Size-1": "width",
    "Size-2": "height",
    "Variation seed": "subseed",
    "Variation seed strength": "subseed_strength",
    "Seed resize from-1": "seed_resize_from_w",
    "Seed resize from-2": "seed_resize_from_h",
    "Denoising strength": "denoising_strength",
}
"""Parameters and the fields they fill."""
HIRES = {
    "Hires upscale": "hr_scale",
    "Hires resize-1": "hr_resize_x",
    "Hires resize-2": "hr_resize_y",
    "Hires steps": "hr_second_pass_steps",
    "Hires upscaler": "hr_upscaler",
    "Hires sampler": "hr_sampler_name",
    "Hires schedule type": "hr_scheduler",
    "Hires prompt": "hr_prompt",
    "Hires negative prompt": "hr_negative_prompt",
    "Hires CFG Scale": "hr_cfg",
}
"""Those of the second pass, which img2img has not."""
SETTINGS = {
    "Clip skip": "CLIP_stop_at_last_layers",
    "ENSD": "eta_noise_seed_delta",
    "Model": "sd_model_checkpoint",
}
"""Parameters that are settings; ``RNG`` is one too, and the GPU's where it is not named."""


def filled(body: Body) -> Body:
    """The body with what its ``infotext`` says, as in A1111 only where it says nothing itself.

    Raises ``Refused`` for parameters that are no values of their fields.
    """
    if body.infotext is None:
        return body
    from sdlite.metadata import parse

    read = parse(body.infotext)
    given = body.model_dump(exclude_unset=True)
    known = FIELDS if isinstance(body, Img2Img) else FIELDS | HIRES
    fields: dict[str, object] = {"prompt": read.prompt, "negative_prompt": read.negative_prompt}
    fields |= {known[name]: value for name, value in read.fields.items() if name in known}
    if any(name in HIRES for name in read.fields) and not isinstance(body, Img2Img):
        fields["enable_hr"] = True
    settings = {SETTINGS[name]: read.fields[name] for name in SETTINGS if name in read.fields}
    whole = {name: int(text) if text.isdecimal() else text for name, text in settings.items()}
    if read.fields:
        whole["randn_source"] = read.fields.get("RNG", "NV")
    fields["override_settings"] = whole | given.pop("override_settings", {})
    found = check_body(type(body), fields | given)
    assert isinstance(found, type(body))
    return found
