"""Pictures are written whole or not at all, and never over something by accident."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from sdlite import output
from sdlite.errors import OutputError, RequestError, UnknownName

PICTURE = Image.new("RGB", (16, 16), "red")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_file(tmp_path: Path) -> None:
    target = output.destination(str(tmp_path / "a.png"), 1)
    assert target.save(0, PICTURE) == tmp_path / "a.png"
    assert names(tmp_path) == ["a.png"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (16, 16)


def test_several_pictures_for_one_name(tmp_path: Path) -> None:
    target = output.destination(str(tmp_path / "a.jpg"), 2)
    for index in range(2):
        target.save(index, PICTURE)
    assert names(tmp_path) == ["a-1.jpg", "a-2.jpg"]


def test_numbers_in_a_folder_go_on(tmp_path: Path) -> None:
    (tmp_path / "sdlite-0007.jpg").touch()
    (tmp_path / "sdlite-x.png").touch()
    target = output.destination(str(tmp_path), 2)
    assert target.save(0, PICTURE).name == "sdlite-0008.png"
    assert target.save(1, PICTURE).name == "sdlite-0009.png"


def test_a_new_folder_is_made_when_the_first_picture_is(tmp_path: Path) -> None:
    target = output.destination(str(tmp_path / "new" / "deep") + os.sep, 1)
    assert names(tmp_path) == []
    assert target.save(0, PICTURE) == tmp_path / "new" / "deep" / "sdlite-0001.png"


def test_spaces_and_other_scripts(tmp_path: Path) -> None:
    target = output.destination(str(tmp_path / "мои картинки" / "赤い 丸.webp"), 1)
    assert target.save(0, PICTURE).name == "赤い 丸.webp"


def test_two_writers_in_one_folder_lose_nothing(tmp_path: Path) -> None:
    def write() -> None:
        target = output.destination(str(tmp_path), 8)
        for index in range(8):
            target.save(index, PICTURE)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([name for name in names(tmp_path) if name.endswith(".png")]) == 32
    assert len(names(tmp_path)) == 32


def test_never_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="--overwrite"):
        output.destination(str(path), 1)
    assert path.read_bytes() == b"mine"


def test_never_over_a_file_that_came_later(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    target = output.destination(str(path), 1)
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        target.save(0, PICTURE)
    assert path.read_bytes() == b"mine"
    assert names(tmp_path) == ["a.png"]


def test_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    output.destination(str(path), 1, overwrite=True).save(0, PICTURE)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert names(tmp_path) == ["a.png"]


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    target = output.destination(str(tmp_path / "a.png"), 1)
    assert target.save(0, PICTURE) == tmp_path / "a.png" / "sdlite-0001.png"
    (tmp_path / "b-1.png").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        output.destination(str(tmp_path / "b.png"), 2)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not a folder"):
        output.destination(str(tmp_path / "file" / "a.png"), 1)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind here"
)
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission"):
        output.destination(str(tmp_path / "a.png"), 1)


TOO_LONG = "a" * 300


@pytest.mark.parametrize(
    "name", [f"{TOO_LONG}.png", f"{TOO_LONG}/a.png", f"{TOO_LONG}/", TOO_LONG, f"{'a' * 251}.png"]
)
def test_a_name_that_is_too_long(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*a{200}.*: .+"):
        output.destination(str(tmp_path / name), 2)
    assert names(tmp_path) == []


def test_a_long_name_that_is_allowed(tmp_path: Path) -> None:
    name = "丸" * 83 + ".png"
    target = output.destination(str(tmp_path / name), 1)
    assert target.save(0, PICTURE).name == name
    with pytest.raises(OutputError, match=r"cannot write .*\.preview\.png"):
        target.preview_path(0)


@pytest.mark.parametrize("method", ["is_dir", "exists", "iterdir"])
def test_a_folder_that_may_not_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    target = output.Destination(tmp_path, (), "png")

    def refuse(self: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(OutputError, match=r"cannot write .*: Permission denied"):
        output.destination(str(tmp_path / "a.png"), 1)
        target.save(0, PICTURE)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def fail(handle: int) -> None:
        raise OSError(error, os.strerror(error))

    target = output.destination(str(tmp_path / "a.png"), 1)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=r"a\.png") as caught:
        target.save(0, PICTURE)
    assert ("disk is full" in str(caught.value)) == (error == errno.ENOSPC)
    assert names(tmp_path) == []


FILE_SIZE_LIMIT = """
import resource, signal, sys
from pathlib import Path
from sdlite.errors import OutputError
from sdlite.output import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(Path(sys.argv[1]), bytes(5000))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits on Windows")
def test_a_write_the_system_stops_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILE_SIZE_LIMIT, str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot write" in done.stdout
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS])
def test_file_systems_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError(error, "no links here")

    monkeypatch.setattr(os, "link", fail, raising=False)
    output.write_whole(tmp_path / "a", b"one")
    with pytest.raises(OutputError, match="exists"):
        output.write_whole(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert names(tmp_path) == ["a"]


def test_a_reserved_name_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "link", fail, raising=False)
    monkeypatch.setattr(Path, "replace", fail)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="broken"):
        output.write_whole(tmp_path / "a", b"one")
    assert names(tmp_path) == []


def test_formats_and_names(tmp_path: Path) -> None:
    for name, format in (("a.png", "png"), ("a.JPG", "jpg"), ("a.jpeg", "jpg"), ("a.webp", "webp")):
        assert output.destination(str(tmp_path / name), 1).format == format
    assert output.destination(str(tmp_path), 1, "webp").format == "webp"
    with pytest.raises(RequestError, match="no picture format"):
        output.destination(str(tmp_path / "a.bmp"), 1)
    with pytest.raises(RequestError, match="not a name for format png"):
        output.destination(str(tmp_path / "a.jpg"), 1, "png")
    with pytest.raises(UnknownName, match="Did you mean 'webp'"):
        output.destination(str(tmp_path), 1, "wepb")


def test_preview_names(tmp_path: Path) -> None:
    target = output.destination(str(tmp_path / "a.jpg"), 1)
    assert target.preview_path(0).name == "a.preview.png"
    (tmp_path / "a.preview.png").touch()
    assert target.preview_path(0).name == "a.preview-2.png"
    assert output.destination(str(tmp_path), 1).preview_path(0).name == "sdlite.preview.png"
