from __future__ import annotations

import mmap
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sdlite import memory
from sdlite.memory import (
    MemoryUse,
    PeakWatch,
    high_water,
    release_file_pages,
    release_free_memory,
    snapshot,
)

pytestmark = pytest.mark.skipif(snapshot() is None, reason="the system does not tell")
SIZE = 64 << 20


def now() -> MemoryUse:
    use = snapshot()
    assert use is not None
    return use


def test_private_grows_and_shrinks() -> None:
    release_free_memory()
    before = now().private_bytes
    block = np.ones(SIZE, np.uint8)
    held = now().private_bytes
    assert held - before > SIZE * 0.8
    del block
    release_free_memory()
    assert held - now().private_bytes > SIZE * 0.8


def test_mapped_files_are_not_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    before = now()
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        total = sum(mapped[::4096])
        after = now()
    assert total == 0
    assert after.mapped_bytes - before.mapped_bytes > SIZE * 0.8
    assert after.private_bytes - before.private_bytes < SIZE * 0.5


def test_watch_sees_what_is_gone_at_the_end() -> None:
    before = now().private_bytes
    with PeakWatch(interval=0.002) as watch:
        block = np.ones(SIZE, np.uint8)
        time.sleep(0.05)
        del block
        release_free_memory()
    assert watch.private_bytes is not None
    assert watch.mapped_bytes is not None
    assert watch.peak_bytes is not None
    assert watch.private_bytes - before > SIZE * 0.8
    assert watch.peak_bytes >= watch.private_bytes + watch.mapped_bytes
    assert now().private_bytes < watch.private_bytes - SIZE * 0.5


def test_watch_ends_with_its_block() -> None:
    with pytest.raises(ValueError, match="inside"), PeakWatch() as watch:
        raise ValueError("inside")
    assert watch._thread is None
    assert watch.private_bytes is not None


def test_watch_can_be_used_again() -> None:
    watch = PeakWatch(interval=0.001)
    for _ in range(2):
        with watch:
            time.sleep(0.01)
    assert watch.private_bytes is not None


def test_high_water_is_no_less_than_now() -> None:
    mark = high_water()
    if mark is not None:
        use = now()
        # The kernel counts in batches of pages, so the two may differ by a little.
        assert mark > (use.private_bytes + use.mapped_bytes) * 0.9


def test_unknown_stays_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "snapshot", lambda: None)
    with PeakWatch() as watch:
        pass
    assert watch.private_bytes is None
    assert watch.mapped_bytes is None


def test_freed_memory_is_kept_until_it_is_asked_for() -> None:
    if sys.platform != "linux" or snapshot() is None:
        pytest.skip("glibc's allocator is Linux's")
    code = """
import ctypes, sys
from sdlite.memory import release_free_memory, reuse_freed_memory, snapshot
if not hasattr(ctypes.CDLL(None), "mallopt"):
    sys.exit(77)
reuse_freed_memory()
before = snapshot().private_bytes
blocks = [bytes([1]) * (4 << 20) for _ in range(16)]
blocks.clear()
kept = snapshot().private_bytes - before
release_free_memory()
left = snapshot().private_bytes - before
print(kept >> 20, left >> 20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    kept, left = map(int, done.stdout.split())
    assert kept > 48
    assert left < 16


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="madvise is Linux's")
def test_pages_of_a_mapped_file_are_let_go_of_and_come_back(tmp_path: Path) -> None:
    size = 32 << 20
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * (size // 256))
    with path.open("rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    assert sum(content[:: 4 << 10]) == 0  # every page is read, and resident
    before = snapshot()
    release_file_pages(path)
    after = snapshot()
    assert before is not None and after is not None
    assert before.mapped_bytes - after.mapped_bytes > size * 0.9
    assert content[1 : size : 1 << 20] == b"\x01" * 32
    content.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="madvise is Linux's")
def test_letting_go_of_one_file_leaves_another_alone(tmp_path: Path) -> None:
    paths = [tmp_path / "one.bin", tmp_path / "one.bin.other"]
    for path in paths:
        path.write_bytes(b"\1" * SIZE)
    with paths[1].open("rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    assert sum(content[:: 4 << 10]) == SIZE >> 12
    before = snapshot()
    release_file_pages(paths[0])
    release_file_pages(tmp_path / "missing.bin")
    after = snapshot()
    assert before is not None and after is not None
    assert before.mapped_bytes - after.mapped_bytes < SIZE / 10
    content.close()
