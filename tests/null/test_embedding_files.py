"""Files of textual inversions, the words they make, and LoRA options of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdlite.cli.loras import read_embeddings, read_loras
from sdlite.errors import RequestError, SourceHostile, UnknownFamily, UnknownName
from sdlite.loras import LoraUse
from sdlite.text.chunks import cut_chunks
from sdlite.text.words import Words
from sdlite.weights.embeddings import open_embedding
from tests import families
from tests.adapters import make_package, write, write_torch
from tests.export.makers import Call, TorchFile
from tests.tiny import Tiny

ROWS = np.arange(32, dtype=np.float32).reshape(2, 16)


def test_layouts_of_one_encoder(tmp_path: Path) -> None:
    package, _ = make_package(tmp_path / "p", Tiny(), "sd1")
    files = {
        "a1111 safetensors": write(tmp_path / "a.safetensors", {"emb_params": ROWS}),
        "diffusers": write(tmp_path / "b.safetensors", {"<cat-toy>": ROWS[0]}),
        "a1111 pt": write_torch(tmp_path / "c.pt", {"string_to_param": {"*": ROWS}, "step": 5}),
        "diffusers bin": write_torch(tmp_path / "learned_embeds.bin", {"<cat-toy>": ROWS[0]}),
    }
    for layout, path in files.items():
        found = open_embedding(path)
        (key,) = found.keys_for(package).values()
        value = found.read(key)
        assert np.array_equal(value, ROWS[:1] if "diffusers" in layout else ROWS), layout
        assert found.token == ("<cat-toy>" if "diffusers" in layout else None)
    assert open_embedding(tmp_path).name == tmp_path.name


def test_both_encoders_of_sdxl(tmp_path: Path) -> None:
    package, _ = make_package(tmp_path / "p", families.SDXL, "sdxl")
    pair = {"clip_l": ROWS, "clip_g": np.ones((2, 24), np.float32)}
    found = open_embedding(write(tmp_path / "a.safetensors", pair))
    assert found.keys_for(package) == {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    alone = open_embedding(write(tmp_path / "b.safetensors", {"emb_params": ROWS}))
    with pytest.raises(RequestError, match=r"has vectors 16 wide; .* take 16 and 24"):
        alone.keys_for(package)


def test_what_is_no_embedding(tmp_path: Path) -> None:
    other = write(tmp_path / "x.safetensors", {"a": ROWS, "b": ROWS})
    with pytest.raises(UnknownFamily, match="is no textual inversion: its tensors are a, b"):
        open_embedding(other)
    with pytest.raises(UnknownFamily, match="is no textual inversion"):
        open_embedding(write(tmp_path / "y.safetensors", {"emb_params": ROWS[None]}))
    with pytest.raises(UnknownFamily, match=r"unknown kind of file '\.png'"):
        open_embedding(tmp_path / "z.png")
    with pytest.raises(SourceHostile, match="Nothing was executed"):
        open_embedding(TorchFile().write(tmp_path / "evil.pt", {"*": Call("os", "system", "true")}))


def test_words_take_the_place_of_names() -> None:
    table = np.zeros((10, 16), np.float16)
    words = Words(table, {(3, 4): ROWS, (3,): ROWS[:1] + 100})
    assert words.put_in([1, 3, 4, 3, 5]) == [1, 10, 11, 12, 5]
    ids, embeds = words.look_up(np.array([[1, 10, 11, 12]]))
    assert ids.tolist() == [[1, 0, 0, 0]]
    assert np.array_equal(embeds[0], [np.zeros(16), ROWS[0], ROWS[1], ROWS[0] + 100])
    # The two vectors of a word are not parted by the end of a chunk.
    chunks = cut_chunks([([1, 2, 5, 10, 11], 1.0)], 4, None, words.lengths)
    assert [chunk.tokens for chunk in chunks] == [(1, 2, 5), (10, 11)]


def test_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDLITE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models" / "loras" / "styles"
    folder.mkdir(parents=True)
    ink = write(folder / "ink.safetensors", {"x": ROWS})
    odd = write(tmp_path / "a=b.safetensors", {"x": ROWS})
    assert read_loras(["ink", "INK=0.5", f"{odd.name}", f"{odd.name}=te=0:unet=2"], 0.8) == (
        LoraUse("ink", 0.8, path=ink),
        LoraUse("INK", 0.5, path=ink),
        LoraUse("a=b", 0.8, path=Path(odd.name)),
        LoraUse("a=b", 2.0, 0.0, path=Path(odd.name)),
    )
    with pytest.raises(UnknownName, match="Did you mean 'ink'"):
        read_loras(["inc=0.5"], 1.0)
    with pytest.raises(RequestError, match=r"no LoRA at nowhere\.safetensors"):
        read_loras(["nowhere.safetensors=1"], 1.0)
    with pytest.raises(RequestError, match="'much' is no number"):
        read_loras(["ink=much"], 1.0)
    with pytest.raises(RequestError, match=r"no embedding at nowhere\.pt"):
        read_embeddings(["nowhere.pt"])
