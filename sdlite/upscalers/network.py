"""An upscaler on an engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType

import numpy as np
from PIL import Image

from sdlite import registry
from sdlite.choices import COMPUTE_PRECISIONS
from sdlite.engine import Artifact, LoadOptions, Session, report_of
from sdlite.engines import memory_modes, precision_for, prefers_openvino
from sdlite.errors import Cancelled, EngineError, RequestError, UnknownName
from sdlite.home import compiled_folder
from sdlite.types import Device, Float32
from sdlite.upscalers.files import UpscalerFile
from sdlite.upscalers.tiles import cut, overlap_for, run_tiles

TILE = 256
"""Side of the largest tile, in input pixels: more is not faster."""
LEAST_TILE = 64
SHARE = 0.4
"""Of the free memory that a tile may take."""
COMPONENT = "upscaler"


class Upscaler:
    """An upscaler that is open; close it with ``with`` or ``close``.

    Args:
        file: which one.
        runtime: engine; None takes the fastest known for this machine.
        device: device of the engine; None is its first.
        threads: compute threads; None lets the engine decide.
        precision: what to compute in; None lets the engine decide.
        tile: side of the largest tile in input pixels; None is 256, less where memory is short.
        max_memory: bytes a tile may take; None takes a share of what is free.

    Raises:
        UnknownName: there is no such engine, device or precision.
        RuntimeUnavailable: no engine can be used here.
        RequestError: the tile is no size, or no device computes in that precision.
    """

    def __init__(
        self,
        file: UpscalerFile,
        *,
        runtime: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        precision: str | None = None,
        tile: int | None = None,
        max_memory: int | None = None,
    ) -> None:
        if tile is not None and (isinstance(tile, bool) or not 16 <= tile <= 8192):
            raise RequestError(f"tile {tile} is not between 16 and 8192 pixels")
        self.file = file
        self.device = _device(runtime, device, precision, file)
        self.precision: str | None = None
        self._wanted = precision
        self._threads = threads
        self._most = tile or _tile(file, max_memory or self.device.memory_bytes)
        self._session: Session | None = None
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the weights; may be called twice."""
        if self._session is not None:
            self._session.close()
        self._session, self._size = None, None

    def enlarge(
        self,
        image: Image.Image,
        on_tile: Callable[[int, int], object] | None = None,
        cancel: threading.Event | None = None,
    ) -> Image.Image:
        """An RGB picture at ``scale`` times its size.

        Raises:
            EngineError: the engine failed, or the network gives something else than it says.
            Cancelled: ``cancel`` was set; looked at after each tile.
        """
        file = self.file
        grey = file.channels == 1
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
        pixels = pixels[:, :, None] if grey else pixels
        fixed = file.tile or (self._most, self._most)
        overlap, unsure = overlap_for(file.reach)
        down, across = (
            cut(size, most, overlap, file.multiple if file.tile is None else 1)
            for size, most in zip(pixels.shape[:2], fixed, strict=True)
        )
        if file.tile is not None:
            down, across = (
                replace(axis, length=most, starts=_fitted(axis.starts, axis.length, most, size))
                for axis, most, size in zip((down, across), fixed, pixels.shape[:2], strict=True)
            )

        def counted(done: int, total: int) -> None:
            if on_tile is not None:
                on_tile(done, total)
            if cancel is not None and cancel.is_set() and done < total:
                raise Cancelled("stopped as asked")

        made = run_tiles(self._run, pixels, down, across, file.scale, unsure, counted)
        return Image.fromarray(made[:, :, 0] if grey else made).convert("RGB")

    def _run(self, tile: Float32) -> Float32:
        session = self._opened(tile.shape[2], tile.shape[3])
        (made,) = session.run({self.file.takes.name: tile}).values()
        height, width = tile.shape[2] * self.file.scale, tile.shape[3] * self.file.scale
        if made.shape != (1, self.file.channels, height, width):
            raise self._failed(f"gave {made.shape} for {tile.shape}, not scale {self.file.scale}")
        if not np.isfinite(made).all():
            raise self._failed("values are not finite; compute in fp32 (--precision fp32)")
        return made.astype(np.float32, copy=False)

    def _failed(self, reason: str) -> EngineError:
        return EngineError(
            self.device.runtime, self.device.name, COMPONENT, self.file.path.name, reason
        )

    def _opened(self, height: int, width: int) -> Session:
        size = (height, width)
        if self._session is not None and (self._size == size or not self.device.fixed_sizes):
            return self._session
        self.close()
        file, device = self.file, self.device
        status = file.path.stat()
        artifact = Artifact(
            component=COMPONENT,
            format="onnx",
            variant="plain",
            precision="fp32",
            graph=file.path.name,
            graph_size=status.st_size,
            graph_sha256="",
            inputs=(file.takes,),
            outputs=(file.gives,),
            opset=file.opset,
        )
        free = [dim for dim in file.takes.shape[2:] if isinstance(dim, str)]
        dimensions = dict(zip(("height", "width"), size, strict=True))
        named = {name: dimensions[name] for name in free if name in dimensions}
        options = LoadOptions(
            threads=self._threads,
            memory_mode=memory_modes(device, "auto")[0],
            dimensions=named if device.fixed_sizes else {},
            precision=precision_for(COMPONENT, device, self._wanted),
            cache=compiled_folder() if device.fixed_sizes else None,
        )
        runtime = registry.get(device.runtime)
        self._session = runtime.load(artifact, file.path.parent, device, options)
        self._size = size
        self.precision = report_of(self._session).precision
        return self._session


def _fitted(starts: Sequence[int], length: int, fixed: int, size: int) -> tuple[int, ...]:
    """Starts of tiles that all have a fixed length, the last one ending with the picture."""
    if size <= fixed:
        return (0,)
    places = np.linspace(0, size - fixed, len(starts))
    return tuple(int(place) for place in places)


def _tile(file: UpscalerFile, memory: int | None) -> int:
    """The largest tile whose activations fit a share of the memory."""
    if memory is None:
        return TILE
    side = int((memory * SHARE / file.bytes_per_pixel) ** 0.5)
    return min(max(side, LEAST_TILE), TILE)


def _device(
    runtime: str | None, name: str | None, precision: str | None, file: UpscalerFile
) -> Device:
    if precision is not None and precision not in COMPUTE_PRECISIONS:
        raise UnknownName("precision", precision, COMPUTE_PRECISIONS)
    found = list(registry.devices(runtime))
    if name is not None:
        names = dict.fromkeys(device.name for device in found)
        found = [device for device in found if device.name == name]
        if not found:
            raise UnknownName("device", name, names)
    able = [device for device in found if precision is None or precision in device.precisions]
    if not able:
        there = ", ".join(f"{d.runtime} {d.name} in {' or '.join(d.precisions)}" for d in found)
        raise RequestError(f"nothing here computes in {precision}: {there}")
    able = [device for device in able if not device.opset or file.opset <= device.opset] or able
    if runtime is None and name is None:
        faster = (device for device in able if prefers_openvino(device, file.narrow))
        return next(faster, able[0])
    return able[0]
