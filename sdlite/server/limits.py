"""What a stranger may ask for at most. Every limit can be moved from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdlite.server.problem import Refused

if TYPE_CHECKING:
    from sdlite.types import Request


@dataclass(frozen=True)
class Limits:
    """Largest values of a request."""

    body_bytes: int = 64 << 20
    """Bytes of a request's body."""
    body_seconds: float = 60.0
    """Seconds a client may take to send it."""
    pixels: int = 2048 * 2048
    """Pixels of a picture to draw, of the second pass where there is one."""
    steps: int = 150
    """Steps of a picture, both passes together."""
    images: int = 16
    """Pictures of one request."""
    prompt: int = 20_000
    """Characters of a prompt."""
    input_images: int = 16
    """Pictures in a request."""
    input_pixels: int = 4096 * 4096
    """Pixels of a picture in a request."""
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


def check_request(request: Request, limits: Limits) -> None:
    """Refuse a completed request that asks for too much."""
    steps = request.steps or 0
    sizes = [(request.width or 0, request.height or 0)]
    if request.hires is not None:
        steps += request.hires.steps or 0
        sizes.append((request.hires.width or 0, request.hires.height or 0))
        check_prompts(limits, request.hires.prompt, request.hires.negative_prompt)
    check_prompts(limits, request.prompt, request.negative_prompt)
    if steps > limits.steps:
        raise Refused(422, f"{steps} steps; at most {limits.steps} are allowed", "too_many_steps")
    for width, height in sizes:
        if width * height > limits.pixels:
            raise Refused(
                422,
                f"a picture of {width}x{height}; at most {limits.pixels} pixels are allowed",
                "too_many_pixels",
            )
