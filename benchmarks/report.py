"""Write docs/benchmarks.md, and the table in README.md, from the result files.

``python -m benchmarks.report`` writes them, ``--check`` fails when they are not what the files say.
README.md is touched between its two markers only, and only when it has them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import FORMAT, RESULTS, show

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
ORDER = (
    "speed-unet",
    "memory-unet",
    "speed-segments",
    "memory-segments",
    "pictures",
    "pictures-lcm",
    "generate-normal",
    "generate-mapped",
    "bare-openvino",
    "memory-limit",
    "memory-smallest-sd15",
    "export",
    "export-families",
    "export-shapes",
    "merge",
    "start",
    "server",
    "server-sd15",
    "server-cancel",
    "server-load",
    "server-state",
    "server-malformed",
)
"""Result files in the order they are shown; others follow by name."""

PROGRAMS = (
    *("speed", "pictures", "bare", "memory", "forecast", "agree", "export", "merge", "start"),
    *("server", "server_cancel", "server_load", "server_state", "server_malformed"),
)

INTRODUCTION = """\
# Benchmarks

This page is written by `python -m benchmarks.report` from the files in `benchmarks/results/`; every
file holds all samples, the machine, the versions and the command. Full-size models here have random
weights (`python -m benchmarks.checkpoints sd15 FILE`): speed and memory do not depend on what the
weights say, pictures do.

- *Private* is anonymous resident memory (what must stay in RAM or swap), *mapped* is resident file
  pages (the system may drop them and read them again). Both are the kernel's counters of the
  process itself, sampled every 2 ms; *peak RSS* is the kernel's own high-water mark of their sum.
- Contenders run in processes of their own and take turns call by call, the order reversed every
  round. Figures are medians, peaks are maxima; ratios are medians of each round's ratio.
- *Load before* is the machine's one-minute load average when a program started: other work that ran
  at the same time makes seconds worse, not better.
- A target is from the project's issues; *met* compares it with the figure beside it.
"""


def load_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Result files by stem, in the order they are shown; quick runs and other formats left out."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            continue
        if data["program"] in PROGRAMS and not data["quick"]:
            found[path.stem] = data
    known = [stem for stem in ORDER if stem in found]
    return {stem: found[stem] for stem in [*known, *sorted(set(found) - set(known))]}


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def target_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Every figure that has a target."""
    rows = [["what", "target", "measured", "met", "from"]]
    for stem, data in results.items():
        for item in data["measurements"]:
            if item["target"] is None:
                continue
            rows.append(
                [
                    f"{_topic(data)}{item['what']}",
                    f"at most {show(item['target'], item['unit'])}",
                    show(item["value"], item["unit"]),
                    "yes" if item["met"] else "**no**",
                    f"`{stem}.json`",
                ]
            )
    return table(rows)


def _topic(data: Mapping[str, Any]) -> str:
    """Words a figure needs before it when it stands away from its section."""
    short = {"memory": "", "export": "", "start": "", "speed": ""}
    title = str(data["title"])
    if "picture" in title and data["program"] in short:
        return f"{title}: "
    return ""


def instructions(machine: Mapping[str, Any]) -> str:
    """What decides how fast a processor computes these models."""
    flags = machine.get("cpu_flags")
    if flags is None:
        # Files from before the flags were kept are all of one machine.
        return "with AVX-512, VNNI and bfloat16"
    if "avx512f" not in flags:
        return "with AVX2 and VNNI" if "avx_vnni" in flags else "with AVX2, no VNNI"
    rest = {"avx512_vnni": "VNNI", "avx512_bf16": "bfloat16"}
    return " and ".join(["with AVX-512", *(word for flag, word in rest.items() if flag in flags)])


def section(stem: str, data: Mapping[str, Any]) -> str:
    """One result file: how it was made, then all its figures."""
    machine, versions = data["machine"], data["versions"]
    facts = [
        f"{machine['cpu']} {instructions(machine)}, {machine['physical_cores']} cores, "
        f"{machine['ram_bytes'] / 1e9:.0f} GB, {machine['system']}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        data["date"],
    ]
    if machine["load_before"] is not None:
        facts.append(f"load before {machine['load_before']:.1f}")
    lines = [f"## {data['title']}", "", " · ".join(facts), ""]
    for name, peer in data["peers"].items():
        words = ", ".join(f"{key} {value}" for key, value in peer.get("versions", {}).items())
        size = peer.get("peak_rss_bytes")
        cost = f"; its export took {peer['seconds']:.0f} s and {size / 1e9:.1f} GB" if size else ""
        lines += [f"Peer: {name} ({words}){cost}.", ""]
    lines += [f"`{data['command']}` → `{stem}.json`", ""]
    rows = [["what", "figure", "samples", "how"]]
    for item in data["measurements"]:
        samples = item["samples"]
        least, most = show(min(samples), item["unit"]), show(max(samples), item["unit"])
        spread = str(len(samples)) if len(samples) == 1 else f"{len(samples)}: {least} to {most}"
        rows.append([item["what"], show(item["value"], item["unit"]), spread, item["note"]])
    lines.append(table(rows))
    if data["notes"]:
        lines += ["", "Notes: " + "; ".join(data["notes"]) + "."]
    return "\n".join(lines)


def document(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## Targets\n\n" + target_table(results)]
    remarks = RESULTS / "remarks.md"
    if remarks.is_file():
        parts.append(remarks.read_text(encoding="utf-8").strip())
    parts += [section(stem, data) for stem, data in results.items()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def readme(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """README with the table between its markers renewed; unchanged when it has no markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return text
    return f"{before}{BEGIN}\n\n{target_table(results)}\n\n{END}{after}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    options = parser.parse_args(arguments)
    results = load_results(RESULTS)
    wanted = {DOCUMENT: document(results)}
    if README.is_file():
        wanted[README] = readme(README.read_text(encoding="utf-8"), results)
    stale = [
        path
        for path, text in wanted.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    if options.check and stale:
        sys.exit(f"{', '.join(path.name for path in stale)}: run python -m benchmarks.report")
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8", newline="\n")
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
