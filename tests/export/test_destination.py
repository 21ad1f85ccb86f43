"""A package folder is there completely or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdlite import destination
from sdlite.destination import package_folder
from sdlite.errors import OutputError
from sdlite.manifest import MANIFEST
from sdlite.package import Package


def write(folder: Path, text: str = "new") -> None:
    (folder / "unet").mkdir()
    (folder / "unet" / "weights.bin").write_text(text)
    (folder / MANIFEST).write_text("{}")


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def package(tiny_package: Package, tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    shutil.copytree(tiny_package.root, folder)
    return folder


def test_a_finished_body_becomes_the_package_and_leaves_nothing_else(tmp_path: Path) -> None:
    with package_folder(tmp_path / "deep" / "er" / "модель", 100) as folder:
        write(folder)
        assert not (tmp_path / "deep" / "er" / "модель").exists()
    assert listing(tmp_path / "deep" / "er") == [
        "модель",
        "модель/sdlite.json",
        "модель/unet",
        "модель/unet/weights.bin",
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interrupted_body_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), package_folder(tmp_path / "new" / "p", 1) as folder:
        write(folder)
        raise error
    assert listing(tmp_path) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"is full: 5\.0 MB needed"),
        package_folder(tmp_path / "p", 5_000_000) as folder,
    ):
        write(folder)
        raise OSError(errno.ENOSPC, "No space left on device")
    assert listing(tmp_path) == []


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + "/p", "a" * 240])
def test_a_name_that_is_too_long_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"cannot .*: .+"), package_folder(tmp_path / name, 1):
        pytest.fail("the body must not run")
    assert listing(tmp_path) == []


@pytest.mark.parametrize("method", ["exists", "is_dir", "iterdir"])
def test_a_folder_that_may_not_be_looked_at_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    (tmp_path / "p").mkdir()

    def refuse(self: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, refuse)
        with (
            pytest.raises(OutputError, match=r"cannot look at .*: Permission denied"),
            package_folder(tmp_path / "p", 1),
        ):
            pytest.fail("the body must not run")
    assert listing(tmp_path) == ["p"]


def test_too_little_space_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"1000000000\.00 GB needed, .* free"),
        package_folder(tmp_path / "a" / "p", 10**18),
    ):
        pytest.fail("the body must not run")
    assert listing(tmp_path) == []


def test_an_existing_package_needs_force(package: Path) -> None:
    before = listing(package.parent)
    with pytest.raises(OutputError, match="--force replaces it"), package_folder(package, 1):
        pytest.fail("the body must not run")
    assert listing(package.parent) == before


def test_force_replaces_the_whole_package(package: Path) -> None:
    with package_folder(package, 1, force=True) as folder:
        write(folder)
        assert (package / "tokenizer").is_dir()
    assert listing(package.parent) == [
        "old",
        "old/sdlite.json",
        "old/unet",
        "old/unet/weights.bin",
    ]


def test_an_open_package_can_be_replaced_or_stays(package: Path) -> None:
    weights = package / "unet" / "weights.bin"
    data = weights.read_bytes()
    with weights.open("rb") as stream:
        if os.name == "nt":
            with (
                pytest.raises(OutputError, match="another program has it open"),
                package_folder(package, 1, force=True) as folder,
            ):
                write(folder)
            assert weights.read_bytes() == data
        else:
            with package_folder(package, 1, force=True) as folder:
                write(folder)
            assert stream.read() == data
            assert weights.read_text() == "new"


def test_a_package_that_cannot_be_moved_stays(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(package.parent)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path == package:
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(OutputError, match="another program has it open"),
        package_folder(package, 1, force=True) as folder,
    ):
        write(folder)
    assert listing(package.parent) == before


def test_a_failed_last_rename_puts_the_old_package_back(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(package.parent)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name.endswith(".part"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(OutputError, match="Input/output error; nothing was kept"),
        package_folder(package, 1, force=True) as folder,
    ):
        write(folder)
    assert listing(package.parent) == before


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("a cat")
    with (
        pytest.raises(OutputError, match=r"other things \(cat.jpg\) and is no package"),
        package_folder(tmp_path / "photos", 1, force=True),
    ):
        pytest.fail("the body must not run")
    assert listing(tmp_path) == ["photos", "photos/cat.jpg"]


def test_a_package_with_a_foreign_file_is_not_replaced(package: Path) -> None:
    (package / "unet" / "notes.txt").write_text("mine")
    with (
        pytest.raises(OutputError, match=r"unet/notes\.txt in it is no part of the package"),
        package_folder(package, 1, force=True),
    ):
        pytest.fail("the body must not run")
    assert (package / "unet" / "notes.txt").read_text() == "mine"


def test_a_package_with_a_broken_manifest_is_not_replaced(package: Path) -> None:
    (package / MANIFEST).write_text("{")
    with (
        pytest.raises(OutputError, match="delete the folder yourself"),
        package_folder(package, 1, force=True),
    ):
        pytest.fail("the body must not run")


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / ".DS_Store").write_text("")
    with package_folder(tmp_path / "p", 1) as folder:
        write(folder)
    assert listing(tmp_path) == ["p", "p/sdlite.json", "p/unet", "p/unet/weights.bin"]


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file; give a folder"):
        package_folder(tmp_path / "file", 1).__enter__()
    with pytest.raises(OutputError, match="is a file; the package cannot lie inside it"):
        package_folder(tmp_path / "file" / "p", 1).__enter__()
    with pytest.raises(OutputError, match="no place for a package"):
        package_folder(Path(tmp_path.anchor), 1).__enter__()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no read-only folders")
def test_a_read_only_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    # Root may write anywhere, so the refusal is made here.
    monkeypatch.setattr(destination.os, "open", refuse)
    with pytest.raises(OutputError, match=r"cannot write in .*: Permission denied"):
        package_folder(tmp_path / "p", 1).__enter__()


def test_two_exports_to_one_place_are_kept_apart(tmp_path: Path) -> None:
    with package_folder(tmp_path / "p", 1) as folder:
        with (
            pytest.raises(OutputError, match=r"another export to .* is running"),
            package_folder(tmp_path / "p", 1),
        ):
            pytest.fail("the body must not run")
        write(folder)
    assert (tmp_path / "p" / MANIFEST).is_file()


KILLED = """
import sys, time
from pathlib import Path
from sdlite.destination import package_folder
with package_folder(Path(sys.argv[1]), 1, force=True) as folder:
    (folder / "half").write_text("half a package")
    print("ready", flush=True)
    time.sleep(60)
"""


@contextmanager
def killed_export(dest: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(dest)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    process.wait()
    process.stdout.close()
    yield


def test_what_a_killed_export_left_is_cleaned_by_the_next(tmp_path: Path) -> None:
    stranger = tmp_path / ".p.sdlite-old.part"
    stranger.mkdir()
    with killed_export(tmp_path / "p"):
        assert len(listing(tmp_path)) == 4  # stranger, lock, folder, file
    with package_folder(tmp_path / "p", 1) as folder:
        write(folder)
    assert listing(tmp_path)[:2] == [stranger.name, "p"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_package_moved_aside_by_a_killed_export_comes_back(
    package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package.rename(package.parent / f".old.sdlite-{'0' * 16}.old")
    with pytest.raises(OutputError, match="--force"), package_folder(package, 1):
        pytest.fail("the body must not run")
    assert "putting back" in caplog.text
    assert Package.open(package).root == package
    assert [path.name for path in package.parent.iterdir()] == ["old"]


def test_the_old_package_is_whole_until_the_new_one_is(package: Path) -> None:
    with package_folder(package, 1, force=True) as folder:
        write(folder)
        Package.open(package).verify()
    assert (package / "unet" / "weights.bin").read_text() == "new"
