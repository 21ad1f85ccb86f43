"""``--save-state``, ``sdlite resume`` and the options of a second pass."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdlite_runtimes.null import NullRuntime

from sdlite import metadata, registry
from tests.cli.conftest import Run


def crash_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    options = {"component": "unet", "fail_call": str(call)}
    monkeypatch.setitem(registry._runtimes, "null", NullRuntime(options))


def whole_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._runtimes, "null", NullRuntime())


@pytest.mark.parametrize(
    "job",
    [
        ["generate", "a cat", "--seed", "7", "--sampler", "Euler a"],
        ["generate", "a cat", "--hires", "1.5", "--hires-steps", "3", "--threads", "1"],
        ["edit", "in.png", "a cat", "--mask", "mask.png", "--strength", "1"],
    ],
)
def test_after_a_crash_it_is_the_same_picture(
    run: Run, monkeypatch: pytest.MonkeyPatch, job: list[str]
) -> None:
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save("in.png")
    Image.fromarray(np.kron(np.eye(2, dtype=np.uint8) * 255, np.ones((32, 32), np.uint8))).save(
        "mask.png"
    )
    job = [*job, "--steps", "9", "--seed", "7"]
    whole_again(monkeypatch)
    assert run(*job, "-o", "whole.png").exit_code == 0
    crash_at(monkeypatch, 8)
    done = run(*job, "-o", "a.png", "--save-state", "a.state", "--save-every", "3")
    assert done.exit_code == 1, done.output
    assert Path("a.state").is_file()
    assert not Path("a.png").exists()
    whole_again(monkeypatch)
    done = run("resume", "a.state", "-o", "a.png")
    assert done.exit_code == 0, done.output
    assert done.stdout == "a.png\n"
    assert Path("a.png").read_bytes() == Path("whole.png").read_bytes()
    assert not Path("a.state").exists()


def test_a_finished_picture_needs_no_state(run: Run) -> None:
    assert run("generate", "a", "-o", "a.png", "--save-state", "a.state").exit_code == 0
    assert [path.name for path in Path().iterdir()] == ["a.png"]


def test_settings_of_new_pictures_do_not_touch_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_at(monkeypatch, 5)
    run("generate", "a", "--steps", "9", "--save-state", "a.state", "--save-every", "1")
    whole_again(monkeypatch)
    monkeypatch.setenv("SDLITE_IMAGES", "3")
    monkeypatch.setenv("SDLITE_STEPS", "2")
    found = json.loads(run("resume", "a.state", "--json").stdout)["images"]
    assert [item["steps"] for item in found] == [9]


def test_another_engine_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    crash_at(monkeypatch, 5)
    run("generate", "a", "--save-state", "a.state", "--save-every", "1", "--threads", "1")
    whole_again(monkeypatch)
    done = run("resume", "a.state", "--threads", "2")
    assert done.exit_code == 0, done.output
    assert "note: the picture was begun with null on null, plain fp32 graphs, 1 thre" in done.stderr
    assert "its last bits may differ" in done.stderr


def test_a_state_is_never_overwritten_by_accident(run: Run) -> None:
    Path("a.state").write_bytes(b"mine")
    done = run("generate", "a", "--save-state", "a.state")
    assert done.exit_code == 2
    assert "a.state exists; finish it with: sdlite resume a.state" in done.stderr
    assert Path("a.state").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a", "b", "--save-state", "x"], "--save-state keeps one picture"),
        (["generate", "a", "-n", "2", "--save-state", "x"], "--save-state keeps one picture"),
        (["generate", "a", "--save-state", "x", "--save-every", "0"], "--save-every '0'"),
        (["resume", "none"], "no file none"),
        (["resume", "."], "no file ."),
        (["generate", "a", "--hires-strength", "0.5"], "--hires-strength needs --hires"),
        (["generate", "a", "--hires", "big"], "--hires 'big'"),
        (["generate", "a", "--hires", "9"], "--hires '9' is not a number from 1 to 8"),
        (["generate", "a", "--hires", "100x100"], "width 100 is not a multiple of 8"),
        (["generate", "a", "--hires", "2", "--hires-steps", "0"], "--hires-steps '0'"),
        (["generate", "a", "--hires", "2", "--hires-upscaler", "Lanczoz"], "Did you mean 'Lanc"),
        (["generate", "a", "--hires", "2", "--hires-strength", "nan"], "--hires-strength 'nan'"),
    ],
)
def test_one_line_and_exit_code_2(run: Run, arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("sdlite: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert list(Path().iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_before_the_work(run: Run) -> None:
    Path("file").touch()
    done = run("generate", "a", "--save-state", "file/a.state")
    assert done.exit_code == 1
    assert "is not a folder" in done.stderr


def test_hires(run: Run) -> None:
    done = run("generate", "a", "-o", "a.png", "--steps", "3", "--hires", "96x128")
    assert done.exit_code == 0, done.output
    with Image.open("a.png") as image:
        assert image.size == (96, 128)
    upscaler = ["--hires-upscaler", "nearest", "--hires-prompt", "b", "--hires-guidance", "3"]
    run("generate", "a", "-o", "b.png", "--steps", "3", "--hires", "2", *upscaler)
    fields = metadata.parse(str(metadata.read(Path("b.png")))).fields
    assert fields["Hires upscale"] == "2"
    assert fields["Hires upscaler"] == "Nearest"
    assert fields["Hires prompt"] == "b"


def test_a_branch_from_a_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_again(monkeypatch)
    job = ["generate", "a cat", "--steps", "9", "--seed", "7", "-g", "7", "--sampler", "Euler"]
    saving = ("--save-state", "a-{step}.state", "--save-every", "3")
    assert run(*job, "-o", "a.png", *saving).exit_code == 0
    assert sorted(path.name for path in Path().glob("*.state")) == ["a-3.state", "a-6.state"]
    branched = {}
    for name, change in (
        ("same", "guidance=7"),
        ("dog", "prompt=a dog"),
        ("finer", "steps=20"),
        ("coarser", "steps=5"),
    ):
        done = run("resume", "a-3.state", "--change", change, "-o", f"{name}.png")
        assert done.exit_code == 0, done.output
        assert "left after step 3" in done.stderr
        with Image.open(f"{name}.png") as image:
            branched[name] = image.tobytes()
    assert Path("a-3.state").is_file()
    with Image.open("a.png") as image:
        whole = image.tobytes()
    assert branched["same"] == whole
    assert len(set(branched.values())) == 4
    fields = metadata.parse(str(metadata.read(Path("finer.png")))).fields
    assert fields["Steps"] == "20"
    sigmas = [float(part) for part in fields["Sigmas"].split(",")]
    assert len(sigmas) in (20, 21) and sigmas == sorted(sigmas, reverse=True)
    assert "a dog" in str(metadata.read(Path("dog.png")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("hires-steps=2", "hires-steps is about a second pass, and there is none"),
        ("seed=4", "unknown change of a picture that is begun 'seed'. Known: prompt, negative"),
        ("steps=3", "3 steps are done already; 3 steps are not more"),
        ("steps", "is not KEY=VALUE"),
        ("promt=x", "Did you mean 'prompt'?"),
    ],
)
def test_branches_that_cannot_be(
    run: Run, monkeypatch: pytest.MonkeyPatch, change: str, words: str
) -> None:
    whole_again(monkeypatch)
    saving = ("--save-state", "a-{step}.state", "--save-every", "3")
    run("generate", "a cat", "--steps", "4", "-o", "a.png", *saving)
    done = run("resume", "a-3.state", "--change", change, "-o", "b.png")
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert not Path("b.png").exists() and Path("a-3.state").exists()


def test_a_draft_is_promoted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_again(monkeypatch)
    job = ["generate", 'a "cat" (big:1.2)', "--steps", "9", "--seed", "7", "--sampler", "Euler"]
    saving = ("--save-state", "a-{step}.state", "--save-every", "3")
    draft = [*job, "--profile", "draft"]
    assert run(*draft, "-o", "draft.png", *saving).exit_code == 0
    changes = (
        "--change",
        "steps=20",
        "--change",
        "hires=1.5",
        "--change",
        "hires-upscaler=Lanczos",
    )
    done = run("again", "draft.png", "--continue", "a-3.state", *changes, "-o", "b.png")
    assert done.exit_code == 0, done.output
    fields = metadata.parse(str(metadata.read(Path("b.png")))).fields
    assert (fields["Steps"], fields["Hires upscale"]) == ("20", "1.5")
    begun = metadata.parse(str(metadata.read(Path("draft.png")))).fields
    assert begun["Profile"] == "draft" and "Guidance interval" in begun
    assert not {"Profile", "Guidance interval"} & set(fields)
    assert fields["Branched after step"] == "3 (draft)"
    assert fields["Hires schedule type"] == begun["Schedule type"]
    told = run("again", "b.png", "-o", "again.png")
    assert "note: its first steps were drawn as another picture: branched a" in told.stderr
    with Image.open("draft.png") as small, Image.open("b.png") as large:
        assert large.width == 3 * small.width // 2
    assert Path("a-3.state").is_file()
    # Without a change the rest is drawn as it was, but for the profile.
    assert run(*job, "-o", "whole.png", "--overwrite", *saving).exit_code == 0
    done = run("again", "whole.png", "--continue", "a-6.state", "-o", "c.png")
    assert done.exit_code == 0, done.output
    with Image.open("c.png") as after, Image.open("whole.png") as whole:
        assert after.tobytes() == whole.tobytes()


def test_a_state_of_another_picture_is_not_its_draft(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_again(monkeypatch)
    saving = ("--save-state", "a-{step}.state", "--save-every", "3")
    run("generate", "a cat", "--steps", "4", "--seed", "3", "-o", "a.png", *saving)
    run("generate", "a cat", "--steps", "4", "--seed", "4", "-o", "b.png")
    for arguments, words in (
        (["b.png", "--continue", "a-3.state"], "another picture than b.png was drawn: 'a cat' w"),
        (["a.png", "--continue", "b.png"], "b.png is no state of a job"),
        (["a.png", "--continue", "none"], "no file none"),
        (["a.png", "--continue", "a-3.state", "--image", "a.png"], "leave --image and --mask"),
    ):
        done = run("again", *arguments, "-o", "c.png")
        assert done.exit_code == 2, done.output
        assert words in done.stderr and done.stderr.count("\n") == 1
        assert not Path("c.png").exists()


def test_what_the_second_pass_has_settled(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_again(monkeypatch)
    saving = ("--save-state", "a-{step}.state", "--save-every", "1")
    job = ("generate", "a cat", "--steps", "2", "--hires", "1.5")
    assert run(*job, "-o", "a.png", *saving).exit_code == 0
    for name in ("steps=9", "hires-steps=3", "hires=2"):
        done = run("resume", "a-3.state", "--change", name, "-o", "b.png")
        assert done.exit_code == 2
        assert "cannot be changed any more: the second pass is begun" in done.stderr
    done = run("resume", "a-3.state", "--change", "hires-prompt=a dog", "-o", "b.png")
    assert done.exit_code == 0, done.output


def test_a_killed_process_is_gone_on_with(
    run: Run, start: Callable[..., subprocess.Popen[str]]
) -> None:
    job = ("generate", "a cat", "--steps", "12", "--seed", "7", "--sampler", "Euler a")
    assert run(*job, "-o", "whole.png").exit_code == 0
    going = start(0.2, *job, "-o", "a.png", "--save-state", "a.state", "--save-every", "2")
    with going:
        while not Path("a.state").is_file():
            assert going.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)
        going.kill()
    assert not Path("a.png").exists()
    done = run("resume", "a.state", "-o", "a.png")
    assert done.exit_code == 0, done.output
    assert Path("a.png").read_bytes() == Path("whole.png").read_bytes()
