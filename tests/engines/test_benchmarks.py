"""Every benchmark program runs on a tiny package and writes what the report reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import agree, bare, export, limit, memory, pictures, speed, start
from benchmarks.machine import label
from benchmarks.taesd import write_taesd
from sdlite.package import Package

pytest.importorskip("onnxruntime")


def read(folder: Path, name: str) -> dict[str, Any]:
    data = json.loads((folder / name).read_text(encoding="utf-8"))
    assert data["quick"] is True
    return {item["key"]: item["value"] for item in data["measurements"]}


def test_speed_of_calls(tiny_package: Package, tmp_path: Path) -> None:
    peer = tiny_package.root / "unet" / "plain.onnx"
    words = ["--quick", "--threads", "1", "--output", str(tmp_path)]
    speed.main(["unet", str(tiny_package.root), "--peer", str(peer), *words])
    found = read(tmp_path, "speed-unet.json")
    assert found["fused_seconds"] > 0 and found["fused_over_torch"] > 0
    speed.main(["segments", str(tiny_package.root), *words])
    found = read(tmp_path, "speed-segments.json")
    assert found["segments_over_whole_normal"] > 0 and found["segments_open_seconds"] > 0


def test_speed_of_a_picture(tiny_package: Package, tmp_path: Path) -> None:
    for mode in ("normal", "mapped"):
        words = ["--quick", "--mode", mode, "--threads", "1", "--output", str(tmp_path)]
        speed.main(["generate", str(tiny_package.root), "--rounds", "1", *words])
        found = read(tmp_path, f"generate-{mode}.json")
        assert found["total_seconds"] > found["unet_call_seconds"] > 0
        assert 0 < found["overhead_percent"] < 100


def test_pictures_of_contenders_in_turns(tiny_package: Package, tmp_path: Path) -> None:
    way = f"{tiny_package.root},runtime=onnxruntime"
    words = ["--rounds", "2", "--steps", "3", "--side", "64", "--threads", "1"]
    words += ["--output", str(tmp_path), "--quick"]
    pictures.main([f"whole={way},profile=quality", f"balanced={way},guidance=1.0", *words])
    found = read(tmp_path, "pictures.json")
    assert found["balanced_over_whole_seconds"] > 0 < found["whole_denoise_seconds"]
    assert found["balanced_resident_peak"] >= found["balanced_private_peak"] > 10e6


def test_few_steps_are_counted_up() -> None:
    few = [{"seconds": 30.0}, {"seconds": 48.0}]
    assert pictures.longer(few, 4, 20)[0]["seconds"] == 30 + 19 * 6


def test_the_random_tiny_decoder_is_one(tmp_path: Path) -> None:
    from sdlite_export.source.tiny import open_tiny

    write_taesd(tmp_path / "taesd.safetensors")
    config = open_tiny(tmp_path / "taesd.safetensors").configs["decoder"]
    assert (config.channels, config.blocks) == (64, (3, 3, 3, 1))


def test_memory_of_calls(tiny_package: Package, tmp_path: Path) -> None:
    words = [str(tiny_package.root), "--quick", "--threads", "1", "--output", str(tmp_path)]
    memory.main(["unet", *words])
    assert read(tmp_path, "memory-unet.json")["private_mapped"] > 10e6
    memory.main(["segments", *words])
    assert read(tmp_path, "memory-segments.json")["private_segments"] > 10e6


def test_picture_under_a_hard_limit(tiny_package: Package, tmp_path: Path) -> None:
    try:
        with limit.memory_limit(1 << 30):
            pass
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    words = [str(tiny_package.root), "--quick", "--threads", "1", "--output", str(tmp_path)]
    memory.main(["limit", *words, "--megabytes", "400"])
    found = read(tmp_path, "memory-limit.json")
    assert 0 < found["limited_denoise_private_bytes"] < 400e6
    assert found["limited_over_free"] > 0
    memory.main(["smallest", *words, "--limits", "400", "20"])
    found = read(tmp_path, f"memory-smallest-{label(tiny_package.root)}.json")
    assert found["smallest_limit_bytes"] == 400e6


def test_sdlite_against_the_bare_engine(tiny_package: Package, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    words = [str(tiny_package.root), "--quick", "--threads", "1", "--output", str(tmp_path)]
    bare.main([*words, "--precision", "fp32"])
    found = read(tmp_path, "bare-openvino.json")
    assert found["sdlite_seconds"] > 0 and found["sdlite_over_bare"] > 0


def test_latents_of_two_engines(tiny_package: Package, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    words = [str(tiny_package.root), "--quick", "--threads", "1", "--output", str(tmp_path)]
    agree.main([*words, "--latents", "--size", "32"])
    found = read(tmp_path, f"agree-latents-{label(tiny_package.root)}.json")
    assert found["latents_openvino_fp32"] < 1e-3


def test_start_of_a_large_model(tiny_package: Package, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    words = ["--quick", "--threads", "1", "--output", str(tmp_path)]
    start.main(["--first-call", str(tiny_package.root), *words])
    found = read(tmp_path, f"start-{label(tiny_package.root)}.json")
    assert found["first_call_openvino_seconds"] > 0
    assert found["first_call_onnxruntime_mapped_seconds"] > 0


def test_export(tiny_checkpoint: Path, tmp_path: Path) -> None:
    words = [f"tiny={tiny_checkpoint}:fp32", "--quick", "--output", str(tmp_path)]
    export.main(words)
    found = read(tmp_path, "export.json")
    assert found["tiny_seconds"] > 0 and found["tiny_max_rss"] > 10e6
    assert found["tiny_package"] > 1000


def test_start(tiny_package: Package, tmp_path: Path) -> None:
    start.main(["--quick", "--model", str(tiny_package.root), "--output", str(tmp_path)])
    found = read(tmp_path, "start.json")
    assert found["import_ms"] > 0 and found["picture_process_seconds"] > 0


def test_agree(tiny_package: Package, tmp_path: Path) -> None:
    words = [str(tiny_package.root), "--quick", "--threads", "1", "--output", str(tmp_path)]
    agree.main([*words, "--ways", "tiles", "mapped"])
    data = json.loads((tmp_path / f"agree-{label(tiny_package.root)}.json").read_text())
    assert [figure["key"] for figure in data["measurements"]] == [
        "difference_tiles",
        "difference_mapped",
    ]
    assert all(figure["met"] for figure in data["measurements"])


def test_forecast(tiny_package: Package, tmp_path: Path) -> None:
    from benchmarks import forecast

    words = [str(tiny_package.root), "--quick", "--threads", "1", "--output", str(tmp_path)]
    forecast.main(words)
    data = json.loads((tmp_path / f"forecast-{label(tiny_package.root)}.json").read_text())
    assert len(data["measurements"]) == 3
