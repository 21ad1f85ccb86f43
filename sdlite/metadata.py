"""Parameters of a picture as text, in the format and with the names AUTOMATIC1111's web UI uses.

    PROMPT
    Negative prompt: NEGATIVE
    Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7.0, Seed: 1, Size: 512x512, ...

PNG files hold it as the text chunk ``parameters``, JPEG and WebP files as EXIF UserComment.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sdlite.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Exif, Image
    from PIL.PngImagePlugin import PngInfo

    from sdlite.manifest import Manifest
    from sdlite.types import Edit, Hires, Request

KEY = "parameters"
NEGATIVE = "Negative prompt:"
EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
JPEG_EXIF_BYTES = 65533
"""A JPEG segment has a 16-bit length that counts itself."""
EXIF_OVERHEAD = 256
"""Room for EXIF's own header and tables."""
RNG_LABELS = {"cpu": "CPU", "nv": "NV", "numpy": "numpy"}
"""A1111 leaves out its default, GPU, and knows CPU and NV."""
RESIZE_LABELS = {"stretch": "Just resize", "crop": "Crop and resize", "fill": "Resize and fill"}
"""A1111's names of the ways a picture comes to another size."""
CONTROL_RESIZES = {
    "stretch": "Just Resize",
    "crop": "Crop and Resize",
    "fill": "Resize and Fill",
}
"""The same as A1111's ControlNet extension spells them."""
CONTROL_LABELS = {
    "balanced": "Balanced",
    "prompt": "My prompt is more important",
    "control": "ControlNet is more important",
    "guess": "Guess",
}
"""Its names of what counts more; it has no guess mode of its own any more."""
CONTENT_LABELS = {"fill": "fill", "noise": "latent noise", "nothing": "latent nothing"}
"""A1111's names of what painting begins with; ``original`` is left out."""
SCHEDULE_SUFFIXES = ("Karras", "Exponential", "Polyexponential")
"""Schedules that older versions wrote as the end of the sampler's name."""
DEFAULTS = {"Clip skip": "1", "RNG": "GPU", "Schedule type": "Automatic"}
"""What a missing parameter means."""

# A1111's expression, written so that it takes time in proportion to the text: a name is tried only
# where it can begin, and what was taken is not given back.
_PARAMETER = re.compile(
    r"""(?<![\w \-/])[ \-/]*+(\w[\w \-/]++):\s*+("(?:\\.|[^\\"])++"|[^,]*+)(?:,|$)"""
)
_SIZE = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True)
class Parameters:
    """What an infotext says."""

    prompt: str
    """Prompt, may have several lines."""
    negative_prompt: str = ""
    """Negative prompt, may have several lines."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The last line: values by A1111's names; ``Size`` is given as ``Size-1`` and ``Size-2``."""

    def get(self, name: str) -> str | None:
        """A field, or what its absence means; None when that is nothing."""
        return self.fields.get(name, DEFAULTS.get(name))


def infotext(
    request: Request,
    seed: int,
    manifest: Manifest,
    version: str,
    extra: Mapping[str, str] | None = None,
    variation_seed: int | None = None,
) -> str:
    """The text for one picture.

    Args:
        request: the request with every default filled in, names in A1111's spelling.
        seed: the seed of this picture.
        manifest: the model's manifest; its name and the hash of its source are written.
        version: version of sdlite.
        extra: further fields.
        variation_seed: the variation seed of this picture; None without a variation.
    """
    return build(
        request.prompt,
        request.negative_prompt,
        {
            "Steps": request.steps,
            "Sampler": request.sampler,
            "Schedule type": request.schedule,
            "CFG scale": request.guidance,
            "Image CFG scale": _image_guidance(request, manifest),
            "Noise level": None if request.edit is None else request.edit.noise_level,
            "Seed": seed,
            "Size": f"{request.width}x{request.height}",
            "Model hash": manifest.source.sha256[:10] or None,
            "Model": manifest.name,
            "Variation seed": variation_seed,
            "Variation seed strength": request.variation_strength or None,
            "Seed resize from": _size(request.seed_resize),
            "Denoising strength": _strength(request),
            "Clip skip": request.clip_skip if request.clip_skip > 1 else None,
            "ENSD": request.seed_delta or None,
            "RNG": RNG_LABELS.get(request.rng, request.rng),
            "Tiling": "True" if request.tiling == "xy" else request.tiling or None,
            **({} if request.edit is None else _edit_fields(request.edit)),
            **({} if request.hires is None else _hires_fields(request, request.hires)),
            **_control_fields(request, manifest),
            "Emphasis": request.emphasis if request.emphasis != "Original" else None,
            "Guidance rescale": request.guidance_rescale or None,
            "Guidance interval": _interval(request.guidance_interval),
            "VAE Decoder": "TAESD" if request.decoder == "tiny" else None,
            "Profile": request.profile if request.profile != "quality" else None,
            **_sampler_fields(request),
            **(extra or {}),
            "Version": f"sdlite {version}",
        },
    )


def _image_guidance(request: Request, manifest: Manifest) -> float | None:
    edit = request.edit if manifest.task == "edit" else None
    return None if edit is None else edit.image_guidance


def _strength(request: Request) -> float | None:
    given = request.edit or request.hires
    return None if given is None else given.strength


def _edit_fields(edit: Edit) -> dict[str, str | int | float | None]:
    """What A1111 writes about an edit, and under its own names what A1111 has no word for."""
    fields: dict[str, str | int | float | None] = {
        "Init image hash": hashlib.md5(edit.image.tobytes(), usedforsecurity=False).hexdigest(),
        "Resize mode": RESIZE_LABELS.get(edit.resize or "") if not edit.only_masked else None,
        "Strength rules": edit.rules if edit.rules != "a1111" else None,
    }
    if edit.mask is None and not edit.alpha_mask:
        return fields
    return fields | {
        "Mask blur": f"{edit.mask_blur:g}" if edit.mask_blur else None,
        "Mask mode": "Inpaint not masked" if edit.invert_mask else None,
        "Masked content": CONTENT_LABELS.get(edit.mask_content),
        "Inpaint area": "Only masked" if edit.only_masked else None,
        "Masked area padding": edit.padding if edit.only_masked else None,
        "Mask source": "alpha" if edit.alpha_mask else None,
        "Soft mask": "yes" if edit.soft_mask else None,
        "Paste back": None if edit.paste else "no",
    }


def _hires_fields(request: Request, hires: Hires) -> dict[str, str | int | float | None]:
    """What A1111 writes about a second pass."""
    width, height = request.width or 0, request.height or 0
    by_scale = 0 <= int(width * hires.scale) - (hires.width or 0) < 8
    by_scale = by_scale and 0 <= int(height * hires.scale) - (hires.height or 0) < 8
    return {
        "Hires CFG Scale": hires.guidance,
        "Hires prompt": hires.prompt or None,
        "Hires negative prompt": hires.negative_prompt or None,
        "Hires sampler": hires.sampler,
        "Hires schedule type": hires.schedule,
        "Hires upscale": f"{hires.scale:g}" if by_scale else None,
        "Hires resize": None if by_scale else f"{hires.width}x{hires.height}",
        "Hires steps": hires.steps,
        "Hires upscaler": hires.upscaler,
    }


def _control_fields(request: Request, manifest: Manifest) -> dict[str, str]:
    """What A1111's ControlNet extension writes about each unit."""
    from sdlite.adapterentry import find_adapter

    fields = {}
    for index, control in enumerate(request.controls):
        entry = find_adapter(manifest.adapters, control.name)
        numbers = zip(("Threshold A", "Threshold B"), control.options, strict=False)
        values = {
            "Module": "ip-adapter-auto" if entry.encoder else control.preprocessor,
            "Model": f"{entry.name} [{entry.sha256[:8]}]",
            "Weight": f"{control.weight:g}",
            "Resize Mode": CONTROL_RESIZES[control.resize],
            **{label: f"{value:g}" for label, (_, value) in numbers},
            "Guidance Start": f"{control.start:g}",
            "Guidance End": f"{control.end:g}",
            "Pixel Perfect": "True",
            "Control Mode": CONTROL_LABELS[control.mode],
        }
        fields[f"ControlNet {index}"] = ", ".join(f"{k}: {v}" for k, v in values.items())
    return fields


def _sampler_fields(request: Request) -> dict[str, str | int | float | None]:
    """What A1111 writes about options of the sampler, and the levels given one by one."""
    from sdlite.sampling import find_sampler

    sampler = find_sampler(str(request.sampler))
    named = {
        sampler.eta_label: (request.eta, sampler.eta, "eta"),
        "Sigma churn": (request.s_churn, 0.0, "s_churn"),
        "Sigma tmin": (request.s_tmin, 0.0, "s_tmin"),
        "Sigma tmax": (request.s_tmax, 0.0, "s_tmax"),
        "Sigma noise": (request.s_noise, 1.0, "s_noise"),
    }
    fields: dict[str, str | int | float | None] = {
        label: value
        for label, (value, usual, option) in named.items()
        if option in sampler.options and value not in (None, usual)
    }
    if request.sigmas is not None:
        fields["Sigmas"] = ", ".join(f"{sigma:.9g}" for sigma in request.sigmas)
    return fields


def _size(size: tuple[int, int] | None) -> str | None:
    return None if size is None else f"{size[0]}x{size[1]}"


def _interval(sigmas: tuple[float, float] | None) -> str | None:
    return None if sigmas is None else f"{sigmas[0]:g}-{sigmas[1]:g}"


def build(prompt: str, negative_prompt: str, fields: Mapping[str, str | int | float | None]) -> str:
    """Write an infotext; fields that are None are left out, order is kept."""
    parts = []
    for name, value in fields.items():
        if value is not None:
            text = _clean(str(value))
            parts.append(name if text == name else f"{name}: {_quote(text)}")
    lines = [_clean(prompt)]
    if negative_prompt:
        lines.append(f"{NEGATIVE} {_clean(negative_prompt)}")
    lines.append(", ".join(parts))
    return "\n".join(lines).strip()


def parse(text: str) -> Parameters:
    """Read an infotext the way A1111 does; any text can be read.

    The last line holds parameters only if at least three are found in it. Sampler names of older
    versions that end in a schedule ("DPM++ 2M Karras") are taken apart.
    """
    lines = text.strip().split("\n")
    found = _PARAMETER.findall(lines[-1])
    if len(found) < 3:
        found = []
    else:
        lines.pop()
    prompt: list[str] = []
    negative: list[str] = []
    target = prompt
    for line in lines:
        words = line.strip()
        if words.startswith(NEGATIVE):
            target = negative
            words = words.removeprefix(NEGATIVE).strip()
        # Blank lines before the first word are dropped, later ones belong to the text.
        if target or words:
            target.append(words)
    fields: dict[str, str] = {}
    for name, raw in found:
        value = _unquote(raw)
        if size := _SIZE.fullmatch(value):
            fields[f"{name}-1"], fields[f"{name}-2"] = size.groups()
        else:
            fields[name] = value
    return Parameters("\n".join(prompt), "\n".join(negative), _split_sampler(fields))


def _split_sampler(fields: dict[str, str]) -> dict[str, str]:
    sampler = fields.get("Sampler", "")
    for schedule in SCHEDULE_SUFFIXES:
        name = sampler.removesuffix(f" {schedule}")
        if name != sampler and "Schedule type" not in fields:
            return fields | {"Sampler": name, "Schedule type": schedule}
    return fields


def _clean(text: str) -> str:
    """Text that any encoding and file can hold: no NUL, no half characters, one kind of newline."""
    whole = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return whole.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")


def _quote(value: str) -> str:
    plain = not any(mark in value for mark in ",:\n") and not value.startswith('"')
    return value if plain and value == value.strip() else json.dumps(value, ensure_ascii=False)


def _unquote(value: str) -> str:
    if len(value) < 2 or not (value.startswith('"') and value.endswith('"')):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def png_text(text: str | None) -> PngInfo | None:
    """The chunks to save a PNG file with: tEXt where Latin-1 can say it, else iTXt."""
    from PIL.PngImagePlugin import PngInfo

    if text is None:
        return None
    chunks = PngInfo()
    chunks.add_text(KEY, text)
    return chunks


def exif_comment(text: str | None, limit: int | None = None) -> Exif:
    """The EXIF block to save a JPEG or WebP file with.

    Args:
        text: the infotext; None leaves the block empty.
        limit: most bytes the whole block may have. A longer text loses the end of its prompt, and
            an ellipsis shows that; its parameters stay.
    """
    from PIL.Image import Exif

    exif = Exif()
    if text is not None:
        if limit is not None:
            text = _shorten(text, (limit - EXIF_OVERHEAD) // 2)
        comment = b"UNICODE\0" + text.encode("utf-16-be", "replace")
        exif.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
    return exif


def _shorten(text: str, units: int) -> str:
    """Cut the prompts so that ``text`` has at most ``units`` UTF-16 code units."""
    if len(text.encode("utf-16-be", "replace")) // 2 <= units:
        return text
    body, _, last = text.rpartition("\n")
    room = units - len(last.encode("utf-16-be", "replace")) // 2 - 2
    kept = body.encode("utf-16-be", "replace")[: 2 * max(room, 0)]
    return f"{kept.decode('utf-16-be', 'ignore')}…\n{last}"


def read(path: Path) -> str | None:
    """The infotext of a picture file; None when it has none.

    Raises:
        RequestError: there is no such file, or it is no picture.
    """
    from PIL import Image

    if not path.is_file():
        raise RequestError(f"no file {path}")
    try:
        with Image.open(path) as image:
            return read_image(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestError(f"{path} is too large to be read: {error}") from error
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError) as error:
        raise RequestError(f"{path} is no picture that can be read: {error}") from error


def read_image(image: Image) -> str | None:
    """The infotext of a picture that is open; None when it has none."""
    if image.format == "PNG":
        if KEY not in image.info:
            image.load()  # text may also stand behind the pixels
        value = image.info.get(KEY)
        return None if value is None else str(value)
    comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    return None if comment is None else decode_comment(comment)


def decode_comment(comment: bytes | str) -> str:
    """An EXIF UserComment: eight bytes that name the encoding, then the text."""
    if isinstance(comment, str):
        return comment
    code, body = comment[:8], comment[8:]
    if code == b"UNICODE\0":
        # The standard leaves the byte order open; the zeros of ordinary letters show it.
        little = body.startswith(b"\xff\xfe") or body[1::2].count(0) > body[::2].count(0)
        text = body.decode("utf-16-le" if little else "utf-16-be", "replace")
        return text.removeprefix("\ufeff")
    if code in (b"ASCII\0\0\0", bytes(8)):
        return body.decode("utf-8", "replace")
    return comment.decode("utf-8", "replace")
