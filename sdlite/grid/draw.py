"""Draw a grid: cell by cell, keeping each, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from PIL import Image

from sdlite import __version__
from sdlite.edit.state import fingerprint, pack_request
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

    def seeded(self, request: Request, axes: Sequence[Axis], pipe: Pipeline) -> Request:
        """The request with its seed, drawn now or when the grid was begun; writes nothing.

        Raises:
            OutputError: the folder holds another grid.
        """
        before = _read(self.folder / NOTE)
        if before is None:
            return _seeded(request)
        seed = before.get("seed")
        if before.get("grid") != _described(request, axes, pipe) or not isinstance(seed, int):
            raise OutputError(
                f"{self.folder} holds pictures of another grid; give another folder, or remove it"
            )
        return replace(request, seed=seed)

    def begin(self, asked: Request, axes: Sequence[Axis], pipe: Pipeline, seed: int) -> None:
        """Note which grid the folder holds; ``asked`` is the request before ``seeded``.

        Raises:
            OutputError: it cannot be written.
        """
        if (self.folder / NOTE).exists():
            return
        make_folder(self.folder)
        text = json.dumps({"grid": _described(asked, axes, pipe), "seed": seed}, indent=1)
        write_whole(self.folder / NOTE, text.encode())

    def picture(self, cell: Cell) -> Image.Image | None:
        """A cell that was drawn before; what is damaged is drawn again."""
        try:
            return open_picture(self.path(cell))
        except RequestError:
            return None


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
    asked = request
    request = _seeded(request) if kept is None else kept.seeded(request, axes, pipe)
    found = cells(request, axes)
    if open_model is None and any(cell.model is not None for cell in found):
        raise RequestError("an axis of models needs something that opens them")
    pictures: dict[tuple[int, ...], Image.Image] = {}
    if kept is not None:
        there = ((cell.place, kept.picture(cell)) for cell in found)
        pictures = {place: picture for place, picture in there if picture is not None}
    again = len(pictures)
    # Whatever is wrong with the last cell is said before the first is drawn.
    for drawing, _, cell in _drawn_with(pipe, open_model, found, pictures):
        drawing.plan(cell.request)
    if kept is not None:
        kept.begin(asked, axes, pipe, request.seed)
    results: list[Result] = []
    for drawing, number, cell in _drawn_with(pipe, open_model, found, pictures):
        of_all = counted(on_step, number, len(found))
        result = drawing.generate(cell.request, on_step=of_all, cancel=cancel)
        results.append(result)
        pictures[cell.place] = result.images[0]
        if kept is not None:
            text = result.infotexts[0] if kept.metadata else None
            write_whole(kept.path(cell), encode(result.images[0], "png", text), overwrite=True)
    return _joined(pipe, request, axes, compose(pictures, axes), results, again)


def _seeded(request: Request) -> Request:
    return replace(request, seed=draw_seed()) if request.seed == -1 else request


def _drawn_with(
    pipe: Pipeline,
    open_model: OpenModel | None,
    found: Sequence[Cell],
    pictures: Mapping[tuple[int, ...], Image.Image],
) -> Iterator[tuple[Pipeline, int, Cell]]:
    """Cells whose pictures are missing, each with its number and what draws it.

    One model is open at a time, and those whose pictures are all there are not opened.
    """
    missing = [(number, cell) for number, cell in enumerate(found) if cell.place not in pictures]
    for model, group in groupby(missing, lambda numbered: numbered[1].model):
        with nullcontext(pipe) if model is None or open_model is None else open_model(model) as one:
            for number, cell in group:
                yield one, number, cell


def _described(request: Request, axes: Sequence[Axis], pipe: Pipeline) -> str:
    """A hash of everything that decides the cells, but a seed that is to be drawn."""
    job, pictures = pack_request(request)
    parts = [__version__, fingerprint(pipe.package), json.dumps(job, sort_keys=True)]
    parts += [f"{axis.name}={axis.texts!r}" for axis in axes]
    for place, image in sorted(pictures.items()):
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
        parts.append(f"{place} {image.mode} {image.size} {pixels}")
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
