"""The Python in README.md and docs/python.md does what it says, with the model that ships."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_snippets_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason='needs an engine: pip install "sdlite[cpu]"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDLITE_HOME", str(tmp_path / "home"))
    names: dict[str, object] = {}
    found = blocks(page)
    assert found
    for block in found:
        exec(compile(block, page, "exec"), names)  # one page, one program
    with Image.open(tmp_path / "circle.png") as picture:
        assert picture.size == (128, 128)
    printed = capsys.readouterr().out
    if page == "README.md":
        assert "predicted peak" in printed
    else:
        assert "10 of 20 sigma" in printed
        assert isinstance(names["halfway"], Image.Image)
