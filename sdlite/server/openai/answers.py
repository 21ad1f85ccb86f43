"""What OpenAI's routes answer with, for the published description."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict


class Problem(TypedDict):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ApiError(TypedDict):
    """Every error."""

    error: Problem


class GeneratedPicture(TypedDict):
    """A picture, in one of two ways, and its seed."""

    b64_json: NotRequired[str]
    url: NotRequired[str]
    seed: int


class UsageDetails(TypedDict):
    """Always 0: nothing is counted."""

    image_tokens: int
    text_tokens: int


class Usage(TypedDict):
    """Always 0: nothing is counted."""

    input_tokens: int
    input_tokens_details: UsageDetails
    output_tokens: int
    total_tokens: int


class Generated(TypedDict):
    """``images/generations``, ``edits`` and ``variations`` without ``stream``."""

    created: int
    data: list[GeneratedPicture]
    size: str
    quality: str
    background: str
    output_format: str
    usage: Usage


class ListedModel(TypedDict):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ListedModels(TypedDict):
    """``models``."""

    object: Literal["list"]
    data: list[ListedModel]
