from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import machine, record, report, speed
from benchmarks.export import parse_job
from benchmarks.record import Measurement, show
from benchmarks.runs import run
from benchmarks.watch import Watch, supported
from benchmarks.worker import Spec, inputs_for
from sdlite.engine import TensorSpec

linux = pytest.mark.skipif(not supported(), reason="the system has no /proc/self/statm")


def test_measurement_takes_median_or_maximum_and_judges_it() -> None:
    calls = Measurement("a", "calls", "s", (3.0, 1.0, 2.0), target=2.0)
    peak = Measurement("b", "peak", "bytes", (1.0, 5.0, 2.0), "max", target=4.0)
    assert (calls.value, calls.met) == (2.0, True)
    assert (peak.value, peak.met) == (5.0, False)
    assert Measurement("c", "free", "s", (1.0,)).met is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (450e6, "bytes", "0.45 GB"),
        (2.5e6, "bytes", "2.5 MB"),
        (50e3, "bytes", "50.0 kB"),
        (200.0, "count", "200"),
        (5.256, "s", "5.26 s"),
        (321.2, "s", "321 s"),
        (0.98, "ratio", "0.98x"),
        (1.26, "percent", "1.3 %"),
        (81.25, "ms", "81.2 ms"),
    ],
)
def test_figures_as_people_read_them(value: float, unit: str, text: str) -> None:
    assert show(value, unit) == text


def write_two(folder: Path) -> None:
    found = [
        Measurement("call", "U-Net call", "s", (2.0, 4.0, 3.0), target=2.5, note="engine alone"),
        Measurement("peak", "Private memory", "bytes", (4e8,), "max", target=4.5e8),
    ]
    record.write(folder / "speed-unet.json", "speed", "U-Net call", found)
    record.write(folder / "other.json", "speed", "Not a figure", found, quick=True)


def test_result_file_says_with_what_and_where(tmp_path: Path) -> None:
    write_two(tmp_path)
    data = json.loads((tmp_path / "speed-unet.json").read_text(encoding="utf-8"))
    assert data["measurements"][0]["samples"] == [2.0, 4.0, 3.0]
    assert data["measurements"][0]["value"] == 3.0
    assert data["measurements"][0]["met"] is False
    assert data["machine"]["ram_bytes"] > 0
    assert {"python", "numpy"} <= set(data["versions"])
    assert str(tmp_path) not in (tmp_path / "speed-unet.json").read_text(encoding="utf-8")


def test_command_names_no_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = [str(tmp_path / "speed.py"), "unet", str(tmp_path / "package"), "--rounds", "3"]
    monkeypatch.setattr(sys, "argv", words)
    assert machine.command() == "python -m benchmarks.speed unet package --rounds 3"
    job = f"fp32={tmp_path / 'model.safetensors'}:fp16"
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "export.py"), job])
    assert machine.command() == "python -m benchmarks.export fp32=model.safetensors:fp16"


def test_report_shows_targets_and_leaves_quick_runs_out(tmp_path: Path) -> None:
    write_two(tmp_path)
    results = report.load_results(tmp_path)
    assert list(results) == ["speed-unet"]
    page = report.document(results)
    assert "| U-Net call | at most 2.5 s | 3 s | **no** | `speed-unet.json` |" in page
    assert "| Private memory | at most 0.45 GB | 0.40 GB | yes | `speed-unet.json` |" in page
    assert "3: 2 s to 4 s" in page


def test_readme_changes_between_its_markers_only(tmp_path: Path) -> None:
    write_two(tmp_path)
    results = report.load_results(tmp_path)
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    renewed = report.readme(text, results)
    assert renewed.startswith(f"before\n{report.BEGIN}\n\n| what |")
    assert renewed.endswith(f"|\n\n{report.END}\nafter\n")
    assert report.readme(renewed, results) == renewed
    assert report.readme("no markers\n", results) == "no markers\n"


def test_committed_page_is_what_the_result_files_say() -> None:
    assert report.DOCUMENT.read_text(encoding="utf-8") == report.document(
        report.load_results(record.RESULTS)
    )


def test_contenders_take_turns_in_alternating_order(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Fake:
        def __init__(self, spec: Spec) -> None:
            self.spec, self.opened = spec, {"seconds": 0.5}

        def __enter__(self) -> Fake:
            return self

        def __exit__(self, *_: object) -> None:
            calls.append(f"close {self.spec.path}")

        def run(self) -> dict[str, Any]:
            calls.append(self.spec.path)
            return {"seconds": float(len(calls))}

    monkeypatch.setattr(speed, "Worker", Fake)
    taken, opened = speed.take_turns({"x": Spec("a"), "y": Spec("b")}, 3)
    assert calls == ["a", "b", *"ab", *"ba", *"ab", "close b", "close a"]
    seconds = {name: [call["seconds"] for call in facts] for name, facts in taken.items()}
    assert seconds == {"x": [3.0, 6.0, 7.0], "y": [4.0, 5.0, 8.0]}
    assert opened["y"] == {"seconds": 0.5}
    assert speed.ratios(taken["x"], taken["y"]) == (3 / 4, 6 / 5, 7 / 8)


def test_inputs_fit_free_and_fixed_sizes() -> None:
    spec = Spec("package", batch=2, cells=8, tokens=5)
    feeds = inputs_for(
        (
            TensorSpec("sample", "float32", ("batch", 4, "height", "width")),
            TensorSpec("timestep", "float32", ("batch",)),
            TensorSpec("encoder_hidden_states", "float32", (2, 77, 16)),
            TensorSpec("other", "float32", ("s0", 4, "s1", "s1")),
            TensorSpec("input_ids", "int64", ("batch", "tokens")),
        ),
        spec,
    )
    shapes = {name: value.shape for name, value in feeds.items()}
    assert shapes == {
        "sample": (2, 4, 8, 8),
        "timestep": (2,),
        "encoder_hidden_states": (2, 77, 16),
        "other": (2, 4, 8, 8),
        "input_ids": (2, 5),
    }
    assert feeds["timestep"].tolist() == [500.0, 500.0]
    assert feeds["input_ids"].dtype == np.int64


def test_export_jobs() -> None:
    job = parse_job("whole=model.safetensors:fp32")
    assert (job.name, job.source.name, job.precision) == ("whole", "model.safetensors", "fp32")
    assert parse_job("whole=model.safetensors").precision == "fp16"
    with pytest.raises(argparse.ArgumentTypeError, match="NAME=SOURCE"):
        parse_job("model.safetensors")


@linux
def test_watch_sees_private_memory_come_and_go() -> None:
    with Watch() as watch:
        before = watch.read()
        assert before is not None
        block = np.ones(64 << 20, dtype=np.uint8)
        del block
        watch.reset()
        low = watch.private_peak
        block = np.ones(128 << 20, dtype=np.uint8)
        after = watch.read()
    assert after is not None and after.private - before.private > 120 << 20
    assert watch.private_peak is not None and low is not None
    assert watch.private_peak - low > 120 << 20
    assert block.nbytes == 128 << 20


def test_run_reports_output_and_exit_code() -> None:
    outcome = run([sys.executable, "-c", "print('here'); raise SystemExit(3)"])
    assert outcome.exit_code == 3
    assert outcome.output.strip() == "here"
    assert outcome.seconds > 0 and outcome.max_rss > 1_000_000
