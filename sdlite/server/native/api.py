"""The routes of the native API."""

from __future__ import annotations

from typing import Any

from sdlite.errors import RuntimeUnavailable
from sdlite.server.call import Call, Endpoint, in_thread
from sdlite.server.native import answers as gives
from sdlite.server.native.jobs import PREFIX, Jobs
from sdlite.server.native.machine import Machine
from sdlite.server.native.reading import lists, model_view, preprocessed, read_settings
from sdlite.server.native.schema import PictureBody, PreprocessBody
from sdlite.server.state import Server


class Api:
    """The native routes over a server.

    Args:
        server: what they are over.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def endpoints(self) -> list[Endpoint]:
        """Every route."""
        return [
            *Jobs(self._server).endpoints(),
            *Machine(self._server).endpoints(),
            Endpoint(
                "POST",
                PREFIX + "read",
                self._read,
                "A picture's settings.",
                PictureBody,
                gives=gives.Read,
            ),
            Endpoint(
                "POST",
                PREFIX + "preprocess",
                self._preprocess,
                "What a control network reads of a picture.",
                PreprocessBody,
                gives=gives.Preprocessed,
            ),
            Endpoint(
                "GET",
                PREFIX + "choices",
                self._choices,
                "What there is to choose from.",
                gives=gives.Choices,
            ),
            Endpoint("GET", PREFIX + "models", self._models, "Models.", gives=gives.Models),
            Endpoint(
                "GET",
                PREFIX + "devices",
                self._devices,
                "Engines and their devices.",
                gives=gives.Engines,
            ),
        ]

    async def _read(self, call: Call) -> Any:
        return await in_thread(read_settings, self._server, call.body)

    async def _preprocess(self, call: Call) -> Any:
        return await in_thread(preprocessed, self._server, call.body)

    async def _choices(self, call: Call) -> Any:
        return await in_thread(self._choose)

    def _choose(self) -> dict[str, Any]:
        models = [model_view(self._server, model) for model in self._server.shelf.models()]
        default = self._server.shelf.find(None).name
        models.sort(key=lambda model: model["name"] != default)
        return {"models": models, **lists()}

    async def _models(self, call: Call) -> Any:
        models = await in_thread(self._server.shelf.models)
        return {"models": [await in_thread(model_view, self._server, model) for model in models]}

    async def _devices(self, call: Call) -> Any:
        return {"engines": await in_thread(_engines)}


def _engines() -> list[dict[str, Any]]:
    # Not at the top: the server shall answer before NumPy and Pillow are there.
    from sdlite import registry

    found: list[dict[str, Any]] = []
    for name, devices in registry.available():
        if isinstance(devices, RuntimeUnavailable):
            found.append({"name": name, "devices": [], "problem": str(devices)})
            continue
        listed = [
            {
                "name": device.name,
                "description": device.description,
                "memory_bytes": device.memory_bytes,
                "precisions": list(device.precisions),
            }
            for device in devices
        ]
        found.append({"name": name, "devices": listed, "problem": None})
    return found
