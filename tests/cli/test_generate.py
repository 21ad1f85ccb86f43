"""``sdlite generate``: what it writes and what it prints."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from PIL import Image

from sdlite import metadata, output
from sdlite.cli import drawing
from tests.cli.conftest import Run


def names(folder: Path | str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_picture(run: Run) -> None:
    done = run("generate", "a red circle", "-o", "circle.png", "--seed", "7")
    assert done.exit_code == 0, done.output
    assert done.stdout == "circle.png\n"
    assert "1 picture in" in done.stderr
    assert "seed 7" in done.stderr
    with Image.open("circle.png") as image:
        assert image.size == (64, 64)
        assert image.mode == "RGB"


def test_without_options_it_numbers_pictures_here(run: Run) -> None:
    assert run("generate", "a").exit_code == 0
    assert run("generate", "b").exit_code == 0
    assert names() == ["sdlite-0001.png", "sdlite-0002.png"]


def test_parameters_in_the_picture(run: Run) -> None:
    arguments = ("--negative", "blurry", "--steps", "3", "--sampler", "k_euler_ancestral")
    run("generate", "a cat, sitting", "-o", "a.png", "--seed", "5", "--size", "64x32", *arguments)
    text = metadata.read(Path("a.png"))
    assert text is not None
    found = metadata.parse(text)
    assert found.prompt == "a cat, sitting"
    assert found.negative_prompt == "blurry"
    assert found.fields["Steps"] == "3"
    assert found.fields["Sampler"] == "Euler a"
    assert found.fields["Seed"] == "5"
    assert (found.fields["Size-1"], found.fields["Size-2"]) == ("64", "32")
    assert found.fields["Model"] == "tiny"
    assert found.fields["RNG"] == "CPU"
    with Image.open("a.png") as image:
        assert image.size == (64, 32)


def test_no_metadata(run: Run) -> None:
    run("generate", "a", "-o", "a.png", "--no-metadata")
    assert metadata.read(Path("a.png")) is None


def test_same_seed_same_picture(run: Run) -> None:
    for name in ("a.png", "b.png"):
        run("generate", "a", "-o", name, "--seed", "7", "--no-metadata")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    run("generate", "a", "-o", "c.png", "--seed", "8", "--no-metadata")
    assert Path("a.png").read_bytes() != Path("c.png").read_bytes()


def test_several_pictures_count_seeds_up(run: Run) -> None:
    done = run("generate", "one", "two", "-n", "2", "--seed", "10", "-o", "x.jpg", "--json")
    found = json.loads(done.stdout)
    assert names() == ["x-1.jpg", "x-2.jpg", "x-3.jpg", "x-4.jpg"]
    assert [(item["prompt"], item["seed"]) for item in found["images"]] == [
        ("one", 10),
        ("one", 11),
        ("two", 10),
        ("two", 11),
    ]


def test_random_seeds_count_up_too(run: Run) -> None:
    images = json.loads(run("generate", "one", "two", "-n", "2", "--json").stdout)["images"]
    seeds = [item["seed"] for item in images]
    assert seeds[1] == seeds[0] + 1
    assert seeds[3] == seeds[2] + 1
    assert seeds[0] != seeds[2]


def test_the_highest_seed_wraps(run: Run) -> None:
    images = json.loads(run("generate", "a", "-n", "2", "--seed", str(2**64 - 1), "--json").stdout)[
        "images"
    ]
    assert [item["seed"] for item in images] == [2**64 - 1, 0]


def test_json(run: Run) -> None:
    done = run("generate", "größer", "-o", "a.webp", "--seed", "3", "--steps", "4", "--json")
    found = json.loads(done.stdout)
    assert done.stderr == ""
    assert found["error"] is None
    assert found["cancelled"] is False
    assert found["peak_bytes"] is None or found["peak_bytes"] > 0
    assert found["plan"]["memory_mode"] in ("normal", "mapped")
    assert [item["component"] for item in found["plan"]["placements"]] == [
        "text_encoder",
        "unet",
        "vae_decoder",
    ]
    (image,) = found["images"]
    assert image["path"] == str(Path("a.webp").absolute())
    assert (image["prompt"], image["seed"], image["steps"]) == ("größer", 3, 4)
    assert [phase["name"] for phase in image["phases"]] == ["text", "denoise", "decode"]


def test_json_tells_of_failures_too(run: Run) -> None:
    done = run("generate", "a", "--json", "--size", "63x64")
    assert done.exit_code == 2
    assert "multiple of 8" in json.loads(done.stdout)["error"]
    assert done.stderr.startswith("sdlite: error: ")


def test_prompts_from_a_file_and_standard_input(run: Run) -> None:
    Path("prompts.txt").write_bytes("\ufeffone\r\n\n  two  \nтри".encode())
    done = run("generate", "zero", "-", "--prompts-file", "prompts.txt", "--json", input="in\n")
    prompts = [item["prompt"] for item in json.loads(done.stdout)["images"]]
    assert prompts == ["zero", "in", "one", "two", "три"]


def test_folders_are_made(run: Run) -> None:
    done = run("generate", "a", "-o", "new/folder/", "-f", "webp", "-q")
    assert done.stdout == f"{Path('new/folder/sdlite-0001.webp')}\n"
    assert done.stderr == ""


def test_settings_count_in_order(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(*arguments: str) -> int:
        return json.loads(run("generate", "a", "--json", *arguments).stdout)["images"][0]["steps"]

    assert steps() == 20
    assert run("config", "steps", "5").exit_code == 0
    assert steps() == 5
    monkeypatch.setenv("SDLITE_STEPS", "4")
    assert steps() == 4
    assert steps("--steps", "3") == 3


def test_progress_only_when_asked(run: Run) -> None:
    assert "step" not in run("generate", "a", "--steps", "3").stderr
    shown = run("generate", "a", "b", "--steps", "3", "--progress").stderr
    assert "picture 2/2" in shown
    assert "step 6/6" in shown
    assert "s/step" in shown


def test_preview_is_saved_where_no_terminal_shows_it(run: Run) -> None:
    done = run("generate", "a", "-o", "a.jpg", "--preview", "--steps", "3")
    assert done.exit_code == 0, done.output
    assert names() == ["a.jpg", "a.preview.png"]
    assert "a.preview.png" in done.stderr
    with Image.open("a.preview.png") as image:
        assert image.size == (64, 64)
    again = run("generate", "b", "-o", "a.jpg", "--preview", "--steps", "3", "--overwrite")
    assert again.exit_code == 0, again.output
    assert names() == ["a.jpg", "a.preview.png"]


def test_quiet_prints_nothing_but_paths(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    many = ["a", "b", "word", "--preview", "--progress", "--steps", "3", "--quiet"]
    done = run("generate", *many)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [f"sdlite-000{number}.png" for number in (1, 2, 3)]
    assert done.stderr == ""
    assert "sdlite.preview.png" in names()
    monkeypatch.setattr("sdlite.cli.progress.detect", lambda *_: "blocks")
    assert run("generate", *many).stderr == ""


def test_previews_are_written_under_the_lock(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    locks: list[threading.Lock] = []
    held: list[bool] = []

    class Watched(drawing.Drawing):
        def draw(self, cancel: threading.Event, writing: threading.Lock) -> None:
            locks.append(writing)
            super().draw(cancel, writing)

    def write(path: Path, data: bytes, overwrite: bool = False) -> None:
        held.append(locks[0].locked())
        output.write_whole(path, data, overwrite)

    monkeypatch.setattr(drawing, "Drawing", Watched)
    monkeypatch.setattr("sdlite.cli.progress.write_whole", write)
    assert run("generate", "a", "-o", "a.png", "--preview", "--steps", "2").exit_code == 0
    assert held
    assert all(held)


def test_verbose_logs_to_standard_error(run: Run) -> None:
    done = run("generate", "a", "-v")
    assert done.exit_code == 0
    assert "sdlite.cli: plan: unet: null on " in done.stderr
    assert done.stdout == "sdlite-0001.png\n"


def test_words_without_quotes_are_noticed(run: Run) -> None:
    done = run("generate", "a", "red", "circle", "--steps", "1")
    assert "note: 3 prompts of one word each" in done.stderr
    assert len(names()) == 3


def test_notes_are_told_once(run: Run) -> None:
    done = run("generate", "a <lora:b:1>", "-n", "2", "--steps", "1", "-o", "a.png")
    assert done.exit_code == 0
    assert done.stderr.count("note:") == 1
    assert len(done.stderr.splitlines()) == 2


def test_a_star_in_a_prompt_is_no_pattern(run: Run) -> None:
    Path("abc.txt").touch()
    run("generate", "a*", "-o", "a.png", "--steps", "1")
    assert metadata.parse(str(metadata.read(Path("a.png")))).prompt == "a*"


def test_preview_in_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdlite.cli.progress.detect", lambda *_: "blocks")
    done = run("generate", "a", "b", "-o", "a.png", "--preview", "--steps", "3", "--progress")
    assert done.exit_code == 0, done.output
    assert names() == ["a-1.png", "a-2.png"]
    assert "▀" in done.stderr


def test_prompt_options_in_the_picture(run: Run) -> None:
    options = ("--clip-skip", "2", "--emphasis", "no-norm", "--guidance-rescale", "0.7")
    prompt = "a (red:1.3) [cat|dog] <lora:x:0.5> AND (b:2) :0.7"
    done = run("generate", prompt, "-o", "a.png", *options, "--guidance-interval", "0.3-5.4")
    assert done.exit_code == 0, done.output
    found = metadata.parse(metadata.read(Path("a.png")) or "")
    assert found.prompt == prompt
    assert found.fields["Clip skip"] == "2"
    assert found.fields["Emphasis"] == "No norm"
    assert found.fields["Guidance rescale"] == "0.7"
    assert found.fields["Guidance interval"] == "0.3-5.4"
    run("generate", "a", "-o", "plain.png")
    plain = metadata.parse(metadata.read(Path("plain.png")) or "")
    assert not {"Clip skip", "Emphasis", "Guidance rescale", "Guidance interval"} & set(
        plain.fields
    )


def test_styles(run: Run, home: Path) -> None:
    table = "name,prompt,negative_prompt\nPhoto,photo of {prompt},drawing\nBright,bright,\n"
    (home / "styles.csv").write_text(table)
    Path("other.csv").write_text(table.replace("bright", "dark"))
    run("generate", "a cat", "-o", "a.png", "--style", "Photo", "--style", "Bright")
    assert (metadata.read(Path("a.png")) or "").startswith(
        "photo of a cat, bright\nNegative prompt: drawing\n"
    )
    run("generate", "a cat", "-o", "b.png", "--style", "Bright", "--styles-file", "other.csv")
    assert (metadata.read(Path("b.png")) or "").startswith("a cat, dark\n")
    done = run("generate", "a cat", "--style", "photo")
    assert done.exit_code == 2
    assert "Did you mean 'Photo'?" in done.stderr


def test_wildcards(run: Run, home: Path) -> None:
    done = run("generate", "a __colour__ cat", "--steps", "1")
    assert "note: wildcards stay as they are" in done.stderr
    (home / "wildcards").mkdir()
    (home / "wildcards" / "colour.txt").write_text("red\ngreen\nblue\n")
    prompts = []
    for _ in range(2):
        run("generate", "a __colour__ cat", "-n", "6", "-o", "x.png", "--overwrite", "--seed", "1")
        texts = [metadata.read(path) or "" for path in sorted(Path().glob("x-*.png"))]
        prompts.append([text.splitlines()[0] for text in texts])
    assert prompts[0] == prompts[1]
    assert len(prompts[0]) == 6
    assert len(set(prompts[0])) > 1
    assert set(prompts[0]) <= {"a red cat", "a green cat", "a blue cat"}
    assert "unknown wildcard" in run("generate", "a __color__ cat").stderr


def test_variations_of_a_seed(run: Run) -> None:
    options = ("--seed", "5", "--variation-strength", "0.2", "--variation-seed", "9", "--ensd", "7")
    done = run("generate", "a", "-n", "2", "-o", "v.png", *options, "--eta", "0.5", "--steps", "3")
    assert done.exit_code == 0, done.output
    for name, seed in zip(names(), ("9", "10"), strict=True):
        fields = metadata.parse(metadata.read(Path(name)) or "").fields
        assert (fields["Seed"], fields["Variation seed"]) == ("5", seed)
        assert (fields["Variation seed strength"], fields["ENSD"]) == ("0.2", "7")


def test_levels_instead_of_a_schedule(run: Run) -> None:
    done = run("generate", "a", "-o", "a.png", "--sigmas", "14.6, 3,0.5,0", "--s-noise", "0.9")
    assert done.exit_code == 0, done.output
    fields = metadata.parse(metadata.read(Path("a.png")) or "").fields
    assert (fields["Steps"], fields["Sigmas"]) == ("3", "14.6, 3, 0.5, 0")
    assert "takes no s_noise; it is ignored" in done.stderr
