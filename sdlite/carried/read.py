"""Find out what a picture carries, and in whose form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdlite.carried import comfyui, diffusers, invokeai
from sdlite.carried.base import Carried, load_json
from sdlite.errors import RequestError
from sdlite.metadata import EXIF_IFD, KEY, USER_COMMENT, decode_comment, parse

if TYPE_CHECKING:
    from PIL.Image import Image

JSON_CHUNKS = ("parameters", "metadata", "Comment", "comment", "Description", "sd_metadata")
"""Where programs put JSON of their own."""
OWN = "A1111's form"
SHOWN = 8


def read_carried(path: Path) -> Carried:
    """What a picture's file carries.

    Raises:
        RequestError: there is no such file, it is no picture, it carries nothing, or nothing that
            can be read; says what it has.
    """
    from PIL import Image

    if not path.is_file():
        raise RequestError(f"no file {path}")
    try:
        with Image.open(path) as image:
            return carried_by(image, str(path))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestError(f"{path} is too large to be read: {error}") from error
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError) as error:
        raise RequestError(f"{path} is no picture that can be read: {error}") from error


def carried_by(image: Image, name: str = "the picture") -> Carried:
    """What a picture that is open carries; raises ``RequestError``."""
    texts = _texts(image)
    if "invokeai_metadata" in texts:
        return invokeai.read_metadata(texts["invokeai_metadata"])
    if "sd-metadata" in texts:
        return invokeai.read_old(texts["sd-metadata"])
    plain = texts.get(KEY, texts.get("UserComment"))
    if plain is not None and not plain.lstrip().startswith("{"):
        found = parse(plain)
        if found.fields or not texts.keys() & {"prompt", "workflow"}:
            return Carried(OWN, found)
    if "prompt" in texts and texts["prompt"].lstrip().startswith("{"):
        return comfyui.read_prompt(texts["prompt"])
    if "workflow" in texts:
        return comfyui.read_workflow(texts["workflow"])
    if diffusers.looks_like(texts):
        return diffusers.read_arguments(texts)
    for chunk in (*JSON_CHUNKS, "UserComment"):
        text = texts.get(chunk, "").lstrip()
        if text.startswith("{"):
            values = load_json(text, f"{name}: {chunk!r}")
            if isinstance(values, dict) and diffusers.looks_like(values):
                return diffusers.read_arguments(values)
    if not texts:
        raise RequestError(f"{name} carries no parameters; nothing says how it was made")
    shown = ", ".join(sorted(texts)[:SHOWN])
    raise RequestError(
        f"{name} carries no parameters of sdlite, A1111, ComfyUI, InvokeAI or diffusers; it has "
        f"{shown}"
    )


def _texts(image: Image) -> dict[str, str]:
    """Texts a picture carries, by the name of their chunk or EXIF field."""
    if image.format == "PNG":
        image.load()  # text may also stand behind the pixels
    found = {
        key: value
        for key, value in image.info.items()
        if isinstance(key, str) and isinstance(value, str) and value.strip()
    }
    comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    if isinstance(comment, bytes | str):
        found["UserComment"] = decode_comment(comment)
    if image.format != "PNG" and isinstance(image.info.get("comment"), bytes):
        found["comment"] = image.info["comment"].decode("utf-8", "replace")
    return found
