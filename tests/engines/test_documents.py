"""The Python in README.md, docs/python.md and docs/editing.md does what it says, on shapes."""

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


def test_the_page_about_editing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason='needs an engine: pip install "sdlite[cpu]"')
    monkeypatch.setenv("SDLITE_HOME", str(tmp_path / "home"))
    names: dict[str, object] = {}
    for block in blocks("docs/editing.md"):
        exec(compile(block, "editing.md", "exec"), names)
    circle, star = names["circle"], names["star"].images[0]  # type: ignore[attr-defined]
    # The mask ends at 16 and 112, its blur of 4 pixels reaches 10 further.
    for box in ((0, 0, 128, 6), (0, 122, 128, 128), (0, 0, 6, 128), (122, 0, 128, 128)):
        assert star.crop(box).tobytes() == circle.crop(box).tobytes()  # type: ignore[attr-defined]
    assert star.tobytes() != circle.tobytes()  # type: ignore[attr-defined]
