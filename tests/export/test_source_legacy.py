"""Checkpoints of torch before 1.6: pickles in a row, read without being executed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from sdlite.errors import SourceCorrupt, SourceError, SourceHostile
from sdlite.tensors.pickle import open_nested, open_pickle
from tests.export.makers import Call, TorchFile

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(4, dtype=np.float16)


def good(path: Path) -> Path:
    file = TorchFile()
    return file.write_row(path, {"a": file.tensor(A), "deep": {"b": file.tensor(B)}})


def test_tensors_come_out_as_they_were(tmp_path: Path) -> None:
    path = good(tmp_path / "m.pth")
    nested = open_nested(path)
    assert nested.infos()["a"].shape == (2, 3)
    np.testing.assert_array_equal(nested.read("a"), A)
    np.testing.assert_array_equal(nested.read("deep.b"), B)
    np.testing.assert_array_equal(open_pickle(path).read("a"), A)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    whole = good(tmp_path / "m.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceCorrupt):
            open_nested(path)


def test_a_row_that_calls_something_is_refused(tmp_path: Path) -> None:
    file = TorchFile()
    path = file.write_row(tmp_path / "m.pth", {"a": Call("os", "system", "true")})
    with pytest.raises(SourceHostile, match=r"'os\.system', which is no part of a model"):
        open_nested(path)


def test_facts_that_cannot_be_met_are_told(tmp_path: Path) -> None:
    file = TorchFile()
    state = {"a": file.tensor(A)}
    path = file.write_row(tmp_path / "m.pth", state, {"little_endian": False})
    with pytest.raises(SourceError, match="big-endian machine"):
        open_nested(path)
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(7, 2) * 4)
    with pytest.raises(SourceError, match="old PyTorch file of protocol 7"):
        open_nested(path)


def test_a_storage_nobody_uses_is_an_error(tmp_path: Path) -> None:
    file = TorchFile()
    file.storage(B)
    path = file.write_row(tmp_path / "m.pth", {"a": file.tensor(A)})
    with pytest.raises(SourceCorrupt, match="storage '0' is listed twice or used by no tensor"):
        open_nested(path)
