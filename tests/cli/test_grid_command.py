"""``sdlite grid``."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from sdlite_runtimes.nullpackage import write_null_package

from sdlite import metadata
from tests.cli.conftest import Run


def test_a_grid_and_its_single_pictures(run: Run) -> None:
    arguments = ("--x", "steps=1,2", "--y", "sampler=Euler a,DPM++ 2M", "--seed", "3")
    done = run("grid", "a cat", *arguments, "-o", "out.png")
    assert done.exit_code == 0, done.output
    assert done.stdout == "out.png\n"
    names = {path.name for path in Path("out-cells").iterdir()}
    assert names == {"grid.json", "x1-y1.png", "x1-y2.png", "x2-y1.png", "x2-y2.png"}
    fields = metadata.parse(str(metadata.read(Path("out-cells/x2-y2.png")))).fields
    assert (fields["Steps"], fields["Sampler"], fields["Seed"]) == ("2", "DPM++ 2M", "3")
    told = metadata.parse(str(metadata.read(Path("out.png")))).fields
    assert told["Y Type"] == "sampler"
    again = run("grid", "a cat", *arguments, "-o", "out.png")
    assert again.exit_code == 1 and "out.png exists" in again.stderr
    again = run("grid", "a cat", *arguments, "-o", "out.png", "--overwrite")
    assert again.exit_code == 0 and "4 pictures were there already" in again.stderr


def test_models_and_words(run: Run, home: Path) -> None:
    write_null_package(home / "models" / "other")
    arguments = ("--x", "model=tiny,other", "--y", "replace=cat,dog", "--z", "guidance=2,3")
    done = run("grid", "a cat", *arguments)
    assert done.exit_code == 0, done.output
    with Image.open("grid.png") as image:
        assert image.height > 4 * 32
    fields = metadata.parse(str(metadata.read(Path("grid-cells/x2-y1-z2.png"))))
    assert fields.fields["CFG scale"] == "3.0"
    assert len(list(Path("grid-cells").glob("*.png"))) == 2 * 1 * 2 + 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--x", "stepz=1,2"], "unknown axis 'stepz'. Did you mean 'steps'?"),
        (["--x", "steps=1,2", "--z", "seed=1,2"], "--z without --y"),
        (["--x", "steps=1,2", "-n", "2"], "a grid has one picture a cell"),
        (["--x", "replace=dog,cow"], "'dog' is not in the prompt"),
        (["--x", "model=tiny,none"], "unknown model 'none'"),
        (["--x", "lora:ink=0,1"], "unknown LoRA 'ink'"),
        (["--x", "sampler=Euler,Eule"], "unknown sampler 'Eule'"),
        (["--x", "steps=1", "-o", "x.gif"], "names no picture format"),
    ],
)
def test_bad_input(run: Run, arguments: list[str], words: str) -> None:
    done = run("grid", "a cat", *arguments)
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert list(Path().iterdir()) == []
