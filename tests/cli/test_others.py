"""The other commands: info, models, config, inspect, completion, help."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlite.cli import main
from tests.cli.conftest import Run

ROOT = Path(__file__).resolve().parents[2]


def test_info(run: Run) -> None:
    run("generate", "a cat", "-o", "a.png", "--seed", "7", "--steps", "2")
    text = run("info", "a.png").stdout
    assert text.startswith("a cat\nSteps: 2, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: ")
    (found,) = json.loads(run("info", "a.png", "--json").stdout)
    assert found["prompt"] == "a cat"
    assert found["parameters"]["Seed"] == "7"


def test_info_of_several(run: Run) -> None:
    run("generate", "a", "b", "-o", "x.webp", "--steps", "1")
    lines = run("info", "x-1.webp", "x-2.webp").stdout.splitlines()
    assert (lines[0], lines[1], lines[3], lines[4]) == ("x-1.webp:", "a", "x-2.webp:", "b")


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("none.png", None, 2, "no file none.png"),
        ("text.png", b"hello", 2, "no picture"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 2, "no picture"),
    ],
)
def test_info_of_what_is_no_picture(
    run: Run, name: str, content: bytes | None, code: int, message: str
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    done = run("info", name)
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_info_of_a_picture_without(run: Run) -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    done = run("info", "plain.png")
    assert done.exit_code == 1
    assert done.stderr == "sdlite: error: plain.png carries no parameters\n"
    run("generate", "a", "-o", "a.png", "--steps", "1")
    done = run("info", "plain.png", "a.png", "plain.png")
    assert (done.exit_code, done.stdout.startswith("a.png:\na\n")) == (1, True)
    assert "plain.png carries no parameters" in done.stderr
    assert json.loads(run("info", "plain.png", "--json").stdout)[0]["infotext"] is None


HOSTILE = "a\x1b]0;owned\x07\x9b2Jé\u202e赤"
SHOWN = r"a\x1b]0;owned\x07\x9b2Jé\u202e赤"


def test_texts_of_files_are_shown_and_not_obeyed(run: Run, tmp_path: Path) -> None:
    chunks = PngInfo()
    chunks.add_itxt("parameters", f"{HOSTILE}\r\nline\rover\ttab")
    Image.new("RGB", (8, 8)).save("a.png", pnginfo=chunks)
    assert run("info", "a.png").stdout == f"{SHOWN}\nline\\rover\ttab\n"
    (parsed,) = json.loads(run("info", "a.png", "--json").stdout)
    assert parsed["infotext"].startswith(HOSTILE)
    done = run("info", f"{HOSTILE}.png")
    assert f"no file {SHOWN}.png" in done.stderr
    pytest.importorskip("onnx", reason="inspect is part of the extra [export]")
    header = {
        "__metadata__": {"license": f"{HOSTILE}\u2028verified    every hash is right"},
        f"{HOSTILE}.w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    text = json.dumps(header).encode()
    Path("a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    lines = run("inspect", "a.safetensors").stdout.splitlines()
    assert f"licence     {SHOWN}\\u2028verified    every hash is right" in lines
    assert any(f"tensor names start with {SHOWN}" in line for line in lines)
    assert not any(letter in line for line in lines for letter in "\x1b\x07\x9b\u202e")


def test_models(run: Run, home: Path) -> None:
    text = run("models").stdout
    assert "tiny" in text
    assert str(home / "models" / "tiny") in text
    found = json.loads(run("models", "--json").stdout)
    (tiny,) = [item for item in found["models"] if item["name"] == "tiny"]
    assert (tiny["family"], tiny["precision"], tiny["ready"]) == ("sd1", "fp32", True)
    assert tiny["size"] > 0


def test_adding_the_folder_of_another_program(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "Stable Diffusion Oberfläche" / "models" / "Stable-diffusion"
    place.mkdir(parents=True)
    (place / "dream.safetensors").write_bytes(bytes(2000))
    done = run("models", "--add", str(place.parents[1]))
    assert done.exit_code == 0, done.output
    assert "dream: needs export: sdlite export" in done.stdout
    assert "2.0 kB" in done.stdout
    assert "dream" in run("models").stdout
    assert "dream" not in run("models", "--remove", str(place.parents[1])).stdout
    assert run("models", "--add", str(tmp_path / "none")).exit_code == 2


def test_config(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "SDLITE_MODEL" in run("config").stdout
    assert run("config", "seed", "-1").exit_code == 0
    assert run("config", "max_memory", "1.5G").exit_code == 0
    assert run("config", "max-memory").stdout == "1.5G\n"
    found = json.loads(run("config", "--json").stdout)
    assert found["max-memory"] == {
        "value": "1.5G",
        "origin": "file",
        "where": str(home / "settings.toml"),
    }
    assert found["model"]["origin"] == "variable"
    assert found["rng"]["origin"] == "default"
    assert run("config", "--unset", "max-memory").exit_code == 0
    assert run("config", "max-memory").stdout == "\n"
    monkeypatch.setenv("SDLITE_STEPS", "9")
    assert "SDLITE_STEPS is set to 9" in run("config", "steps", "8").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stpes", "3"], "Did you mean 'steps'?"),
        (["stpes"], "Did you mean 'steps'?"),
        (["steps", "0"], "whole number from 1"),
        (["steps", "1", "2"], "unexpected extra argument"),
        (["--unset", "nonsense"], "unknown setting"),
        (["steps", "--unset", "steps"], "one KEY and nothing else"),
    ],
)
def test_config_refuses(run: Run, home: Path, arguments: list[str], message: str) -> None:
    done = run("config", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (home / "settings.toml").exists()


def test_inspect(run: Run, home: Path) -> None:
    pytest.importorskip("onnx", reason="inspect is part of the extra [export]")
    text = run("inspect", "tiny", "--verify").stdout
    assert "every hash is right" in text
    assert "text_encoder graph plain" in text
    found = json.loads(run("inspect", str(home / "models" / "tiny"), "--json").stdout)
    assert found["kind"] == "package"
    (home / "models" / "tiny" / "unet" / "plain.onnx").write_bytes(b"changed")
    done = run("inspect", "tiny", "--verify")
    assert done.exit_code == 1
    assert "plain.onnx" in done.stderr
    assert run("inspect", "tony").exit_code == 2
    assert "Did you mean 'tiny'" in run("inspect", "tony").stderr
    assert run("inspect", "./none").exit_code == 2


def test_a_missing_extra_is_the_pip_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("sdlite_export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    done = run("export", "dream.safetensors", "dest")
    assert done.exit_code == 1
    assert 'pip install "sdlite[export]"' in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run: Run, shell: str) -> None:
    done = run("completion", shell)
    assert done.exit_code == 0
    assert f"{shell}_complete" in done.stdout
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True)


def test_completion_for_an_unknown_shell(run: Run) -> None:
    done = run("completion", "bsh")
    assert done.exit_code == 2
    assert "Did you mean 'bash'?" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sdlite gen", "generate"),
        ("sdlite generate --sche", "--schedule"),
        ("sdlite generate --sampler Eul", "Euler a"),
        ("sdlite generate --schedule kar", "Karras"),
        ("sdlite generate --model ti", "tiny"),
        ("sdlite generate --rng n", "nv"),
    ],
)
def test_completion_answers(home: Path, words: str, expected: str) -> None:
    environment = os.environ | {
        "_SDLITE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "sdlite.cli"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"plain,{expected}" in done.stdout.splitlines()


def test_completion_after_an_unknown_command_is_silent(home: Path) -> None:
    environment = os.environ | {
        "_SDLITE_COMPLETE": "bash_complete",
        "COMP_WORDS": "sdlite foo ",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-m", "sdlite.cli"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_is_there_for_every_command(run: Run) -> None:
    text = run("--help").stdout
    for name, command in main.commands.items():
        assert f"  {name} " in text
        shown = run(name, "--help")
        assert shown.exit_code == 0
        assert command.help is not None
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


def test_version(run: Run) -> None:
    import sdlite

    assert run("--version").stdout == f"sdlite, version {sdlite.__version__}\n"


def test_the_page_shows_the_help_of_today(run: Run) -> None:
    pytest.importorskip("cogapp", reason="the extra [dev] has cog")
    subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "docs/cli.md"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("SDLITE_")},
        check=True,
        capture_output=True,
    )
