"""How soon there is something: import, ``--help``, a small picture, and the size of an install.

``python -m benchmarks.start [--model MODEL] [--install]``; ``--first-call PACKAGE`` measures how
long a large model takes to its first U-Net call instead. Every sample is a fresh process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from benchmarks.machine import label, machine, package_identity
from benchmarks.record import RESULTS, Measurement, write
from benchmarks.runs import run
from sdlite.package import Package

IMPORT_TARGET = 150.0
HELP_TARGET = 300.0
PICTURE_TARGET = 2.0
CALL_TARGETS = {"openvino": 3.0, "openvino int8": 4.5, "onnxruntime mapped": 1.5}
"""Seconds from the start of a process to the first U-Net call of SD1.5, compile cache warm."""
INSTALLS = (
    ("install_bytes", 'pip install "sdlite[cpu]"', ("{root}[cpu]",), 450e6),
    (
        "install_without_openvino_bytes",
        "pip install sdlite onnxruntime",
        ("{root}", "onnxruntime"),
        250e6,
    ),
)
"""Key, how it reads, what pip installs, and the target in bytes."""

IMPORT = """
import sys, time
start = time.perf_counter()
import sdlite
print(1000 * (time.perf_counter() - start))
engines = [name for name in ("onnxruntime", "openvino", "torch") if name in sys.modules]
if engines:
    sys.exit("import sdlite loaded " + ", ".join(engines))
"""
CLI = "import sys; sys.argv[0] = 'sdlite'; from sdlite.cli import main; main()"


def child(arguments: list[str], **environment: str) -> tuple[float, str]:
    """Seconds and output of one Python process; raises when it fails."""
    setting = [f"{name}={value}" for name, value in environment.items()]
    outcome = run([*(["env", *setting] if setting else []), sys.executable, *arguments])
    if outcome.exit_code != 0:
        raise RuntimeError(f"ended with {outcome.exit_code}: {outcome.output[-2000:]}")
    return outcome.seconds, outcome.output


def imports(rounds: int) -> list[Measurement]:
    """``import sdlite``, timed inside the process, and the whole process against a bare one."""
    inside, whole, bare = [], [], []
    child(["-c", IMPORT])
    for _ in range(rounds):
        inside.append(float(child(["-c", IMPORT])[1]))
        whole.append(1000 * child(["-c", "import sdlite"])[0])
        bare.append(1000 * child(["-c", ""])[0])
    return [
        Measurement(
            "import_ms",
            "import sdlite",
            "ms",
            tuple(inside),
            target=IMPORT_TARGET,
            note="timed inside a fresh process; no engine may be loaded by it",
        ),
        Measurement("import_process_ms", "Process that imports sdlite", "ms", tuple(whole)),
        Measurement("bare_process_ms", "Process that does nothing", "ms", tuple(bare)),
    ]


def command_line(rounds: int) -> list[Measurement]:
    """``sdlite --help``."""
    samples = tuple(1000 * child(["-c", CLI, "--help"])[0] for _ in range(rounds))
    what = "sdlite --help, whole process"
    return [Measurement("help_ms", what, "ms", samples, target=HELP_TARGET)]


FIRST_CALL = """
import json, os, sys, time
import sdlite
from sdlite.ports import UnetPort
job = json.loads(sys.argv[1])
def first(self, *_, **__):
    print(time.time() - job["start"], time.process_time(), flush=True)
    os._exit(0)
UnetPort.predict = first
with sdlite.load(job["package"], threads=job["threads"], **job["loading"]) as pipe:
    pipe.generate("a red circle on a blue background", seed=1, steps=2)
"""


def first_calls(package: Path, rounds: int, threads: int) -> list[Measurement]:
    """From the start of a process to its first U-Net call, the compile cache filled before."""
    precisions = {artifact.precision for artifact in Package.open(package).manifest.artifacts}
    eight = "int8" in precisions
    ways = {"openvino int8" if eight else "openvino": {"runtime": "openvino"}}
    if not eight:
        ways["onnxruntime mapped"] = {"runtime": "onnxruntime", "memory_mode": "mapped"}
    found = []
    for way, loading in ways.items():
        samples, busy = [], []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(rounds + 1):
                job = {"package": str(package), "threads": threads, "loading": loading}
                words = ["-c", FIRST_CALL, json.dumps({**job, "start": time.time()})]
                last = child(words, SDLITE_HOME=folder)[1].splitlines()[-1]
                wall, processor = map(float, last.split())
                samples.append(wall)
                busy.append(processor)
        key = way.replace(" ", "_")
        found += [
            Measurement(
                f"first_call_{key}_seconds",
                f"{label(package)}: process start to first U-Net call, {way}",
                "s",
                tuple(samples[1:]),
                target=CALL_TARGETS[way],
                note="compile cache warm, weight files in the file cache",
            ),
            Measurement(
                f"first_call_{key}_cpu_seconds",
                f"{label(package)}: processor seconds of all threads until then, {way}",
                "s",
                tuple(busy[1:]),
                note="other work on the machine changes this less than wall-clock seconds",
            ),
            Measurement(
                f"first_call_{key}_cold_seconds",
                f"{label(package)}: the same with an empty compile cache, {way}",
                "s",
                (samples[0],),
            ),
        ]
    return found


def picture(model: str, rounds: int, steps: int | None) -> list[Measurement]:
    """A picture with the model's own settings, from the command line and in the library."""
    code = (
        "import sys, time, sdlite\n"
        "with sdlite.load(sys.argv[1]) as pipe:\n"
        "    steps = int(sys.argv[2]) or None\n"
        "    for _ in range(2):\n"
        "        result = pipe.generate('a red circle on a blue background', seed=7, steps=steps)\n"
        "        print(result.seconds)\n"
    )
    whole, first, second = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            words = ["generate", "a red circle on a blue background", "--model", model]
            words += ["--seed", "7", "-o", str(Path(folder) / "picture.png")]
            words += [] if steps is None else ["--steps", str(steps)]
            whole.append(child(["-c", CLI, *words])[0])
        _, output = child(["-c", code, model, str(steps or 0)])
        one, two = (float(line) for line in output.split())
        first.append(one)
        second.append(two)
    return [
        Measurement(
            "picture_process_seconds",
            "sdlite generate, whole process",
            "s",
            tuple(whole),
            target=PICTURE_TARGET,
            note="the model's own size and steps",
        ),
        Measurement("picture_first_seconds", "First picture of a process", "s", tuple(first)),
        Measurement("picture_second_seconds", "Second picture of a process", "s", tuple(second)),
    ]


def install() -> list[Measurement]:
    """Bytes that installing adds to a fresh virtual environment, with OpenVINO and without."""
    return [
        Measurement(
            key,
            f"{words} adds, shipped model and byte code included",
            "bytes",
            (_added(wanted),),
            target=target,
        )
        for key, words, wanted, target in INSTALLS
    ]


def _added(wanted: tuple[str, ...]) -> float:
    root = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "venv"
        venv.create(target, with_pip=True)
        before = _bytes(target)
        python = target / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        # Byte code is written at first use anyway; counting it is the honest size.
        command = [str(python), "-m", "pip", "install", "--quiet"]
        command += [item.format(root=root) for item in wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"pip install failed: {done.stderr[-2000:]}")
        return float(_bytes(target) - before)


def _bytes(folder: Path) -> int:
    return sum(
        item.stat().st_size
        for item in folder.rglob("*")
        if item.is_file() and not item.is_symlink()
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--model", default="shapes", help="model to draw with")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--install", action="store_true", help="measure a fresh install as well")
    parser.add_argument("--first-call", type=lambda text: Path(text).resolve(), metavar="PACKAGE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few samples; proves that it runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rounds = 1 if options.quick else options.rounds
    before = machine()
    if options.first_call is not None:
        package: Path = options.first_call
        write(
            options.output / f"start-{label(package)}.json",
            "start",
            f"Start of {label(package)}",
            first_calls(package, min(rounds, 5), options.threads),
            packages=[package_identity(package)],
            machine_before=before,
            quick=options.quick,
        )
        return
    found = imports(rounds) + command_line(rounds)
    found += picture(options.model, min(rounds, 5), 1 if options.quick else None)
    if options.install:
        found += install()
    write(
        options.output / "start.json",
        "start",
        "Start, small picture, install",
        found,
        machine_before=before,
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
