"""LoRAs and other changes merged into weights that a package stores in 8 bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdlite.errors import SourceError
from sdlite.manifest import FileEntry, TensorEntry, WeightFile
from sdlite.package import Package
from sdlite.tensors.eightbit import steps_of, to_int8
from sdlite.weightfile import own_tensors
from sdlite.weights.files import open_tensor_file
from sdlite.weights.lora import match, names_of
from sdlite.weights.merge import Use, merge, touched
from sdlite.weights.stored import read_tensor, store_tensor
from tests.adapters import LINEAR, PAGE, make_package, write
from tests.tiny import Tiny

Array = np.ndarray[Any, np.dtype[Any]]
WEIGHT = f"{LINEAR}.weight"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A package of which one linear layer is in 8 bits, with factors of rows and columns."""
    folder = tmp_path_factory.mktemp("eightbit")
    whole, states = make_package(folder, Tiny(), "sd1")
    weights = whole.manifest.weights["unet"]
    value = states["unet"][WEIGHT]
    rows = np.linspace(0.5, 2.0, len(value), dtype=np.float32)
    columns = np.linspace(3.0, 0.3, value.shape[1], dtype=np.float32)
    folded = value * rows[:, None] * columns
    steps = steps_of(folded)
    data = bytearray((folder / "unet" / "weights.bin").read_bytes())
    tensors = dict(weights.tensors)

    def add(name: str, array: Array, **facts: Any) -> None:
        data.extend(bytes(-len(data) % PAGE))
        raw = np.ascontiguousarray(array)
        tensors[name] = TensorEntry(str(raw.dtype), raw.shape, len(data), raw.nbytes, **facts)
        data.extend(raw.tobytes())

    add("steps", steps)
    add("rows", rows)
    add("columns", columns)
    about = {"scale": "steps", "rows": "rows", "columns": "columns"}
    add(WEIGHT, to_int8(folded, steps).T, layout="transposed", **about)
    (folder / "unet" / "weights.bin").write_bytes(data)
    made = WeightFile(FileEntry(weights.file.path, len(data), ""), "int8", tensors)
    manifest = replace(whole.manifest, weights={**whole.manifest.weights, "unet": made})
    return Package(folder, manifest)


def lora(path: Path, package: Package, size: float) -> tuple[Use, Array]:
    """A LoRA of rank 2 of that layer, and what it adds."""
    shape = package.manifest.weights["unet"].tensors[WEIGHT].shape[::-1]
    rng = np.random.default_rng(4)
    up = rng.standard_normal((shape[0], 2), np.float32) * np.float32(size)
    down = rng.standard_normal((2, shape[1]), np.float32)
    stem = "lora_unet_" + LINEAR.replace(".", "_")
    file = write(path, {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down})
    return Use(match(open_tensor_file(file), package, names_of(package)), 1.0, 1.0), up @ down


def dequantized(found: dict[str, Array], package: Package) -> Array:
    rows, columns = (read_tensor(package, "unet", name) for name in ("rows", "columns"))
    stored = found[WEIGHT].T.astype(np.float32) * found["steps"][:, None]
    return np.asarray(stored / rows[:, None] / columns)


def test_a_large_change_arrives_and_widens_the_steps(package: Package, tmp_path: Path) -> None:
    use, added = lora(tmp_path / "a.safetensors", package, 3.0)
    names = names_of(package)
    found = merge(package, "unet", [use], names)
    assert found.keys() == {WEIGHT, "steps"}
    assert {n: v.nbytes for n, v in found.items()} == touched(package, "unet", [use], names)
    assert found[WEIGHT].dtype == np.int8 and found[WEIGHT].flags.c_contiguous
    assert (found["steps"] >= read_tensor(package, "unet", "steps")).all()
    wanted = read_tensor(package, "unet", WEIGHT) + added
    rows, columns = (read_tensor(package, "unet", name) for name in ("rows", "columns"))
    step = found["steps"][:, None] / rows[:, None] / columns
    assert (np.abs(dequantized(found, package) - wanted) <= step * 1.001).all()


def test_a_change_far_below_a_step_arrives_in_the_mean(package: Package, tmp_path: Path) -> None:
    use, added = lora(tmp_path / "a.safetensors", package, 3e-4)
    base = read_tensor(package, "unet", WEIGHT)
    found = merge(package, "unet", [use], names_of(package))
    rows, columns = (read_tensor(package, "unet", name) for name in ("rows", "columns"))
    levels = added * rows[:, None] * columns / read_tensor(package, "unet", "steps")[:, None]
    assert np.abs(levels).max() < 0.5  # rounded to the nearest, nothing would be left of it
    change = (dequantized(found, package) - base) * rows[:, None] * columns
    change /= found["steps"][:, None]
    # As many numbers go one level up or down as their sizes add up to, give or take chance.
    up = levels > 0
    expected = levels[up].sum()
    assert abs(change[up].sum() - expected) < 4 * np.sqrt(expected)
    again = merge(package, "unet", [use], names_of(package))
    assert (again[WEIGHT] == found[WEIGHT]).all()


def test_nothing_changes_what_is_stored_already(package: Package) -> None:
    base = read_tensor(package, "unet", WEIGHT)
    for change in (True, False):
        found = store_tensor(package, "unet", WEIGHT, base, change=change)
        assert np.abs(dequantized(found, package) - base).max() < 1e-5 * np.abs(base).max()


def test_numbers_that_are_not_finite_are_refused(package: Package) -> None:
    base = read_tensor(package, "unet", WEIGHT)
    base[1, 1] = np.inf
    with pytest.raises(SourceError, match=r"to_k\.weight is beyond float32; lower the strength"):
        store_tensor(package, "unet", WEIGHT, base)


def test_own_tensors_are_those_of_the_model(package: Package) -> None:
    weights = package.manifest.weights["unet"]
    assert weights.tensors.keys() - own_tensors(weights).keys() == {"steps", "rows", "columns"}
