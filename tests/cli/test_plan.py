"""``sdlite plan``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_unknown_then_learned_from_a_picture(run: Run, home: Path) -> None:
    done = run("plan", "a", "--steps", "4")
    assert done.exit_code == 0, done.output
    assert "time unknown; --measure finds out" in done.stdout
    assert "denoise  unet          null    null    -          4      -       -      unknown" in (
        done.stdout
    )
    assert run("generate", "a", "--steps", "2", "-o", "a.png").exit_code == 0
    found = json.loads(run("plan", "a", "--steps", "4", "--json").stdout)
    assert found["seconds"] >= 0
    assert {row["basis"] for row in found["phases"]} == {"small", "measured"}
    assert found["plan"]["placements"][1]["runtime"] == "null"
    assert not list(Path().glob("sdlite-*"))


def test_measure(run: Run) -> None:
    found = json.loads(run("plan", "--size", "72x80", "-n", "3", "--measure", "--json").stdout)
    assert found["images"] == 3
    assert found["seconds"] is not None
    again = run("plan", "--size", "144x80", "-n", "3")
    assert "scaled" in again.stdout
    assert "for 3 pictures" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "70x64"], "multiple of 8"),
        (["--max-memory", "1M"], "no plan fits"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--device", "nul"], "Did you mean 'null'"),
        (["--runtime", "nul"], "Did you mean 'null'"),
        (["--precision", "bf61"], "Did you mean 'bf16'"),
    ],
)
def test_bad_input(run: Run, arguments: list[str], message: str) -> None:
    done = run("plan", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
