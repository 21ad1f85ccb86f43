"""Draw a grid: cell by cell, keeping each, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from sdlite import __version__
from sdlite.errors import OutputError, RequestError
from sdlite.grid.axes import Axis, Cell, cells
from sdlite.grid.picture import compose
from sdlite.image.source import open_picture
from sdlite.metadata import infotext
from sdlite.outpaint import counted
from sdlite.output import encode, make_folder, write_whole
from sdlite.pipeline import Pipeline
from sdlite.request import complete, draw_seed
from sdlite.types import Request, Result, Step

NOTE = "grid.json"
"""In the folder of the cells: what grid they belong to."""
LETTERS = "xyz"
OpenModel = Callable[[str], Pipeline]


@dataclass(frozen=True)
class Kept:
    """A folder that keeps the single pictures."""

    folder: Path
    """Where; made when it is missing."""
    metadata: bool = True
    """Whether they carry their parameters."""

    def path(self, cell: Cell) -> Path:
        """The file of a cell: ``x1-y2.png``."""
        parts = (f"{LETTERS[axis]}{index + 1}" for axis, index in enumerate(cell.place))
        return self.folder / ("-".join(parts) + ".png")

    def begin(self, request: Request, axes: Sequence[Axis], model: str) -> Request:
        """The request with its seed, drawn now or when the grid was begun.

        Raises:
            OutputError: the folder holds another grid, or cannot be written.
        """
        note = self.folder / NOTE
        described = _described(request, axes, model)
        before = _read(note)
        if before is not None:
            seed = before.get("seed")
            if before.get("grid") != described or not isinstance(seed, int):
                raise OutputError(
                    f"{self.folder} holds pictures of another grid; give another folder, or remove "
                    "it"
                )
            return replace(request, seed=seed)
        if request.seed == -1:
            request = replace(request, seed=draw_seed())
        make_folder(self.folder)
        text = json.dumps({"grid": described, "seed": request.seed}, indent=1)
        write_whole(note, text.encode())
        return request


def draw_grid(
    pipe: Pipeline,
    request: Request,
    axes: Sequence[Axis],
    *,
    open_model: OpenModel | None = None,
    kept: Kept | None = None,
    on_step: Callable[[Step], object] | None = None,
    cancel: threading.Event | None = None,
) -> Result:
    """Draw every cell and lay them out in one picture.

    Args:
        pipe: draws the cells that name no model.
        request: what they have in common; one picture.
        axes: one to three, from ``read_axis``.
        open_model: opens the models an axis names; None refuses such an axis.
        kept: keeps the single pictures; those it holds of this very grid are not drawn again.
        on_step: called after each step, which is counted over all cells.
        cancel: set from any thread, it ends the job with ``Cancelled``.

    Raises:
        RequestError: the axes or a cell's settings cannot be used; found out before anything is
            drawn, but for other models' limits.
        OutputError: ``kept`` holds another grid, or cannot be written.
    """
    if request.images != 1:
        raise RequestError(f"a grid has one picture a cell, not {request.images}")
    if kept is not None:
        request = kept.begin(request, axes, pipe.package.manifest.name)
    elif request.seed == -1:
        request = replace(request, seed=draw_seed())
    found = cells(request, axes)
    if open_model is None and any(cell.model is not None for cell in found):
        raise RequestError("an axis of models needs something that opens them")
    for cell in found:
        if cell.model is None:
            complete(cell.request, pipe.package.manifest)
    pictures: dict[tuple[int, ...], Image.Image] = {}
    results: list[Result] = []
    again = 0
    with ExitStack() as stack:
        opened: tuple[str, Pipeline] | None = None
        for number, cell in enumerate(found):
            if kept is not None and (there := _kept(kept.path(cell))) is not None:
                pictures[cell.place] = there
                again += 1
                continue
            drawing = pipe
            if cell.model is not None and open_model is not None:
                if opened is None or opened[0] != cell.model:
                    stack.close()
                    opened = (cell.model, stack.enter_context(open_model(cell.model)))
                drawing = opened[1]
            of_all = counted(on_step, number, len(found))
            result = drawing.generate(cell.request, on_step=of_all, cancel=cancel)
            results.append(result)
            pictures[cell.place] = result.images[0]
            if kept is not None:
                text = result.infotexts[0] if kept.metadata else None
                write_whole(kept.path(cell), encode(result.images[0], "png", text), overwrite=True)
    return _joined(pipe, request, axes, compose(pictures, axes), results, again)


def _described(request: Request, axes: Sequence[Axis], model: str) -> str:
    """A hash of everything that decides the cells, but a seed that is to be drawn."""
    parts = [__version__, model, *(f"{axis.name}={axis.texts!r}" for axis in axes)]
    edit = request.edit
    for image in () if edit is None else (edit.image, edit.mask):
        parts.append("" if image is None else hashlib.sha256(image.tobytes()).hexdigest())
    shown = replace(request, edit=None)
    settings = "" if edit is None else repr({**vars(edit), "image": None, "mask": None})
    parts += [repr(shown), settings]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _read(note: Path) -> dict[str, object] | None:
    try:
        found = json.loads(note.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"{note} cannot be read ({error}); remove its folder") from error
    return found if isinstance(found, dict) else {}


def _kept(path: Path) -> Image.Image | None:
    """A finished cell; one that cannot be read is drawn again."""
    try:
        return open_picture(path)
    except RequestError:
        return None


def _joined(
    pipe: Pipeline,
    request: Request,
    axes: Sequence[Axis],
    picture: Image.Image,
    results: Sequence[Result],
    again: int,
) -> Result:
    """One result of all cells."""
    manifest = pipe.package.manifest
    full = complete(request, manifest)
    extra = dict(pipe.fields)
    for letter, axis in zip(LETTERS.upper(), axes, strict=False):
        extra[f"{letter} Type"] = axis.name
        extra[f"{letter} Values"] = ", ".join(axis.texts)
    peaks = [result.peak_bytes for result in results if result.peak_bytes is not None]
    notes = tuple(dict.fromkeys(note for result in results for note in result.notes))
    if again:
        notes = (*notes, f"{again} pictures were there already")
    plan = results[-1].plan if results else pipe.plan(full)
    return Result(
        images=(picture,),
        seeds=(request.seed,),
        request=full,
        plan=plan,
        # What other sizes or models took says nothing about this plan.
        phases=tuple(phase for r in results if r.plan == plan for phase in r.phases),
        seconds=sum(result.seconds for result in results),
        peak_bytes=max(peaks, default=None),
        notes=notes,
        infotexts=(infotext(full, request.seed, manifest, __version__, extra),),
    )
