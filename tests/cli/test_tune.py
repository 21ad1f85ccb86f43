"""``sdlite tune``: profiles measured, kept, and used by ``sdlite plan``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdlite.profiles import PROFILES
from tests.cli.conftest import Run


def test_measures_keeps_and_is_used(run: Run, home: Path) -> None:
    before = json.loads(run("plan", "a", "--profile", "balanced", "--json").stdout)
    assert before["tuned"] == []
    done = run("tune")
    assert done.exit_code == 0, done.output
    assert done.stdout.split()[:3] == ["PROFILE", "ENGINE", "PRECISION"]
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == list(PROFILES)
    assert "kept in" in done.stderr
    found = json.loads(run("plan", "a", "--profile", "balanced", "--json").stdout)
    receipts = {receipt["profile"]: receipt for receipt in found["tuned"]}
    assert receipts["quality"]["full"] == 20
    assert receipts["quality"]["psnr"] == 99
    assert receipts["quality"]["full"] > receipts["balanced"]["full"] > receipts["draft"]["full"]
    assert 10 < receipts["balanced"]["psnr"] < 99
    assert found["answers"]["full"] == round(receipts["balanced"]["full"])
    told = run("plan", "a", "--profile", "balanced").stdout
    assert "tuned: profile balanced took" in told
    assert "tuned" not in run("plan", "a").stdout
    # With other steps nothing is known.
    assert "tuned" not in run("plan", "a", "--profile", "balanced", "--steps", "9").stdout


def test_a_damaged_file_is_as_none(run: Run, home: Path) -> None:
    listed = json.loads(run("tune", "--steps", "3", "--json").stdout)
    assert [receipt["profile"] for receipt in listed["receipts"]] == list(PROFILES)
    (path,) = home.rglob("tune/*.json")
    path.write_text('[{"profile": 1}]')
    assert json.loads(run("plan", "a", "--json").stdout)["tuned"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "unknown model 'none'"),
        (["--steps", "0"], "steps '0' is not a whole number"),
        (["--precision", "bf61"], "Did you mean 'bf16'"),
        (["--runtime", "nul"], "Did you mean 'null'"),
    ],
)
def test_bad_input(run: Run, arguments: list[str], message: str) -> None:
    done = run("tune", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
