"""What the tools take, as assistants are told it."""

from __future__ import annotations

from typing import Any

from pydantic import Field, create_model

from sdlite.server.native.schema import EditBody, JobBody, Strict

MOST = 4
"""Pictures of one call: they all travel through the assistant's context."""


class ImageArguments(Strict):
    """What every picture takes; what is left out is the model's own."""

    prompt: str = Field(description="What to draw.")
    negative_prompt: str = Field("", description="What to steer away from.")
    model: str | None = Field(None, description="Name of a model, as list_models gives it.")
    width: int | None = Field(None, ge=8, description="Pixels, a multiple of 8.")
    height: int | None = Field(None, ge=8, description="Pixels, a multiple of 8.")
    steps: int | None = Field(None, ge=1, description="More steps take longer.")
    guidance: float | None = Field(
        None, ge=0, le=100, description="How closely to keep to the prompt."
    )
    sampler: str | None = Field(None, description="E.g. Euler a, DPM++ 2M.")
    schedule: str | None = Field(None, description="E.g. Karras.")
    seed: int = Field(-1, ge=-1, lt=2**64, description="The same seed draws the same; -1 is any.")
    images: int = Field(1, ge=1, le=MOST, description="How many pictures.")


class EditArguments(ImageArguments):
    """A picture to change."""

    image: str = Field(
        description="Name of a picture drawn before, as its answer said, or a picture as base64."
    )
    mask: str | None = Field(
        None,
        description="Where to paint, as base64: white is painted anew, black stays. "
        "Without one all of the picture is changed.",
    )
    strength: float = Field(
        0.75, ge=0, le=1, description="How much is changed, 0 nothing to 1 everything."
    )


NoArguments = create_model("NoArguments", __base__=Strict)


def job_of(arguments: ImageArguments) -> JobBody:
    """The job a call asks for; ``image`` and ``mask`` as base64."""
    fields: dict[str, Any] = arguments.model_dump(exclude={"image", "mask", "strength"})
    if isinstance(arguments, EditArguments):
        edit = {name: getattr(arguments, name) for name in ("image", "mask", "strength")}
        if arguments.width is not None or arguments.height is not None:
            edit["resize"] = "crop"
        fields["edit"] = EditBody(**edit)
    return JobBody(**fields)
