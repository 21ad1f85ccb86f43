"""Routes about this machine: what keeps it from drawing, what is kept on it, what can be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, Response

from sdlite import home
from sdlite.server.call import Call, Endpoint, in_thread
from sdlite.server.native import answers as gives
from sdlite.server.native.examination import Examination
from sdlite.server.native.exports import Exports
from sdlite.server.native.jobs import PREFIX
from sdlite.server.native.schema import ExportBody
from sdlite.server.problem import Refused
from sdlite.server.state import Server

PREVIEWS = (".preview.png", ".png", ".preview.jpg", ".jpg", ".jpeg", ".webp")
"""What a picture beside a file is called, from the file's name on."""
PLACES = {"LoRA": "loras", "embedding": "embeddings"}
"""Kinds of files that may have one, and where their pictures are."""
PREVIEW_SIDE = 256


class Machine:
    """The routes over a server.

    Args:
        server: what they are over.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._exports = Exports(server.setup.folders, server.shelf, self._changed)
        server.closing.append(self._exports.close)
        self._examination = Examination()

    def endpoints(self) -> list[Endpoint]:
        """Every route."""
        doctor, cache, exports = PREFIX + "doctor", PREFIX + "cache", PREFIX + "exports"
        examined: dict[str, Any] = {"gives": gives.Doctor}
        listed: dict[str, Any] = {"gives": gives.Exports}
        begun = {**listed, "status": 202}
        return [
            Endpoint("GET", doctor, self._doctor, "What keeps it from drawing.", **examined),
            Endpoint("POST", doctor, self._examine, "Look what does.", status=202, **examined),
            Endpoint("GET", cache, self._cache, "Compiled graphs.", gives=gives.Cache),
            Endpoint("DELETE", cache, self._clear, "Delete them.", gives=gives.Cleared),
            Endpoint("GET", exports, self._listed, "What can be exported.", **listed),
            Endpoint("POST", exports, self._export, "Export one.", ExportBody, **begun),
            Endpoint("DELETE", exports + "/{name}", self._stop, "Stop an export.", **listed),
            *(self._preview(kind, place) for kind, place in PLACES.items()),
        ]

    def _changed(self) -> None:
        """Look at the models anew, and keep none open that may be another one now."""
        self._server.shelf.refresh()
        self._server.room.unload()

    async def _doctor(self, call: Call) -> Any:
        return self._examination.view()

    async def _examine(self, call: Call) -> Any:
        self._examination.start()
        return JSONResponse(self._examination.view(), 202)

    async def _cache(self, call: Call) -> Any:
        return await in_thread(_cached)

    async def _clear(self, call: Call) -> Any:
        return await in_thread(_cleared)

    async def _listed(self, call: Call) -> Any:
        return await in_thread(self._exports.view)

    async def _export(self, call: Call) -> Any:
        await in_thread(self._exports.start, call.body.name, call.body.model)
        return JSONResponse(await in_thread(self._exports.view), 202)

    async def _stop(self, call: Call) -> Any:
        await in_thread(self._exports.cancel, call.request.path_params["name"])
        return await in_thread(self._exports.view)

    def _preview(self, kind: str, place: str) -> Endpoint:
        async def preview(call: Call) -> Any:
            data = await in_thread(self._small, kind, call.request.path_params["name"])
            kept = {"Cache-Control": "max-age=3600"}
            return Response(data, media_type="image/webp", headers=kept)

        path = PREFIX + place + "/{name}/preview"
        return Endpoint(
            "GET", path, preview, f"The picture beside a file: {kind}.", media="image/*"
        )

    def _small(self, kind: str, name: str) -> bytes:
        from sdlite.assets import find_asset
        from sdlite.output import encode
        from sdlite.server.pictures import open_bytes

        path = preview_of(find_asset(kind, name))
        if path is None:
            raise Refused(404, f"the {kind} {name[:40]!r} has no picture", "not_found")
        image = open_bytes(path.read_bytes(), self._server.limits).convert("RGB")
        image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        return encode(image, "webp")


def preview_of(asset: Path) -> Path | None:
    """The picture that lies beside a file, as A1111 and its extensions name them."""
    for suffix in PREVIEWS:
        path = asset.with_name(asset.stem + suffix)
        if path.is_file():
            return path
    return None


def _cached() -> dict[str, Any]:
    from sdlite.compilecache import entries

    found = entries(home.compiled_folder())
    return {"count": len(found), "bytes": sum(entry.size for entry in found)}


def _cleared() -> dict[str, Any]:
    from sdlite.compilecache import clear

    gone = clear(home.compiled_folder())
    return {"deleted": len(gone), "bytes": sum(entry.size for entry in gone)}
