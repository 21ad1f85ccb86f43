"""What a stranger may ask for at most; ``sdlite serve`` moves those that depend on the machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdlite.server.problem import Refused

if TYPE_CHECKING:
    from sdlite.types import Request


_BREAK = re.compile(r"\bBREAK\b")


@dataclass(frozen=True)
class Limits:
    """Largest values of a request."""

    body_bytes: int = 64 << 20
    """Bytes of a request's body."""
    body_seconds: float = 60.0
    """Seconds a client may take to send it."""
    pixels: int = 2048 * 2048
    """Pixels of a picture to draw, of the second pass where there is one."""
    bodies_bytes: int = 256 << 20
    """Bytes of the bodies of all requests that are not answered yet."""
    body_values: int = 100_000
    """Values, lists and objects in a JSON body: each takes many times its bytes."""
    steps: int = 150
    """Steps of a picture, both passes together."""
    images: int = 16
    """Pictures of one request."""
    prompt: int = 20_000
    """Characters of a prompt."""
    prompt_parts: int = 16
    """Prompts joined by AND: each is a call of the U-Net in every step."""
    prompt_breaks: int = 32
    """Words BREAK in a prompt: each makes the text the U-Net reads longer."""
    input_images: int = 16
    """Pictures in a request."""
    input_pixels: int = 4096 * 4096
    """Pixels of a picture in a request."""
    request_pixels: int = 2 * 4096 * 4096
    """Pixels of all pictures in a request."""
    queue_pixels: int = 8 * 4096 * 4096
    """Pixels of the pictures in all requests that wait."""
    job_seconds: float = 7200.0
    """Seconds a job may run."""
    queue: int = 64
    """Jobs that wait."""
    queue_of_client: int = 32
    """Jobs of one client that wait."""


def check_images(count: int, limits: Limits) -> None:
    """Refuse a request for too many pictures."""
    if not 1 <= count <= limits.images:
        raise Refused(422, f"{count} pictures; 1 to {limits.images} a request", "too_many_images")


def check_prompts(limits: Limits, *prompts: str) -> None:
    """Refuse prompts that are too long."""
    for prompt in prompts:
        if len(prompt) > limits.prompt:
            raise Refused(
                422,
                f"a prompt of {len(prompt)} characters; at most {limits.prompt} are allowed",
                "prompt_too_long",
            )
        breaks = len(_BREAK.findall(prompt))
        if breaks > limits.prompt_breaks:
            raise Refused(
                422,
                f"a prompt with {breaks} times BREAK; at most {limits.prompt_breaks} are allowed",
                "prompt_too_long",
            )


def _check_parts(prompt: str, limits: Limits) -> None:
    """Refuse a prompt of too many prompts."""
    from sdlite.text.prompt import evaluations

    parts, _ = evaluations(prompt, 1.0)
    if parts > limits.prompt_parts:
        raise Refused(
            422,
            f"{parts} prompts joined by AND; at most {limits.prompt_parts} are allowed",
            "prompt_too_long",
        )


def check_request(request: Request, limits: Limits) -> None:
    """Refuse a completed request that asks for too much."""
    steps = request.steps or 0
    sizes = [(request.width or 0, request.height or 0)]
    if request.hires is not None:
        steps += request.hires.steps or 0
        sizes.append((request.hires.width or 0, request.hires.height or 0))
        check_prompts(limits, request.hires.prompt, request.hires.negative_prompt)
        _check_parts(request.hires.prompt, limits)
    check_prompts(limits, request.prompt, request.negative_prompt)
    _check_parts(request.prompt, limits)
    if steps > limits.steps:
        raise Refused(422, f"{steps} steps; at most {limits.steps} are allowed", "too_many_steps")
    for width, height in sizes:
        if width * height > limits.pixels:
            raise Refused(
                422,
                f"a picture of {width}x{height}; at most {limits.pixels} pixels are allowed",
                "too_many_pixels",
            )
