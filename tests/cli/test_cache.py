"""``sdlite cache``."""

from __future__ import annotations

import json
from pathlib import Path

from sdlite import compilecache
from tests.cli.conftest import Run


def fill(home: Path) -> Path:
    folder = home / "cache" / "compiled"
    for index, name in enumerate(("unet", "vae_decoder")):
        key = {
            "component": name,
            "precision": "bf16",
            "shape": '{"batch": 2}',
            "engine": "openvino 2026.4.1-22982-build",
        }
        compilecache.write(folder, key, bytes(1000 * (index + 1)))
    return folder


def test_empty(run: Run, home: Path) -> None:
    done = run("cache")
    assert done.exit_code == 0
    assert f"0 compiled, 0 bytes in {home / 'cache' / 'compiled'}" in done.stdout
    assert json.loads(run("cache", "--json").stdout)["entries"] == []


def test_list(run: Run, home: Path) -> None:
    folder = fill(home)
    (folder / f"odd{compilecache.SUFFIX}").write_bytes(b"?")
    done = run("cache")
    assert "batch=2  openvino 2026.4.1\n" in done.stdout
    assert "damaged" in done.stdout
    assert "3 compiled" in done.stdout
    found = json.loads(run("cache", "--json").stdout)
    assert found["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert {entry["key"].get("component") for entry in found["entries"]} == {
        "unet",
        "vae_decoder",
        None,
    }


def test_clear(run: Run, home: Path) -> None:
    folder = fill(home)
    assert "deleted 2, " in run("cache", "--clear").stdout
    assert list(folder.iterdir()) == []


def test_shrink(run: Run, home: Path) -> None:
    fill(home)
    assert json.loads(run("cache", "--shrink", "3K", "--json").stdout)["deleted"] == 1
    assert json.loads(run("cache", "--shrink", "0", "--json").stdout)["entries"] == []
    done = run("cache", "--shrink", "some")
    assert done.exit_code == 2
    assert "not an amount of memory" in done.stderr
