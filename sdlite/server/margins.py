"""Outpainting as an order: windows along the edges of one picture."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sdlite.errors import RequestError
from sdlite.outpaint import Margins, passes
from sdlite.request import complete
from sdlite.server.limits import Limits
from sdlite.server.problem import Refused

if TYPE_CHECKING:
    from sdlite.manifest import Manifest
    from sdlite.types import Request


def beyond(
    request: Request, margins: Margins, manifest: Manifest, limits: Limits
) -> tuple[Request, int]:
    """The request of one window completed, and how many windows there are.

    Raises:
        RequestError: it is nothing ``sdlite.outpaint`` takes.
        Refused: the larger picture is beyond the limits.
    """
    edit = request.edit
    if edit is None or edit.mask is not None or edit.alpha_mask or request.images != 1:
        raise RequestError("outpainting takes one picture, without a mask, and draws one")
    # Without the edit the size is the model's own: the edit's picture is not what is drawn.
    full = complete(replace(request, edit=None), manifest)
    width, height = margins.check(edit.image.size)
    if width * height > limits.pixels:
        raise Refused(
            422,
            f"a picture of {width}x{height}; at most {limits.pixels} pixels are allowed",
            "too_many_pixels",
        )
    count = passes(edit.image.size, margins, (full.width or width, full.height or height))
    return replace(full, edit=edit), count
