"""Write pictures whole or not at all, and never over something by accident."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sdlite import metadata
from sdlite.errors import OutputError, RequestError, UnknownName

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("png", "jpg", "webp")
SUFFIXES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}
QUALITY = 95
"""Of JPEG and WebP."""
STEM = "sdlite"
"""What numbered pictures in a folder are called: ``sdlite-0001.png``."""
NUMBERED = re.compile(rf"{STEM}-(\d+)\.\w+", re.IGNORECASE)


@dataclass(frozen=True)
class Destination:
    """Where pictures go: one file, numbered files beside it, or the next numbers in a folder."""

    folder: Path
    """Folder of the pictures; made when the first one is written."""
    names: tuple[str, ...]
    """File names, one a picture; empty for the next free numbers."""
    format: str
    """``png``, ``jpg`` or ``webp``."""
    overwrite: bool = False
    """Whether ``names`` may replace files that are there."""
    quality: int = QUALITY
    """Of JPEG and WebP, 1 to 100."""
    _taken: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def check(self) -> None:
        """Refuse now what would fail after the work is done; raises ``OutputError``."""
        with _named_errors(self.folder):
            existing = self.folder
            while not existing.exists() and existing != existing.parent:
                existing = existing.parent
            if not existing.is_dir():
                raise OutputError(f"cannot write to {self.folder}: {existing} is not a folder")
            if not os.access(existing, os.W_OK | os.X_OK):
                raise OutputError(f"cannot write to {self.folder}: no permission")
        for name in self.names:
            path = self.folder / name
            with _named_errors(path):
                if path.is_dir():
                    raise OutputError(f"{path} is a folder; end its name with / to write into it")
                if path.exists() and not self.overwrite:
                    raise _exists(path)

    def save(self, index: int, image: Image, infotext: str | None = None) -> Path:
        """Write picture ``index`` of the job; raises ``OutputError`` and leaves nothing then."""
        data = encode(image, self.format, infotext, self.quality)
        make_folder(self.folder)
        if self.names:
            path = self.folder / self.names[index]
            write_whole(path, data, overwrite=self.overwrite)
            return path
        while True:
            path = self.folder / f"{STEM}-{self._next_number():04d}.{self.format}"
            # Somebody else may be counting in the same folder: the write decides who has a number.
            with contextlib.suppress(FileExistsError):
                _write(path, data, overwrite=False)
                return path

    def preview_path(self, index: int) -> Path:
        """A free name for the preview of picture ``index``, beside the picture."""
        stem = Path(self.names[index]).stem if self.names else STEM
        number = 1
        while True:
            mark = "" if number == 1 else f"-{number}"
            path = self.folder / f"{stem}.preview{mark}.png"
            with _named_errors(path):
                if self.overwrite or not path.exists():
                    return path
            number += 1

    def _next_number(self) -> int:
        with _named_errors(self.folder):
            found = [NUMBERED.fullmatch(entry.name) for entry in self.folder.iterdir()]
        present = max((int(match[1]) for match in found if match), default=0)
        number = max(present, self._taken.get("number", 0)) + 1
        self._taken["number"] = number
        return number


def destination(
    output: str | None, count: int, format: str | None = None, overwrite: bool = False
) -> Destination:
    """Read ``-o``: a picture's file name, or a folder.

    Args:
        output: path; a folder when it is one or ends with a separator or has no suffix. None is the
            current folder.
        count: pictures of the job; more than one are numbered ``NAME-1.png``, ``NAME-2.png`` ...
        format: ``png``, ``jpg`` or ``webp``; None is what the name says, else ``png``.
        overwrite: whether files that are there may be replaced.

    Raises:
        RequestError: the name and the format contradict each other, or neither is known.
        OutputError: nothing can be written there, or the file exists.
    """
    if format is not None and format not in FORMATS:
        raise UnknownName("picture format", format, FORMATS)
    path = Path(output or ".")
    with _named_errors(path):
        is_folder = path.is_dir()
    if output is None or output.endswith(("/", os.sep)) or not path.suffix or is_folder:
        result = Destination(path, (), format or "png", overwrite)
    else:
        named = SUFFIXES.get(path.suffix.lower())
        if named is None:
            raise RequestError(
                f"{path.name!r} names no picture format sdlite writes; use .png, .jpg or .webp, "
                "or end a folder's name with /"
            )
        if format not in (None, named):
            raise RequestError(f"{path.name!r} is not a name for format {format}")
        names: tuple[str, ...] = (path.name,)
        if count > 1:
            names = tuple(f"{path.stem}-{i + 1}{path.suffix}" for i in range(count))
        result = Destination(path.parent, names, named, overwrite)
    result.check()
    return result


def encode(image: Image, format: str, infotext: str | None = None, quality: int = QUALITY) -> bytes:
    """A picture as the bytes of a file, with its parameters when ``infotext`` is given.

    ``quality``, 1 to 100, is that of JPEG and WebP.
    """
    stream = io.BytesIO()
    if format == "png":
        image.save(stream, "PNG", pnginfo=metadata.png_text(infotext))
    elif format == "jpg":
        exif = metadata.exif_comment(infotext, metadata.JPEG_EXIF_BYTES)
        image.save(stream, "JPEG", quality=quality, subsampling=0, exif=exif)
    elif format == "webp":
        image.save(stream, "WEBP", quality=quality, exif=metadata.exif_comment(infotext))
    else:
        raise UnknownName("picture format", format, FORMATS)
    return stream.getvalue()


def write_whole(path: Path, data: bytes, overwrite: bool = False) -> None:
    """Write a file so that it is there completely or not at all, even when power fails.

    Raises:
        OutputError: it cannot be written, or it exists and ``overwrite`` is false.
    """
    try:
        _write(path, data, overwrite)
    except FileExistsError as error:
        raise _exists(path) from error


def _write(path: Path, data: bytes, overwrite: bool) -> None:
    # Names may have 255 bytes, and a letter up to 4.
    temporary = path.parent / f".{path.name[:40]}.{os.urandom(6).hex()}.tmp"
    with _named_errors(path):
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            _publish(temporary, path, overwrite)
        finally:
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    """Give the finished file its name; without ``overwrite`` only if nothing has it already."""
    if overwrite:
        temporary.replace(path)
        return
    if os.name == "nt":
        temporary.rename(path)  # Windows refuses to rename over a file
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here. FAT, network folders, FUSE and Android each say so with another error
        # number. Reserve the name first; a disk that does not work at all fails here again.
        path.open("xb").close()
        try:
            temporary.replace(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    """Make the new name durable; where folders cannot be synced, the file itself has been."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; raises ``OutputError``."""
    with _named_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutputError(
                f"cannot write {path}: the disk is full; nothing was left behind, free some space"
            ) from error
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _exists(path: Path) -> OutputError:
    return OutputError(f"{path} exists; choose another name or give --overwrite")
