"""Half finished jobs as files: the rest is the same picture to the bit; other files are refused."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdlite_runtimes.null import NullRuntime
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite import registry
from sdlite.edit import state as states
from sdlite.edit.state import check_model, load_state, save_state
from sdlite.errors import OutputError, RequestError
from sdlite.request import complete
from sdlite.types import Edit, Hires, Request


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sdlite.Pipeline]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._runtimes, "null", NullRuntime())
        package = write_null_package(tmp_path_factory.mktemp("state") / "tiny")
        with sdlite.load(package, runtime="null") as opened:
            yield opened


def picture(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(2)
    return Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).convert(mode)


def mask() -> Image.Image:
    made = Image.new("L", (48, 40))
    made.paste(255, (8, 8, 30, 30))
    return made


JOBS = {
    "plain": Request("größer", negative_prompt="y", seed=2**64 - 1, steps=6, sampler="Euler a"),
    "memory": Request("x", seed=1, images=2, steps=6, sampler="DPM++ 2M SDE", rng="nv"),
    "edit": Request(
        "x",
        seed=3,
        steps=8,
        edit=Edit(picture(), mask=mask(), mask_content="noise", rules="diffusers", soft_mask=True),
    ),
    "alpha": Request("x", seed=3, steps=6, edit=Edit(picture("LA"), strength=0.9)),
    "forecast": Request("a [b:c:9]", seed=4, images=2, steps=14, profile="balanced"),
    "forecast twice": Request(
        "x",
        seed=4,
        steps=12,
        sampler="DDIM CFG++",
        profile="draft",
        hires=Hires(scale=1.5, steps=9),
    ),
    "hires": Request("x", seed=3, steps=4, hires=Hires(scale=1.5, upscaler="Lanczos", steps=3)),
}


@pytest.mark.parametrize("name", JOBS)
def test_the_rest_is_the_same_to_the_bit(pipe: sdlite.Pipeline, tmp_path: Path, name: str) -> None:
    request = complete(JOBS[name], pipe.package.manifest)
    whole = pipe.generate(request)
    file = tmp_path / "a.state"
    for step in pipe.steps(request):
        save_state(file, pipe.package, request, step.state, {"threads": "2"})
        saved = load_state(file)
        check_model(saved, pipe.package)
        assert saved.request == request
        assert saved.header.settings == {"threads": "2"}
        rest = pipe.generate(saved.request, resume=saved.state)
        assert [image.tobytes() for image in rest.images] == [
            image.tobytes() for image in whole.images
        ]
    assert list(tmp_path.iterdir()) == [file]


@pytest.fixture
def saved(pipe: sdlite.Pipeline, tmp_path: Path) -> Path:
    request = complete(JOBS["edit"], pipe.package.manifest)
    file = tmp_path / "a.state"
    save_state(file, pipe.package, request, next(pipe.steps(request)).state)
    return file


def test_a_file_that_is_there_is_kept_when_asked(pipe: sdlite.Pipeline, saved: Path) -> None:
    found = load_state(saved)
    before = saved.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        save_state(saved, pipe.package, found.request, found.state, overwrite=False)
    assert saved.read_bytes() == before


def test_another_version(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "__version__", "9.9")
    with pytest.raises(RequestError, match=r"saved by sdlite .*, this is 9\.9"):
        load_state(saved)


def test_another_model(saved: Path, tmp_path: Path) -> None:
    folder = write_null_package(tmp_path / "other", size=128)
    (folder / "unet" / "plain.onnx").write_bytes(states.__file__.encode())
    manifest = json.loads((folder / "sdlite.json").read_text())
    for item in manifest["artifacts"]:
        if item["graph"] == "unet/plain.onnx":
            item["graph_size"] = len(states.__file__)
            item["graph_sha256"] = "0" * 64
    (folder / "sdlite.json").write_text(json.dumps(manifest))
    from sdlite.manifest import read_manifest
    from sdlite.package import Package

    package = Package(folder, read_manifest(folder))
    with pytest.raises(RequestError, match="belongs to another model than other: it was saved wi"):
        check_model(load_state(saved), package)


def rewritten(saved: Path, **changes: object) -> None:
    with np.load(saved) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name, value in changes.items():
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    saved.write_bytes(stream.getvalue())


def as_json(value: object) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"json": None}, "no state of a job"),
        ({"json": np.zeros(9, np.uint8)}, "no state of a job"),
        ({"json": as_json([1])}, "no state of a job"),
        ({"json": as_json({"header": {"format": 1}})}, "no state of a job"),
        ({"x": None}, "is damaged"),
        ({"image": np.zeros(9, np.uint8)}, r"image in .*a\.state is no picture"),
        ({"image": None}, "is damaged: edit: field 'image' is missing"),
        ({"x": np.array([{}], object)}, "no state of a job"),
    ],
)
def test_damaged_files(saved: Path, changes: dict[str, object], message: str) -> None:
    rewritten(saved, **changes)
    with pytest.raises(RequestError, match=message):
        load_state(saved)


def test_what_is_no_state_at_all(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no file"):
        load_state(tmp_path / "none")
    with pytest.raises(RequestError, match="no file"):
        load_state(tmp_path)
    other = tmp_path / "text"
    other.write_text("hello")
    with pytest.raises(RequestError, match="no state of a job"):
        load_state(other)
    other.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(RequestError, match="no state of a job"):
        load_state(other)
    array = tmp_path / "array.npy"
    np.save(array, np.zeros(3))
    with pytest.raises(RequestError, match="no state of a job"):
        load_state(array)


def test_latents_of_another_size(pipe: sdlite.Pipeline, saved: Path) -> None:
    rewritten(saved, x=np.zeros((1, 4, 3, 3), np.float32))
    found = load_state(saved)
    with pytest.raises(RequestError, match="state to resume has latents"):
        pipe.generate(found.request, resume=found.state)
