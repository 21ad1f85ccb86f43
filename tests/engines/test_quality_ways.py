"""The program that compares ways to draw, run on the shapes model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.quality.compare import main
from benchmarks.quality.likeness import EQUAL_DB

pytest.importorskip("onnxruntime")


def test_the_program_writes_its_report(tmp_path: Path) -> None:
    out, sheet = tmp_path / "report.json", tmp_path / "sheet.png"
    same = "shapes,runtime=onnxruntime,steps=2"
    code = main([same, f"{same},guidance=1", "--limit", "2", "--sheet", str(sheet), "-o", str(out)])
    assert code == 0
    report = json.loads(out.read_text())
    assert report["pairs"] == 2
    first, second = report["ways"]
    assert "psnr" not in first
    assert second["psnr"]["median"] < EQUAL_DB
    assert second["attributes"]["low"] <= second["attributes"]["high"]
    with Image.open(sheet) as drawn:
        assert drawn.width > 2 * 128
