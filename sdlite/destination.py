"""Package folders that are there completely or not at all.

Everything is written into a hidden folder beside the destination and renamed at the end. A lock
beside it keeps two exports to one place apart, so whatever an earlier, killed run left under our
own names can be cleaned away, or, where it died between two renames, be put back.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from sdlite.errors import OutputError, PackageError
from sdlite.manifest import MANIFEST, read_manifest
from sdlite.package import Package

log = logging.getLogger("sdlite.destination")

LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that systems drop into folders on their own."""


@contextlib.contextmanager
def package_folder(dest: Path, needed: int, *, force: bool = False) -> Iterator[Path]:
    """Give a new empty folder to write a package into; make it ``dest`` when the body is done.

    Args:
        dest: where the package is to be; its parent is created when missing.
        needed: bytes the package will take; checked against the free disk space first.
        force: whether a package that is there may be replaced.

    Raises ``OutputError``, before anything is written, when ``dest`` is taken, its folder cannot be
    written, another export to it runs, or the space is not there; and when writing fails. Whatever
    ends the body early, nothing of it stays and an older package is as it was.
    """
    dest = _resolve(dest)
    created = _make_parents(dest.parent)
    try:
        with _locked(dest) as alone:
            if alone:
                with _looking(dest.parent):
                    clean_leftovers(dest)
            check_replaceable(dest, force)
            check_space(dest.parent, needed)
            folder = _sibling(dest, "part")
            try:
                folder.mkdir()
            except OSError as error:
                raise OutputError(f"cannot write in {dest.parent}: {_why(error)}") from error
            try:
                yield folder
                _sync_tree(folder)
                _publish(folder, dest)
            except OSError as error:
                raise _write_error(dest, needed, error) from error
            finally:
                if folder.exists():
                    remove_tree(folder)
    except BaseException:
        for parent in created:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def check_replaceable(dest: Path, force: bool) -> None:
    """Raise ``OutputError`` unless ``dest`` is free, empty, or a package and ``force`` is given."""
    with _looking(dest):
        _check_replaceable(dest, force)


def _check_replaceable(dest: Path, force: bool) -> None:
    if not os.path.lexists(dest):
        return
    if not dest.is_dir():
        raise OutputError(f"{dest} is a file; give a folder for the package")
    entries = sorted(entry.name for entry in dest.iterdir() if entry.name not in LITTER)
    if not entries:
        return
    if MANIFEST not in entries:
        raise OutputError(
            f"{dest} holds other things ({entries[0]}) and is no package; give a folder of its own"
        )
    if not force:
        raise OutputError(f"{dest} is a package already; --force replaces it")
    try:
        package = Package(dest, read_manifest(dest))
    except PackageError as error:
        raise OutputError(
            f"{dest} is not replaced, as its manifest does not say which files are its own "
            f"({error}); delete the folder yourself"
        ) from error
    own = {MANIFEST, *(entry.path for entry in package.files())}
    for path in sorted(dest.rglob("*")):
        name = path.relative_to(dest).as_posix()
        if not path.is_dir() and name not in own and path.name not in LITTER:
            raise OutputError(
                f"{dest} is not replaced, as {name} in it is no part of the package; move it away"
            )


def check_space(folder: Path, needed: int) -> None:
    """Raise ``OutputError`` when the disk of ``folder`` has less than ``needed`` bytes free."""
    with _looking(folder):
        free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"not enough disk space at {folder}: {_size(needed)} needed, {_size(free)} free"
        )


def clean_leftovers(dest: Path) -> None:
    """Remove what killed runs left beside ``dest`` under our names; put an old package back.

    Only called with the lock held, so no living run owns these folders.
    """
    ours = re.compile(re.escape(f".{dest.name}.sdlite-") + r"[0-9a-f]{16}\.(part|old)")
    for path in sorted(dest.parent.iterdir()):
        match = ours.fullmatch(path.name)
        if match is None or path.is_symlink() or not path.is_dir():
            continue
        if match[1] == "old" and not dest.exists():
            log.warning("putting back %s, which an interrupted export had moved away", dest)
            path.rename(dest)
        else:
            remove_tree(path)


def remove_tree(path: Path) -> None:
    """Delete a folder of ours as far as possible; what stays is cleaned at the next export."""

    def writable(function: Callable[[str], object], name: str, _: object) -> None:
        # Windows refuses to delete read-only files.
        with contextlib.suppress(OSError):
            Path(name).chmod(stat.S_IWRITE | stat.S_IREAD | stat.S_IEXEC)
            function(name)

    with contextlib.suppress(OSError):
        shutil.rmtree(path, onerror=writable)
    if path.exists():
        log.warning("could not remove %s; the next export to the same place will", path)


def _publish(folder: Path, dest: Path) -> None:
    """Rename the finished folder; an older package is moved aside first and deleted last."""
    aside: Path | None = None
    if dest.exists():
        if any(entry.name not in LITTER for entry in dest.iterdir()):
            aside = _sibling(dest, "old")
            try:
                dest.rename(aside)
            except OSError as error:
                raise OutputError(
                    f"{dest} cannot be replaced ({_why(error)}): another program has it open. "
                    "Close it and export again; the old package is unchanged"
                ) from error
        else:
            remove_tree(dest)
    try:
        folder.rename(dest)
    except BaseException:
        if aside is not None:
            aside.rename(dest)
        raise
    _sync_folder(dest.parent)
    if aside is not None:
        remove_tree(aside)


@contextlib.contextmanager
def _locked(dest: Path) -> Iterator[bool]:
    """Hold the lock of a destination; gives False where the file system knows no locks."""
    path = dest.parent / f".{dest.name}.sdlite-lock"
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(f"cannot write in {dest.parent}: {_why(error)}") from error
        try:
            alone = _lock(handle, dest)
        except BaseException:
            os.close(handle)
            raise
        if not alone or _same_file(handle, path):
            break
        os.close(handle)  # its last owner deleted it while we opened it
    try:
        yield alone
    finally:
        if os.name == "nt":  # an open file cannot be deleted there
            os.close(handle)
        with contextlib.suppress(OSError):
            path.unlink()
        if os.name != "nt":
            os.close(handle)


def _lock(handle: int, dest: Path) -> bool:
    try:
        _lock_file(handle)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise OutputError(
                f"another export to {dest} is running; wait for it or give another folder"
            ) from error
        return False
    return True


if sys.platform == "win32":

    def _lock_file(handle: int) -> None:
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:

    def _lock_file(handle: int) -> None:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _resolve(dest: Path) -> Path:
    try:
        resolved = dest.resolve()
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{dest} cannot be used: {error}") from error
    if not resolved.name:
        raise OutputError(f"{resolved} is no place for a package; give a folder inside it")
    return resolved


def _make_parents(folder: Path) -> list[Path]:
    """Create missing folders; returns those created, innermost first."""
    missing = []
    with _looking(folder):
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        is_folder = folder.is_dir()
    if not is_folder:
        raise OutputError(f"{folder} is a file; the package cannot lie inside it")
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
    except OSError as error:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise OutputError(f"cannot create {missing[0]}: {_why(error)}") from error
    return missing


@contextlib.contextmanager
def _looking(path: Path) -> Iterator[None]:
    """What the system says to names it does not take and folders it does not show."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot look at {path}: {_why(error)}") from error


def _sibling(dest: Path, kind: str) -> Path:
    return dest.parent / f".{dest.name}.sdlite-{secrets.token_hex(8)}.{kind}"


def _sync_tree(folder: Path) -> None:
    """Make sure every byte is on the disk before the name is."""
    for path in folder.rglob("*"):
        if path.is_dir():
            _sync_folder(path)
        else:
            with path.open("r+b") as stream:
                os.fsync(stream.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # folders cannot be opened there; the system journals renames itself
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_error(dest: Path, needed: int, error: OSError) -> OutputError:
    if error.errno == errno.ENOSPC:
        return OutputError(
            f"the disk of {dest.parent} is full: {_size(needed)} needed; nothing was kept"
        )
    return OutputError(f"cannot write {dest}: {_why(error)}; nothing was kept")


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**8 else f"{count / 1e6:.1f} MB"
