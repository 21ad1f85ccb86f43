"""``--deadline``: measured once, chosen, told, kept for all pictures."""

from __future__ import annotations

import json

from tests.cli.conftest import Run


def test_time_enough_changes_nothing(run: Run) -> None:
    done = run("generate", "a", "--deadline", "5m", "--seed", "1", "-o", "a.png", "--no-progress")
    assert done.exit_code == 0, done.output
    assert "measuring how fast this machine is" in done.stderr
    assert "instead of" not in done.stderr
    again = run("generate", "a", "--deadline", "5m", "--seed", "1", "-o", "b.png", "--no-progress")
    assert "measuring" not in again.stderr


def test_no_time_says_the_least(run: Run) -> None:
    done = run("generate", "a", "--deadline", "0.0001s", "-o", "a.png")
    assert done.exit_code == 2
    assert "--deadline 0.0001 s cannot be met: the least is" in done.stderr
    assert " steps at 64x64, profile draft" in done.stderr


def test_the_choice_holds_for_all_pictures(run: Run) -> None:
    assert run("generate", "a", "--steps", "1", "-o", "first.png").exit_code == 0
    done = run("generate", "a", "b", "--deadline", "5m", "-o", "out/", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["images"]) == 2
