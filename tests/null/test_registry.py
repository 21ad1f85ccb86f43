from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest

from sdlite import registry
from sdlite.errors import RuntimeUnavailable, UnknownName
from sdlite.types import Device


class Broken:
    name = "broken"
    formats = frozenset({"onnx"})

    def probe(self) -> Sequence[Device]:
        raise OSError("driver exploded")


class Gone(Broken):
    def probe(self) -> Sequence[Device]:
        raise RuntimeUnavailable("no such chip", "Buy one")


class Other(Broken):
    formats = frozenset({"other"})

    def probe(self) -> Sequence[Device]:
        return (Device("other", "here", "there", memory_bytes=5),)


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Entry points of other distributions: name to target; nothing else is registered."""
    found: dict[str, str] = {}

    def entry_points(group: str) -> list[SimpleNamespace]:
        assert group == "sdlite.runtimes"
        return [SimpleNamespace(name=name, value=value) for name, value in found.items()]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.setattr(registry, "_runtimes", {})
    registry._targets.cache_clear()
    yield found
    registry._targets.cache_clear()


def test_names_and_order() -> None:
    assert registry.names()[:4] == ("coreml", "onnxruntime", "openvino", "null")
    assert registry.get("null") is registry.get("null")
    assert registry.probe("null") == (registry.get("null").probe()[0],)


def test_unknown_runtime() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'onnxruntime'"):
        registry.get("onnx-runtime")
    with pytest.raises(UnknownName):
        registry.devices("tensorrt")


def test_without_metadata(entries: dict[str, str]) -> None:
    assert registry.names() == ("coreml", "onnxruntime", "openvino", "null")


def test_entry_points_of_others(entries: dict[str, str]) -> None:
    entries["other"] = f"{__name__}:Other"
    entries["null"] = "evil:Null"  # a built-in name is not replaced
    assert registry.names() == ("coreml", "onnxruntime", "openvino", "null", "other")
    assert registry.devices("other") == (Device("other", "here", "there", memory_bytes=5),)
    assert registry.get("null").name == "null"
    assert "other" not in {device.runtime for device in registry.devices("null")}


def test_devices_know_free_memory() -> None:
    device = registry.devices("null")[0]
    assert device.memory_bytes is None or device.memory_bytes > 0


def test_null_is_never_chosen(entries: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", {"null": registry.BUILT_IN["null"]})
    with pytest.raises(RuntimeUnavailable, match="none is registered"):
        registry.devices()


def test_nothing_opens_says_every_reason(
    entries: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", {})
    entries |= {
        "absent": "no_such_module_at_all:Runtime",
        "broken": f"{__name__}:Broken",
        "gone": f"{__name__}:Gone",
        "other": f"{__name__}:Other",  # opens, but runs another format
    }
    with pytest.raises(RuntimeUnavailable) as caught:
        registry.devices()
    message = str(caught.value)
    for part in ("no_such_module_at_all", "driver exploded", "no such chip", "sdlite[cpu]"):
        assert part in message
    assert "\n" not in message
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert [type(error) for error in cause.exceptions] == [RuntimeUnavailable] * 3


def test_available_lists_reasons(entries: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", {"null": registry.BUILT_IN["null"]})
    entries |= {"gone": f"{__name__}:Gone", "missing": f"{__name__}:NotThere"}
    found = dict(registry.available())
    assert isinstance(found["null"], tuple)
    assert isinstance(found["gone"], RuntimeUnavailable)
    assert "NotThere" in str(found["missing"])


def test_asked_for_by_name_gives_its_own_reason(entries: dict[str, str]) -> None:
    entries["gone"] = f"{__name__}:Gone"
    with pytest.raises(RuntimeUnavailable, match=r"no such chip\. Buy one"):
        registry.devices("gone")


def test_importing_loads_no_engine() -> None:
    code = (
        "import sys, sdlite.registry as r; r.names();"
        "print([m for m in sys.modules if m.startswith(('onnxruntime', 'sdlite_runtimes'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
