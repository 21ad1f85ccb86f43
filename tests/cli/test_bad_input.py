"""Bad requests: one clear line on standard error, the right exit code, and nothing left behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Run

HUGE = "9" * 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--steps", "0"], "steps '0' is not a whole number from 1 to 1000"),
        (["a", "--steps", "-3"], "whole number from 1"),
        (["a", "--steps", "ten"], "whole number"),
        (["a", "--steps", HUGE], "whole number"),
        (["a", "--size", "63x64"], "width 63 is not a multiple of 8; try 56 or 64"),
        (["a", "--size", "64x100"], "height 100 is not a multiple of 8; try 96 or 104"),
        (["a", "--size", "0x64"], "width 0 is not between 8 and 4096"),
        (["a", "--size", "8192x64"], "not between 8 and 4096"),
        (["a", "--size", "999999999x999999999"], "not between 8 and 4096"),
        (["a", "--size", "big"], "is not WIDTHxHEIGHT in pixels, like 512x768"),
        (["a", "--guidance", "-1"], "number from 0 to 100"),
        (["a", "--guidance", "nan"], "number from 0 to 100"),
        (["a", "--seed", "-2"], "from -1 to 18446744073709551615"),
        (["a", "--seed", str(2**64)], "from -1 to 18446744073709551615"),
        (["a", "--seed", HUGE], "from -1 to 18446744073709551615"),
        (["a", "-n", "0"], "whole number from 1"),
        (["a", "--threads", "0"], "whole number from 1"),
        (["a", "--sampler", "DPM++ 2N"], "unknown sampler 'DPM++ 2N'. Did you mean 'DPM++ 2M'?"),
        (["a", "--sampler", "nonsense"], "unknown sampler 'nonsense'"),
        (["a", "--schedule", "karas"], "unknown schedule 'karas'. Did you mean 'Karras'?"),
        (["a", "--rng", "cpi"], "unknown --rng 'cpi'. Did you mean 'cpu'?"),
        (["a", "--precision", "fp61"], "Did you mean 'fp16'?"),
        (["a", "--precision", "fp16"], "nothing here computes in fp16: null null in fp32"),
        (["a", "--cache-limit", "some"], "not an amount of memory, like 1.5G or 900M"),
        (["a", "--memory-mode", "maped"], "Did you mean 'mapped'?"),
        (["a", "--max-memory", "lots"], "not an amount of memory, like 1.5G or 900M"),
        (["a", "--max-memory", "1M"], "no plan fits"),
        (["a", "--deadline", "soon"], "deadline 'soon' is not a time, like 30s or 2m"),
        (["a", "--deadline", "0"], "is not a time, like 30s or 2m"),
        (["a", "--deadline", "9s", "--hires", "2"], "leave --deadline or --hires out"),
        (["a", "--vae-tiles", "65"], "--vae-tiles '65' is not a whole number from 1 to 64"),
        (["a", "--format", "pgn"], "Did you mean 'png'?"),
        (["a", "--model", "tony"], "unknown model 'tony'. Did you mean 'tiny'?"),
        (["a", "--model", "./none"], "no such file or folder"),
        (["a", "--model", "none.safetensors"], "no model at none.safetensors: there is no such"),
        (["a", "--runtime", "nul"], "Did you mean 'null'?"),
        (["a", "--device", "gpu"], "unknown device 'gpu'"),
        (["a", "-o", "a.bmp"], "use .png, .jpg or .webp"),
        (["a", "-o", "a.png", "-f", "jpg"], "not a name for format jpg"),
        (["a", "--clip-skip", "0"], "whole number from 1 to 12"),
        (["a", "--clip-skip", "3"], "clip skip 3 is not among"),
        (["a", "--emphasis", "Orginal"], "unknown --emphasis 'Orginal'. Did you mean 'Original'?"),
        (["a", "--guidance-rescale", "2"], "number from 0 to 1"),
        (["a", "--guidance-interval", "5-1"], "is not LOW-HIGH in sigmas, like 0.3-5.4"),
        (["a", "--guidance-interval", "low"], "is not LOW-HIGH in sigmas"),
        (["a", "--sigmas", "3,high"], "is not a list of noise levels, like 14.6,7,3"),
        (["a", "--sigmas", "3,5"], "sigma 5 does not fall: the one before is 3"),
        (["a", "--sigmas", "3,-1"], "sigma -1 is not a level of noise"),
        (["a", "--variation-strength", "2"], "number from 0 to 1"),
        (["a", "--variation-seed", "-3"], "a whole number from -1"),
        (["a", "--seed-resize", "512"], "is not WIDTHxHEIGHT"),
        (["a", "--seed-resize", "60x64"], "60 is not a multiple of 8"),
        (["a", "--ensd", "x"], "a whole number from"),
        (["a", "--eta", "1.1"], "number from 0 to 1"),
        (["a", "--s-churn", "1e9"], "number from 0 to 100"),
        (["a", "--schedule", "Karas"], "Did you mean 'Karras'"),
        (["a", "--style", "Photo"], "cannot read styles from"),
        (["a", "--styles-file", "none.csv", "--style", "x"], "cannot read styles from none.csv"),
        (["a", "--wildcards", "nowhere"], "wildcards 'nowhere' is no folder"),
        (["(a:" + "9" * 50 + ")"], "the weight 1e+50 of 'a' is too large"),
        (["a", "--prompts-file", "none.txt"], "cannot read prompts from none.txt"),
        (["a", "--stpes", "3"], "--steps"),
        (["a", "--steps"], "requires an argument"),
        ([], "no prompt; try: sdlite generate"),
        (["-"], "there is no prompt in standard input"),
    ],
)
def test_one_line_and_exit_code_2(run: Run, arguments: list[str], message: str) -> None:
    done = run("generate", *arguments, input="")
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("sdlite: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert list(Path().iterdir()) == []


def test_an_empty_prompt_is_allowed(run: Run) -> None:
    assert run("generate", "", "-o", "a.png", "--steps", "1").exit_code == 0


def test_ten_thousand_words(run: Run) -> None:
    done = run("generate", "word " * 10_000, "-o", "a.png", "--steps", "1")
    assert done.exit_code == 0, done.output
    assert run("info", "a.png").stdout.startswith("word word word")


def test_a_prompt_beyond_all_measure(run: Run) -> None:
    Path("p.txt").write_text("x" * 1_000_001)
    done = run("generate", "--prompts-file", "p.txt")
    assert done.exit_code == 2
    assert "1000001 characters" in done.stderr


def test_prompts_that_are_not_utf8(run: Run) -> None:
    Path("p.txt").write_bytes(b"caf\xe9 \xff\n")
    done = run("generate", "--prompts-file", "p.txt")
    assert done.exit_code == 2
    assert "not UTF-8" in done.stderr


def test_never_over_a_file(run: Run) -> None:
    Path("a.png").write_bytes(b"mine")
    done = run("generate", "a", "-o", "a.png")
    assert done.exit_code == 1
    assert done.stderr == ("sdlite: error: a.png exists; choose another name or give --overwrite\n")
    assert Path("a.png").read_bytes() == b"mine"
    assert run("generate", "a", "-o", "a.png", "--overwrite").exit_code == 0
    assert Path("a.png").read_bytes() != b"mine"


def test_unwritable_output_is_told_before_the_work(run: Run) -> None:
    Path("file").touch()
    done = run("generate", "a", "-o", "file/a.png", "--progress")
    assert done.exit_code == 1
    assert "is not a folder" in done.stderr
    assert "step" not in done.stderr


def test_full_disk(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    done = run("generate", "a", "-o", "a.png", "--steps", "1")
    assert done.exit_code == 1
    assert done.stderr == (
        "sdlite: error: cannot write a.png: the disk is full; "
        "nothing was left behind, free some space\n"
    )
    assert list(Path().iterdir()) == []


def test_a_damaged_package(run: Run, home: Path) -> None:
    (home / "models" / "tiny" / "unet" / "plain.onnx").write_bytes(b"other")
    done = run("generate", "a")
    assert done.exit_code == 1
    assert "plain.onnx" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_a_checkpoint_says_how_to_export_it(run: Run, home: Path) -> None:
    (home / "models" / "dream.safetensors").write_bytes(b"1")
    done = run("generate", "a", "--model", "dream")
    assert done.exit_code == 2
    assert "sdlite export" in done.stderr


def test_bad_settings(run: Run, home: Path) -> None:
    (home / "settings.toml").write_text("steps = 0\n")
    done = run("generate", "a")
    assert done.exit_code == 2
    assert "settings.toml: steps '0'" in done.stderr


def test_debug_shows_the_traceback(run: Run) -> None:
    done = run("generate", "a", "--steps", "0", "--debug")
    assert done.exit_code == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("sdlite: error: ")


def test_bugs_are_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import sdlite

    def broken(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr(sdlite, "load", broken)
    done = run("generate", "a")
    assert done.exit_code == 1
    assert done.stderr == (
        "sdlite: error: ZeroDivisionError: oh no (a bug in sdlite: --debug shows where)\n"
    )
    assert "Traceback" in run("--debug", "generate", "a").stderr


def test_every_engines_reason_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import sdlite
    from sdlite.errors import RuntimeUnavailable

    def broken(*_arguments: object, **_options: object) -> None:
        raise ExceptionGroup("none", [RuntimeUnavailable("no x", "pip install x")])

    monkeypatch.setattr(sdlite, "load", broken)
    done = run("generate", "a")
    assert done.exit_code == 1
    assert done.stderr == "sdlite: error: no x. pip install x\n"


def test_out_of_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import sdlite

    def broken(*_arguments: object, **_options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(sdlite, "load", broken)
    done = run("generate", "a")
    assert done.exit_code == 1
    assert "out of memory; try a smaller --size" in done.stderr


def test_unknown_commands(run: Run) -> None:
    done = run("genrate", "a")
    assert done.exit_code == 2
    assert "Did you mean 'generate'?" in done.stderr


def test_the_second_picture_fails_the_first_is_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("generate", "fine", "x" * 1_000_001, "-o", "a.png", "--steps", "1")
    assert done.exit_code == 2
    assert [path.name for path in Path().iterdir()] == ["a-1.png"]
