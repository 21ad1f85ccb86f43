"""The code on docs/adapter.md and docs/embedding.md does what the pages say."""

from __future__ import annotations

import importlib.metadata
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from sdlite_runtimes.nullpackage import write_null_package

import sdlite
from sdlite import registry
from sdlite.engine import LoadOptions, Runtime
from sdlite.errors import EngineError, RequestError, RuntimeUnavailable
from sdlite.types import Device
from tests.engines import graphs, test_contract

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Runtime, Device]]:
    """The page's adapter, registered as a distribution would do it."""
    module = ModuleType("sdlite_reference")
    exec(compile(blocks("adapter.md")[0], "adapter.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "sdlite_reference", module)
    entry = SimpleNamespace(name="reference", value="sdlite_reference:ReferenceRuntime")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    monkeypatch.setattr(registry, "_runtimes", {})
    registry._targets.cache_clear()
    yield registry.get("reference"), registry.probe("reference")[0]
    registry._targets.cache_clear()


CONTRACT = [
    test_contract.test_all_outputs_as_declared,
    test_contract.test_outputs_belong_to_the_caller,
    test_contract.test_inputs_of_any_dtype_and_stride,
    test_contract.test_close_twice_and_run_after,
    test_contract.test_threads_share_a_session,
    test_contract.test_unknown_device_option_and_file,
]


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_example_keeps_the_contract(
    reference: tuple[Runtime, Device], check: object, tmp_path: Path
) -> None:
    assert callable(check)
    check(reference, graphs.linear(tmp_path), tmp_path)


def test_example_computes(reference: tuple[Runtime, Device], tmp_path: Path) -> None:
    runtime, device = reference
    test_contract.test_probe_names_itself(reference)
    test_contract.test_chain_runs_in_order(reference, tmp_path)
    artifact = graphs.linear(tmp_path)
    session = runtime.load(artifact, tmp_path, device, LoadOptions())
    x = np.ones((2, graphs.SIDE), np.float32)
    expected = x @ graphs.weight() / np.float32(graphs.SIDE**0.5)
    np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-5)
    with pytest.raises(EngineError, match="missing or unknown inputs: x, z"):
        session.run({"z": x})
    for options in (LoadOptions(memory_mode="mapped"), LoadOptions(weights={"w0": x})):
        with pytest.raises(EngineError, match="cannot map or replace"):
            runtime.load(artifact, tmp_path, device, options)


def test_example_says_how_to_install_its_engine(
    reference: tuple[Runtime, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx.reference", None)
    with pytest.raises(RuntimeUnavailable, match="pip install onnx"):
        reference[0].probe()


def test_example_is_short() -> None:
    lines = [line for line in blocks("adapter.md")[0].splitlines() if line.strip()]
    assert len(lines) <= 50


def test_fake_engine_example() -> None:
    exec(compile(blocks("adapter.md")[1], "adapter.md", "exec"), {})


def test_embedding_examples_compile() -> None:
    found = blocks("embedding.md")
    assert len(found) == 4
    for block in found:
        compile(block, "embedding.md", "exec")


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    return write_null_package(tmp_path / "fake", size=16)


def test_closed_and_unpicklable(fake: Path) -> None:
    pipe = sdlite.load(fake, runtime="null")
    with pytest.raises(TypeError):
        pickle.dumps(pipe)
    pipe.close()
    pipe.close()
    with pytest.raises(RequestError, match="closed"):
        pipe.generate("a star", steps=1)


def test_spawned_processes_open_their_own(fake: Path, tmp_path: Path) -> None:
    script = blocks("embedding.md")[2].replace('"shapes"', f'{str(fake)!r}, runtime="null"')
    (tmp_path / "main.py").write_text(script, encoding="utf-8")
    subprocess.run([sys.executable, "main.py"], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "a red circle.png").is_file()


def test_nothing_is_printed(fake: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = np.random.get_state()[1].tolist()  # noqa: NPY002 (the global one must not change)
    with sdlite.load(fake, runtime="null") as pipe:
        pipe.generate("a star", seed=1, steps=2)
    assert capfd.readouterr() == ("", "")
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
