"""Folders, and models by name."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from sdlite import home, settings
from sdlite.errors import RequestError, UnknownName


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDLITE_HOME", str(tmp_path / "home of mine"))
    monkeypatch.delenv("SDLITE_MODEL_FOLDERS", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path


def package(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "sdlite.json").write_text("{}")
    return folder


def test_one_variable_moves_everything(tmp_path: Path) -> None:
    places = home.folders({"SDLITE_HOME": str(tmp_path)})
    assert places.models == tmp_path / "models"
    assert places.cache == tmp_path / "cache"
    assert places.settings == tmp_path / "settings.toml"


def test_the_platforms_folders_otherwise() -> None:
    places = home.folders({})
    assert "sdlite" in places.models.parts
    assert places.settings.name == "settings.toml"
    assert len({places.models, places.cache, places.settings.parent}) == 3


def test_a_model_in_the_home(place: Path) -> None:
    path = package(home.folders().models / "mine")
    assert home.find_model("mine") == path


def test_unknown_names_get_a_hint(place: Path) -> None:
    package(home.folders().models / "anything-v3")
    with pytest.raises(UnknownName, match="Did you mean 'anything-v3'"):
        home.find_model("anything-v4")
    with pytest.raises(UnknownName):
        home.find_model("")


def test_paths(place: Path) -> None:
    path = package(place / "моя модель" / "v 1.5")
    assert home.find_model(path) == path
    assert home.find_model(str(path)) == path
    with pytest.raises(RequestError, match="no such file or folder"):
        home.find_model(place / "none" / "such")
    with pytest.raises(RequestError, match="no such file or folder"):
        home.find_model("./none")
    with pytest.raises(RequestError, match="no model at"):
        home.find_model("./" + "x" * 5000)


def test_a_name_comes_before_a_folder_of_the_same_name(place: Path) -> None:
    named = package(home.folders().models / "mine")
    here = package(Path("mine").absolute())
    assert home.find_model("mine") == named
    assert home.find_model("./mine").resolve() == here


def test_an_unnamed_folder_here_is_found(place: Path) -> None:
    here = package(Path("local").absolute())
    assert home.find_model("local").resolve() == here


def test_added_folders(place: Path) -> None:
    path = package(place / "disk" / "other")
    found = home.add_folder(place / "disk")
    assert [model.name for model in found] == ["other"]
    home.add_folder(place / "disk")
    assert home.search_folders() == (home.folders().models, place / "disk")
    assert home.find_model("other") == path
    home.remove_folder(place / "disk")
    assert home.search_folders() == (home.folders().models,)
    with pytest.raises(UnknownName):
        home.remove_folder(place / "disk")
    with pytest.raises(RequestError, match="is no folder"):
        home.add_folder(place / "none")


def test_folders_from_the_variable(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = package(place / "disk" / "other")
    monkeypatch.setenv("SDLITE_MODEL_FOLDERS", str(place / "disk"))
    assert home.find_model("other") == path
    home.add_folder(place / "work")
    file = settings.read(home.folders().settings, {})
    assert file.get("model-folders").value == (place / "work",)


@pytest.mark.parametrize(
    "layout",
    [
        "webui/models/Stable-diffusion",
        "webui/Stable-diffusion",
        "ComfyUI/models/checkpoints",
        "ComfyUI/models/checkpoints/sd15/deep",
        "plain",
        "plain/sub",
    ],
)
def test_checkpoints_of_other_programs(place: Path, layout: str) -> None:
    folder = place / layout
    folder.mkdir(parents=True)
    (folder / "dream.safetensors").write_bytes(b"x" * 100)
    lora = place / Path(layout).parts[0] / "models" / "Lora"
    if (place / Path(layout).parts[0] / "models").is_dir():
        lora.mkdir()
        (lora / "style.safetensors").touch()
    home.add_folder(place / Path(layout).parts[0])
    found = [model for model in home.models() if model.kind == "checkpoint"]
    assert [model.name for model in found] == ["dream"]
    assert home.describe(found[0]).size == 100
    assert "needs export: sdlite export" in str(home.describe(found[0]).problem)
    with pytest.raises(RequestError, match="has to be exported first: sdlite export"):
        home.find_model("dream")
    with pytest.raises(RequestError, match="has to be exported first: sdlite export"):
        home.find_model(folder / "dream.safetensors")


@pytest.mark.parametrize("name", ["loras", "Lora", "embeddings", "controlnet", "upscalers"])
def test_what_is_no_checkpoint_in_the_models_folder(place: Path, name: str) -> None:
    folder = home.folders().models / name
    folder.mkdir(parents=True)
    (folder / "style.safetensors").touch()
    assert not [model for model in home.models() if model.kind == "checkpoint"]


def test_diffusers_folders(place: Path) -> None:
    for name, files in (
        ("torch", ["unet/model.safetensors"]),
        ("onnx", ["unet/model.onnx"]),
        ("other", ["unet/unet.onnx"]),
    ):
        folder = home.folders().models / name
        (folder / "unet").mkdir(parents=True)
        (folder / "model_index.json").write_text("{}")
        for file in files:
            (folder / file).write_bytes(b"12")
    kinds = {model.name: model.kind for model in home.models()}
    assert kinds["torch"] == "checkpoint"
    assert kinds["onnx"] == "onnx"
    assert kinds["other"] == "onnx"
    assert home.find_model("onnx").name == "onnx"
    assert home.find_model("other") == home.find_model(home.folders().models / "other")
    with pytest.raises(RequestError, match="has to be exported first"):
        home.find_model("torch")


def test_a_file_that_is_no_model(place: Path) -> None:
    Path("notes.txt").touch()
    with pytest.raises(RequestError, match="is no model"):
        home.find_model("notes.txt")


def test_a_damaged_package_is_listed_with_its_problem(place: Path) -> None:
    path = package(home.folders().models / "bad")
    (path / "sdlite.json").write_text(json.dumps({"reader": 99}))
    (model,) = [model for model in home.models() if model.name == "bad"]
    assert "needs package reader 99" in str(home.describe(model).problem)


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make ``folder`` what mode 000 makes it for everybody but root, whom tests often run as."""

    def guarded(name: str) -> None:
        real = getattr(Path, name)

        def call(self: Path, *arguments: object, **named: object) -> object:
            if folder in self.parents or (self == folder and name == "iterdir"):
                raise PermissionError(errno.EACCES, "Permission denied", str(self))
            return real(self, *arguments, **named)

        monkeypatch.setattr(Path, name, call)

    for name in ("is_file", "is_dir", "exists", "stat", "iterdir"):
        guarded(name)


@pytest.mark.parametrize("name", ["lost+found", "model_index.json"])
def test_a_folder_that_may_not_be_looked_at_hides_no_other(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    disk = place / "disk"
    other = package(disk / "sub" / "other")
    (disk / name).mkdir()
    home.add_folder(disk)
    refuse(monkeypatch, disk / name)
    assert [model.name for model in home.models()][:1] == ["other"]
    assert home.find_model("other") == other
    assert home.describe(home.Model("x", disk / name, "checkpoint")).size == 0
    with pytest.raises(UnknownName):
        home.find_model("another")


def test_paths_that_may_not_be_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = package(place / "mine")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RequestError, match=r"cannot read .*mine: no permission"):
        home.find_model(mine)
    refuse(monkeypatch, mine)
    with pytest.raises(RequestError, match=r"no model at .*: Permission denied"):
        home.find_model(mine / "sub")


def test_a_package_that_may_not_be_read_is_listed_with_its_problem(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = package(home.folders().models / "locked")

    def refused(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert "Permission denied" in str(home.describe(home.Model("locked", path, "package")).problem)


def test_no_walk_for_what_is_near(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = package(home.folders().models / "mine")
    webui = place / "webui"
    theirs = package(webui / "models" / "Stable-diffusion" / "theirs")
    here = package(Path("local").absolute())
    shipped = package(place / "checkout" / "models" / "ships" / "package")
    monkeypatch.setattr(home, "__file__", str(place / "checkout" / "sdlite" / "home.py"))
    home.add_folder(webui)

    def walk(folder: Path, depth: int) -> None:
        raise AssertionError(f"{folder} was searched")

    monkeypatch.setattr(home, "_checkpoints", walk)
    assert home.find_model("mine") == mine
    assert home.find_model("theirs") == theirs
    assert home.find_model("ships") == shipped
    assert home.find_model("local").resolve() == here
    assert home.find_model("./local").resolve() == here


def test_a_ready_model_comes_before_a_checkpoint_of_its_name(place: Path) -> None:
    webui = place / "webui" / "models" / "Stable-diffusion"
    webui.mkdir(parents=True)
    (webui / "dream.safetensors").touch()
    home.add_folder(place / "webui")
    deep = package(place / "disk" / "sub" / "sub" / "dream")
    home.add_folder(place / "disk")
    assert home.find_model("dream") == deep
    mine = package(home.folders().models / "dream")
    assert home.find_model("dream") == mine


def test_a_folder_that_is_gone_is_no_error(place: Path) -> None:
    (place / "disk").mkdir()
    home.add_folder(place / "disk")
    (place / "disk").rmdir()
    assert all("disk" not in str(model.path) for model in home.models())
