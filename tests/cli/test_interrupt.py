"""Ctrl-C: the first stops after the current step, the second at once; closed pipes are quiet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sdlite.cli.interrupt import Job

Start = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent as on POSIX")


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.02)


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def test_the_first_stops_after_the_step_and_keeps_what_is_finished(start: Start) -> None:
    process = start(0.1, "generate", "a", "-n", "3", "--steps", "5", "-o", "a.png")
    wait_for(lambda: "a-1.png" in names())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping after this step" in err
    assert "Traceback" not in err
    finished = names()
    assert finished in (["a-1.png"], ["a-1.png", "a-2.png"])
    assert out.splitlines() == finished
    assert f"stopped; {len(finished)} of 3 pictures" in err


def test_the_second_stops_inside_a_call(start: Start) -> None:
    process = start(2000, "generate", "a", "--steps", "1", "-o", "a.png")
    read_until(process, "[run unet]")
    process.send_signal(signal.SIGINT)
    read_until(process, "stopping after this step")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert names() == []


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"the process ended without saying {words!r}")


def test_a_job_elsewhere_than_in_the_main_thread_just_runs() -> None:
    import threading

    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(Job(lambda *_: 7).run()))
    thread.start()
    thread.join()
    assert found == [7]


def test_a_job_gives_back_the_handler_and_the_error() -> None:
    before = signal.getsignal(signal.SIGINT)

    def fail(*_: object) -> None:
        raise ValueError("as it was")

    with pytest.raises(ValueError, match="as it was"):
        Job(fail).run()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_reader_that_went_away_is_no_error(start: Start) -> None:
    process = start(0.0, "config")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as stream:
        err = stream.read()
    process.wait(timeout=60)
    assert err == ""
    assert process.returncode in (0, 1)


def test_everything_works_where_the_terminal_knows_latin_letters_only(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "sdlite.cli", "generate", "赤い丸", "-o", "丸.png", "--steps", "1"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\\u4e38.png\n"
    assert names() == ["丸.png"]
