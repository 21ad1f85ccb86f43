"""What a picture was made with, and what there is to choose from."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sdlite import __version__
from sdlite.errors import PackageError
from sdlite.server.native.schema import PictureBody, PreprocessBody
from sdlite.server.pictures import to_base64
from sdlite.server.problem import Refused

if TYPE_CHECKING:
    from sdlite.assets import Asset
    from sdlite.home import Model
    from sdlite.server.state import Server


def read_settings(server: Server, body: PictureBody) -> dict[str, Any]:
    """The settings a picture carries, as a job takes them, and what may come out otherwise.

    Raises:
        Refused: it is no picture, or carries no parameters.
        RequestError: its parameters have values that cannot be.
    """
    from sdlite.carried.read import carried_by
    from sdlite.edit.again import again
    from sdlite.errors import RequestError
    from sdlite.metadata import build, read_image

    image = server.intake().opened(body.image)
    try:
        carried = carried_by(image)
    except RequestError as error:
        raise Refused(422, str(error), "no_parameters") from error
    read = carried.parameters
    text = read_image(image) or build(read.prompt, read.negative_prompt, read.fields)
    model = server.shelf.find(body.model)
    found = again(read, server.shelf.manifest(model), __version__)
    settings = _set(found.request)
    if found.edit is not None:
        settings["edit"] = {**found.edit, "masked": found.masked}
    settings["model"] = model.name
    return {
        "infotext": text,
        "settings": settings,
        "problems": [*carried.problems, *found.problems],
    }


def preprocessed(server: Server, body: PreprocessBody) -> dict[str, Any]:
    """What a control network would read of a picture, as large as the picture and a PNG in base64.

    Raises ``UnknownName``, and ``Refused`` for what is no picture.
    """
    from sdlite.control.preprocess import find_preprocessor, numbers_of
    from sdlite.image.source import flatten

    found = find_preprocessor(body.preprocessor)
    picture = flatten(server.intake().read(body.image))
    numbers = numbers_of(found.name, found.numbers, ())
    return {"image": to_base64(found.apply(picture, numbers))}


def _set(noun: Any) -> dict[str, Any]:
    """Fields of a dataclass that are not as they are by default."""
    found: dict[str, Any] = {}
    for item in fields(noun):
        value = getattr(noun, item.name)
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        if value != default:
            found[item.name] = _set(value) if hasattr(value, "__dataclass_fields__") else value
    return found


def model_view(server: Server, model: Model) -> dict[str, Any]:
    """A model as JSON; ``problem`` says why it cannot be used."""
    try:
        manifest = server.shelf.manifest(model)
    except PackageError as error:
        return {"name": model.name, "problem": str(error)}
    defaults = manifest.defaults
    return {
        "name": model.name,
        "family": manifest.family,
        "task": manifest.task,
        "width": defaults.width,
        "height": defaults.height,
        "steps": defaults.steps,
        "guidance": defaults.guidance,
        "sampler": defaults.sampler,
        "licence": manifest.licence.id,
        "controls": [item.name for item in manifest.adapters],
        "problem": None,
    }


def lists() -> dict[str, Any]:
    """Names of samplers, schedules, LoRAs and embeddings."""
    from sdlite.assets import assets
    from sdlite.control.preprocess import PREPROCESSORS
    from sdlite.profiles import PROFILES
    from sdlite.sampling import SAMPLERS, SCHEDULES

    return {
        "samplers": [info.name for info in SAMPLERS],
        "schedules": [info.label for info in SCHEDULES],
        "loras": [_asset("LoRA", item) for item in assets("LoRA")],
        "embeddings": [_asset("embedding", item) for item in assets("embedding")],
        "profiles": list(PROFILES),
        "preprocessors": [item.name for item in PREPROCESSORS],
    }


def _asset(kind: str, item: Asset) -> dict[str, Any]:
    from sdlite.server.native.machine import PLACES, preview_of

    has = preview_of(item.path) is not None
    url = f"/api/v1/{PLACES[kind]}/{quote(item.name, safe='')}/preview" if has else None
    return {"name": item.name, "preview": url}
