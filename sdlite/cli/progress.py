"""What a run shows while it works: a bar with step, seconds per step and time left; a preview."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from sdlite.cli.terminal import detect, draw
from sdlite.output import Destination, encode, make_folder, write_whole

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdlite.preview import LinearMap
    from sdlite.types import Float32, Step

BAR = "{desc}{percentage:3.0f}%|{bar:24}| step {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
BYTE_BAR = "{desc}{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
TILE_BAR = "{percentage:3.0f}%|{bar:24}| tile {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
REDRAW_SECONDS = 0.15


def wanted(asked: bool | None) -> bool:
    """Whether to show progress: as asked, else only where somebody watches."""
    return sys.stderr.isatty() if asked is None else asked


class _Bar:
    """What closes its bar, where there is one, when a ``with`` block ends."""

    _bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class StepBar(_Bar):
    """One bar over all steps of all pictures of a job.

    Args:
        pictures: how many pictures the job has.
        shown: whether there is a bar at all.
    """

    def __init__(self, pictures: int, shown: bool) -> None:
        self._pictures = pictures
        self._picture = 0
        self._seconds: list[float] = []
        self._last = time.perf_counter()
        if shown:
            from tqdm import tqdm

            self._bar = tqdm(total=0, bar_format=BAR, file=sys.stderr, leave=False, mininterval=0)

    def begin(self, picture: int) -> None:
        """Picture number ``picture`` (from 0) starts."""
        self._picture = picture
        self._last = time.perf_counter()
        if self._bar is not None and self._pictures > 1:
            self._bar.set_description_str(f"picture {picture + 1}/{self._pictures} ", refresh=False)

    def step(self, step: Step) -> None:
        """A step is done."""
        now = time.perf_counter()
        self._seconds.append(now - self._last)
        self._last = now
        if self._bar is None:
            return
        # The first step of a picture also opened the model: it says nothing about the others.
        typical = sorted(self._seconds)[len(self._seconds) // 2]
        self._bar.total = self._pictures * step.total
        self._bar.n = self._picture * step.total + step.index + 1
        self._bar.set_postfix_str(f"{typical:.{2 if typical >= 0.1 else 4}f} s/step", refresh=False)
        self._bar.refresh()

    def hide(self) -> None:
        """Take the bar off the screen until the next step, so that a line can be printed."""
        if self._bar is not None:
            self._bar.clear()

    def write(self, text: str) -> None:
        """Put text above the bar."""
        if self._bar is not None:
            self._bar.clear()
        click.echo(text, nl=False, err=True)
        if self._bar is not None:
            self._bar.refresh()


class ByteBar(_Bar):
    """A bar over bytes, for exports, downloads and checks.

    Called with the bytes just done, or through ``update`` with done and total.
    """

    def __init__(self, total: int | None, shown: bool, label: str = "") -> None:
        self._when = 0.0
        if shown:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                desc=label,
                unit="B",
                unit_scale=True,
                bar_format=BYTE_BAR,
                file=sys.stderr,
                leave=False,
            )

    def __call__(self, count: int) -> None:
        """So many bytes more are done."""
        if self._bar is not None:
            self._bar.update(count)

    def set(self, label: str, done: int, total: int) -> None:
        """What is being done, and how much of it is."""
        now = time.perf_counter()
        if self._bar is not None and (now - self._when > REDRAW_SECONDS or done == total):
            self._when = now
            self._bar.set_description_str(f"{label} " if label else "", refresh=False)
            if total != self._bar.total:
                # Another count begins: how long the one before took says nothing of it.
                self._bar.reset(total)
                self._bar.initial = done
            self._bar.n = done
            self._bar.refresh()


class TileBar(_Bar):
    """A bar over the tiles of a picture.

    Args:
        shown: whether there is a bar at all.
    """

    def __init__(self, shown: bool) -> None:
        if shown:
            from tqdm import tqdm

            self._bar = tqdm(total=0, bar_format=TILE_BAR, file=sys.stderr, leave=False)

    def set(self, done: int, total: int) -> None:
        """So many tiles are done."""
        if self._bar is not None:
            self._bar.total, self._bar.n = total, done
            self._bar.refresh()


class Preview:
    """Shows the growing picture in the terminal, or keeps a file of it.

    Args:
        linear: the model's linear map from latents to colours; None when it has none.
        factor: pixels per latent cell.
        bar: what else is on the screen.
        writing: the lock to hold while a file is written.
        quiet: whether nothing may be printed; files are still kept.
        decode: makes a picture of latents where the model has a decoder for that, instead of the
            map.
    """

    def __init__(
        self,
        linear: LinearMap | None,
        factor: int,
        bar: StepBar,
        writing: threading.Lock,
        quiet: bool = False,
        decode: Callable[[Float32], Image] | None = None,
    ) -> None:
        self._decode = decode
        self._linear = linear
        self._factor = factor
        self._bar = bar
        self._writing = writing
        self._quiet = quiet
        self._protocol = detect(sys.stderr, os.environ)
        self._path: Path | None = None
        self._overwrite = False
        self._drawn = False
        self._when = 0.0

    def begin(self, target: Destination, picture: int) -> None:
        """Picture number ``picture`` (from 0) starts."""
        self._drawn = False
        self._when = 0.0
        if self._protocol is None:
            self._path = target.preview_path(picture)
            self._overwrite = target.overwrite

    def step(self, step: Step) -> None:
        """Show what the model expects after this step."""
        if self._quiet and self._protocol is not None:
            return
        now = time.perf_counter()
        if now - self._when < REDRAW_SECONDS and step.index + 1 < step.total:
            return
        self._when = now
        small, size = self._picture(step.x0)
        if self._protocol is not None:
            self._bar.write(draw(small, self._protocol, again=self._drawn))
        elif self._path is not None:
            large = small.resize(size)
            # The name was free when the picture began; from the second step on the file is ours.
            overwrite = self._drawn or self._overwrite
            data = encode(large, "png")
            with self._writing:
                make_folder(self._path.parent)
                write_whole(self._path, data, overwrite)
        self._drawn = True

    def _picture(self, latents: Float32) -> tuple[Image, tuple[int, int]]:
        """What is shown of latents, and the size of the picture they become."""
        from PIL import Image

        from sdlite.preview import to_picture

        height, width = latents.shape[2:]
        size = (width * self._factor, height * self._factor)
        if self._decode is not None:
            return self._decode(latents), size
        return Image.fromarray(to_picture(latents[0], self._linear)), size

    def end(self, picture: Image) -> None:
        """Show the finished picture in place of the last preview, or say where the file is."""
        if self._quiet:
            return
        if self._protocol is not None:
            self._bar.write(draw(picture, self._protocol, again=self._drawn))
        elif self._path is not None and self._drawn:
            self._bar.write(f"sdlite: preview in {self._path}\n")
