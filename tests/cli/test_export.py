"""``sdlite export`` and ``sdlite pull``: what they print and what they leave."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sdlite.cli import progress
from tests.cli.conftest import Run

pytest.importorskip("onnx", reason="export is part of the extra [export]")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_export_into_the_models_and_draw(
    run: Run, home: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(tiny_checkpoint, Path("my model"))
    done = run("export", str(source))
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{home / 'models' / 'my model'}\n"
    assert "my model: " in done.stderr
    assert " in fp16 (text_encoder " in done.stderr
    assert done.stderr.endswith(", licence unknown\n")
    assert "step" not in done.stderr
    pytest.importorskip("onnxruntime", reason="the extra [cpu] has an engine")
    monkeypatch.setenv("SDLITE_RUNTIME", "onnxruntime")
    drawn = run("generate", "a red circle", "-m", "my model", "--steps", "2", "-o", "a.png")
    assert drawn.exit_code == 0, drawn.output


def test_export_under_another_name(run: Run, tiny_checkpoint: Path) -> None:
    done = run("export", str(tiny_checkpoint), "a", "--name", "dream", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(Path("a/sdlite.json").read_text(encoding="utf-8"))["name"] == "dream"


def test_export_json_and_bar(run: Run, tiny_checkpoint: Path) -> None:
    done = run(
        "export", str(tiny_checkpoint), "dest", "--precision", "FP32", "--json", "--progress"
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["path"] == str(Path("dest").absolute())
    assert found["precision"] == "fp32"
    assert found["size"] > found["sizes"]["unet"] > 0
    assert found["seconds"] > 0
    assert "100%" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.safetensors", "dest"], 1, "none.safetensors"),
        (["text.safetensors", "dest"], 1, "text.safetensors"),
        (["SOURCE", "dest", "--precision", "fp61"], 2, "Did you mean 'fp16'?"),
        (["SOURCE", "dest", "--format", "onix"], 2, "Did you mean 'onnx'?"),
        (["SOURCE", "full"], 1, "full"),
        (["SOURCE", "file/dest"], 1, "is a file"),
        ([], 2, "Missing argument 'SOURCE'"),
    ],
)
def test_export_refuses(
    run: Run, tiny_checkpoint: Path, arguments: list[str], code: int, message: str
) -> None:
    Path("text.safetensors").write_bytes(b"these are not tensors")
    Path("full").mkdir()
    Path("full/notes.txt").touch()
    Path("file").touch()
    before = names(Path())
    done = run("export", *[str(tiny_checkpoint) if a == "SOURCE" else a for a in arguments])
    assert done.exit_code == code, done.output
    assert done.stderr.startswith("sdlite: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert names(Path()) == before


def test_ctrl_c_during_an_export_leaves_nothing(
    run: Run, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: progress.ByteBar, label: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.ByteBar, "set", interrupt)
    done = run("export", str(tiny_checkpoint), "dest")
    assert done.exit_code == 130
    assert "sdlite: stopped" in done.stderr
    assert names(Path()) == []


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path) -> list[str]:
    """A hub whose every model is the tiny one; the list says what was fetched."""
    from sdlite_export import pull as module
    from sdlite_export.pull_plan import PullFile, PullPlan

    from sdlite.errors import Cancelled, OutputError

    fetched: list[str] = []

    def pull(
        repo: str,
        dest_folder: Path,
        *,
        revision: str | None = None,
        confirm: Callable[[PullPlan], bool],
        endpoint: str | None = None,
        progress: Callable[[str, int, int], object] | None = None,
    ) -> Path:
        files = (PullFile("unet/model.safetensors", 4_300_000_000, "0" * 64, None),)
        plan = PullPlan(repo, "c0ffee" * 6, files, False, "openrail", dest_folder)
        if not confirm(plan):
            raise Cancelled(f"{repo} was not fetched")
        if dest_folder.exists():
            raise OutputError(f"{dest_folder} exists already")
        fetched.append(repo)
        if progress is not None:
            progress("unet/model.safetensors", 4_300_000_000, 4_300_000_000)
        module._record(
            shutil.copytree(tiny_checkpoint, dest_folder),
            module._asked(repo, revision),
            "",
            "c0ffee",
        )
        return dest_folder

    monkeypatch.setattr(module, "pull", pull)
    return fetched


def test_pull_shows_fetches_and_exports(run: Run, home: Path, hub: list[str]) -> None:
    done = run("pull", "org/dream", "--yes")
    assert done.exit_code == 0, done.output
    assert hub == ["org/dream"]
    assert done.stdout == f"{home / 'models' / 'dream'}\n"
    assert "4.30 GB  unet/model.safetensors" in done.stderr
    assert "1 files, 4.30 GB, licence openrail" in done.stderr
    assert "the download stays in" in done.stderr
    assert "dream" in run("models").stdout
    again = run("pull", "org/dream", "--yes")
    assert again.exit_code == 1
    assert "exists" in again.stderr


def test_pull_goes_on_after_a_finished_download(run: Run, home: Path, hub: list[str]) -> None:
    assert run("pull", "org/dream", "--yes", "--no-export").exit_code == 0
    done = run("pull", "org/dream", "--json")
    assert done.exit_code == 0, done.output
    assert hub == ["org/dream"]
    assert "holds it already" in done.stderr
    assert json.loads(done.stdout)["path"] == str(home / "models" / "dream")


def test_pull_takes_no_revision_for_another(run: Run, home: Path, hub: list[str]) -> None:
    for options in ([], ["--revision", "refs/pr/1"], ["--revision", "v1"]):
        assert run("pull", "org/dream", "--yes", "--no-export", *options).exit_code == 0
    assert hub == ["org/dream"] * 3
    folders = names(home / "cache" / "pulled")
    assert folders == ["org--dream", "org--dream@refs--pr--1", "org--dream@v1"]
    assert run("pull", "org/dream", "--revision", "v1").exit_code == 0
    assert len(hub) == 3
    manifest = json.loads((home / "models" / "dream" / "sdlite.json").read_text(encoding="utf-8"))
    assert manifest["name"] == "dream"


def test_pull_takes_no_other_model_for_the_one_asked_for(run: Run, hub: list[str]) -> None:
    assert run("pull", "org/dream", "mine", "--yes", "--no-export").exit_code == 0
    assert "holds it already" in run("pull", "org/dream", "mine", "--no-export").stderr
    Path("others/x").mkdir(parents=True)
    Path("others/x/theirs.safetensors").write_bytes(b"1")
    for folder in ("mine", "others"):
        done = run("pull", "org/other", folder, "--yes", "--no-export")
        assert (done.exit_code, done.stdout) == (1, "")
        assert "exists already" in done.stderr
    assert hub == ["org/dream"]


def test_pull_asks_first(run: Run, home: Path, hub: list[str]) -> None:
    done = run("pull", "org/dream")
    assert done.exit_code == 2
    assert "add --yes" in done.stderr
    assert hub == []
    assert "dream" not in names(home / "models")


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 130)])
def test_pull_takes_the_answer(
    run: Run, hub: list[str], monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    module = importlib.import_module("sdlite.cli.pull")
    monkeypatch.setattr(module, "somebody_is_there", lambda: True)
    done = run("pull", "org/dream", "folder", "--no-export", input=answer)
    assert done.exit_code == code, done.output
    assert len(hub) == (code == 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attention", "split_einsum"], "--attention is for --format coreml only"),
        (["--size", "64x64"], "--size is for --format coreml only"),
        (["--format", "coreml", "--palette", "5"], "--palette '5'"),
        (["--format", "coreml", "--attention", "split"], "Known: original, split_einsum"),
        (["--format", "coreml", "--size", "big"], "--size 'big'"),
        (["--format", "coreml", "--precision", "fp32"], "stored in fp16"),
        (["--format", "coreml", "--for", "shapes"], "--format is about checkpoints"),
    ],
)
def test_core_ml_options(run: Run, tiny_checkpoint: Path, options: list[str], message: str) -> None:
    done = run("export", str(tiny_checkpoint), "dest", *options)
    assert done.exit_code != 0
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not Path("dest").exists()


def test_calibration_prompts_are_for_int8(run: Run, tiny_checkpoint: Path) -> None:
    done = run("export", str(tiny_checkpoint), "a", "--calibration", "prompts.txt")
    assert done.exit_code == 2
    assert "--calibration is for --precision int8" in done.stderr
    done = run("export", str(tiny_checkpoint), "a", "--precision", "int8", "--calibration", "none")
    assert done.exit_code == 1
    assert "cannot read calibration prompts none" in done.stderr
    assert not Path("a").exists()


def test_another_count_has_its_own_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.ByteBar(None, True) as bar:
        bar.set("unet", 5, 10)
        bar.set("unet", 10, 10)
        begun = bar._bar.start_t
        bar.set("vae_decoder", 10, 10)
        assert bar._bar.start_t == begun
        bar._when = 0.0
        bar.set("scan of unet", 1, 4)
        assert (bar._bar.initial, bar._bar.n, bar._bar.total) == (1, 1, 4)
        assert bar._bar.start_t > begun
    assert "scan of unet" in capsys.readouterr().err
