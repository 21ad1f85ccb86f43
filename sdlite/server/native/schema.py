"""Bodies of the native API: the fields of ``sdlite.Request``, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from sdlite.server.intake import Intake

if TYPE_CHECKING:
    from sdlite.controls import Control
    from sdlite.loras import LoraUse
    from sdlite.outpaint import Margins
    from sdlite.types import Request


class Strict(BaseModel):
    """Unknown fields are refused: a typing mistake must not draw another picture."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class EditBody(Strict):
    """``sdlite.Edit``; pictures are base64."""

    image: str
    strength: float = 0.75
    mask: str | None = None
    alpha_mask: bool = False
    invert_mask: bool = False
    soft_mask: bool = False
    mask_blur: float = 4.0
    mask_content: str = "original"
    only_masked: bool = False
    padding: int = 32
    resize: str | None = None
    paste: bool = True
    rules: str = "a1111"
    image_guidance: float = 1.5
    noise_level: int | None = None


class HiresBody(Strict):
    """``sdlite.Hires``."""

    scale: float = 2.0
    width: int | None = None
    height: int | None = None
    upscaler: str = "Latent"
    steps: int | None = None
    strength: float = 0.7
    sampler: str | None = None
    schedule: str | None = None
    prompt: str = ""
    negative_prompt: str = ""
    guidance: float | None = None


class MarginsBody(Strict):
    """``sdlite.outpaint.Margins``: pixels to add on each side of ``edit.image``."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


class LoraBody(Strict):
    """``sdlite.LoraUse``, by its name in the model folders only."""

    name: str
    unet: float = 1.0
    text_encoder: float | None = None


class ControlBody(Strict):
    """``sdlite.Control``; pictures are base64, preprocessors those that are built in."""

    name: str
    image: str
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: str = "balanced"
    preprocessor: str = "none"
    options: dict[str, float] = Field(default_factory=dict, max_length=8)
    resize: str = "crop"
    mask: str | None = None
    layers: list[float] = Field(default_factory=list, max_length=64)


class JobBody(Strict):
    """``POST /api/v1/jobs`` and ``/api/v1/plan``: ``sdlite.Request`` and the model."""

    model: str | None = None
    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    schedule: str | None = None
    seed: int = -1
    images: int = Field(1, ge=1)
    rng: str = "cpu"
    tiling: str = ""
    safety_checker: bool = False
    clip_skip: int = 1
    emphasis: str = "Original"
    guidance_rescale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    decoder: str | None = None
    profile: str = "quality"
    variation_strength: float = 0.0
    variation_seed: int = -1
    seed_resize: tuple[int, int] | None = None
    seed_delta: int = 0
    eta: float | None = None
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = 0.0
    s_noise: float = 1.0
    sigmas: list[float] | None = Field(None, max_length=1001)
    edit: EditBody | None = None
    hires: HiresBody | None = None
    outpaint: MarginsBody | None = None
    loras: list[LoraBody] = Field(default_factory=list, max_length=32)
    controls: list[ControlBody] = Field(default_factory=list, max_length=8)


def uses(loras: Sequence[LoraBody]) -> tuple[LoraUse, ...]:
    """LoRAs as requests have them: never by path, which could be any file of this machine."""
    from sdlite.loras import LoraUse

    return tuple(LoraUse(item.name, item.unet, item.text_encoder) for item in loras)


def read_control(body: ControlBody, intake: Intake, where: str) -> Control:
    """A control as requests have it; a preprocessor is never a file of this machine."""
    from sdlite.control.preprocess import find_preprocessor
    from sdlite.controls import Control

    fields: dict[str, Any] = body.model_dump()
    fields["preprocessor"] = find_preprocessor(body.preprocessor).name
    fields["image"] = intake.read(body.image, f"{where}.image")
    if body.mask is not None:
        fields["mask"] = intake.read(body.mask, f"{where}.mask")
    fields |= {"options": tuple(body.options.items()), "layers": tuple(body.layers)}
    return Control(**fields)


def read_request(body: JobBody, intake: Intake) -> Request:
    """The request of a body; decodes pictures, so call it in a thread."""
    from sdlite.types import Edit, Hires, Request

    fields: dict[str, Any] = body.model_dump(
        exclude={"model", "edit", "hires", "loras", "controls", "outpaint"}
    )
    fields["loras"] = uses(body.loras)
    fields["controls"] = tuple(
        read_control(item, intake, f"controls[{index}]") for index, item in enumerate(body.controls)
    )
    if body.sigmas is not None:
        fields["sigmas"] = tuple(body.sigmas)
    if body.edit is not None:
        edit: dict[str, Any] = body.edit.model_dump()
        edit["image"] = intake.read(body.edit.image, "edit.image")
        if body.edit.mask is not None:
            edit["mask"] = intake.read(body.edit.mask, "edit.mask")
        fields["edit"] = Edit(**edit)
    if body.hires is not None:
        fields["hires"] = Hires(**body.hires.model_dump())
    return Request(**fields)


def read_margins(body: JobBody) -> Margins | None:
    """What to add at the edges, where a body says so."""
    from sdlite.outpaint import Margins

    return None if body.outpaint is None else Margins(**body.outpaint.model_dump())


class PictureBody(Strict):
    """``POST /api/v1/read``: a picture, and the model to repeat it with."""

    image: str
    model: str | None = None


class PreprocessBody(Strict):
    """``POST /api/v1/preprocess``: a picture, and what to make of it."""

    image: str
    preprocessor: str


class ExportBody(Strict):
    """``POST /api/v1/exports``: a checkpoint by its name in the model folders, or a ControlNet of
    theirs and the model it is added to."""

    name: str
    model: str | None = None
