"""Judges a folder of pictures against their prompts; needs numpy and Pillow only.

    python -m benchmarks.quality.judge_folder FOLDER [PROMPTS.json] [-o REPORT.json] [--sheet PNG]

PROMPTS.json is a list of objects with "prompt" and "file" (or "id", then the file is `ID.png`);
without it the held-out list is taken. From another program:

    from benchmarks.quality.judge_folder import judge_pictures, load_prompts
    entries = load_prompts()
    report, verdicts = judge_pictures(entries, images)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.quality.checker import Verdict, judge, shares
from benchmarks.quality.make_heldout import PATH as HELD_OUT
from benchmarks.quality.report import surroundings, write_report
from benchmarks.quality.sheet import contact_sheet

Entry = Mapping[str, Any]

_KINDS: dict[str, Callable[[Entry], str | None]] = {
    "shapes": lambda entry: {1: "one shape", 2: "two shapes"}.get(entry.get("shapes", 0)),
    "size": lambda entry: f"{entry['size']} size" if "size" in entry else None,
    "style": lambda entry: f"{entry['style']} style" if "style" in entry else None,
    "wording": lambda entry: (
        f"worded {entry['wording'].split(' + ')[0]}" if "wording" in entry else None
    ),
}


def load_prompts(path: Path = HELD_OUT) -> list[dict[str, Any]]:
    """Read a list of prompts; raises ValueError when an entry has no prompt."""
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or "prompt" not in entry:
            raise ValueError(f'{path.name}: entry {index} has no "prompt"')
    return entries


def file_name(entry: Entry) -> str:
    """Name of an entry's picture inside its folder."""
    return str(entry["file"]) if "file" in entry else f"{entry['id']}.png"


def judge_pictures(
    entries: Sequence[Entry], images: Sequence[Image.Image]
) -> tuple[dict[str, Any], list[Verdict]]:
    """Judge pictures in the order of their prompts.

    Returns the figures (shares of right pictures for all, and by kind when the entries name their
    kind, and what went wrong in each failure) and one verdict for each picture.
    """
    if len(entries) != len(images):
        raise ValueError(f"{len(entries)} prompts, {len(images)} pictures: give one of each")
    verdicts = [judge(entry["prompt"], image) for entry, image in zip(entries, images, strict=True)]
    groups: dict[str, list[Verdict]] = {}
    for entry, verdict in zip(entries, verdicts, strict=True):
        for kind in _KINDS.values():
            name = kind(entry)
            if name is not None:
                groups.setdefault(name, []).append(verdict)
    return {
        "all": shares(verdicts),
        "by_kind": {name: shares(groups[name]) for name in sorted(groups)},
        "failures": [
            {
                "picture": Path(file_name(entry)).stem,
                "prompt": entry["prompt"],
                "wrong": list(verdict.wrong),
            }
            for entry, verdict in zip(entries, verdicts, strict=True)
            if not verdict.wholly_right
        ],
    }, verdicts


def failure_sheet(
    entries: Sequence[Entry], images: Sequence[Image.Image], verdicts: Sequence[Verdict]
) -> Image.Image | None:
    """Contact sheet of the pictures that are not wholly right, None when all are."""
    failed = [index for index, verdict in enumerate(verdicts) if not verdict.wholly_right]
    if not failed:
        return None
    labels = [f"{entries[i]['prompt']}\n{'; '.join(verdicts[i].wrong)}" for i in failed]
    return contact_sheet([images[index] for index in failed], labels)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge a folder; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("prompts", type=Path, nargs="?", default=HELD_OUT)
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the failures (PNG)")
    chosen = parser.parse_args(arguments)
    entries = load_prompts(chosen.prompts)
    missing = [file_name(e) for e in entries if not (chosen.folder / file_name(e)).is_file()]
    if missing:
        parser.error(f"{len(missing)} pictures are missing in {chosen.folder}, first {missing[0]}")
    images = [Image.open(chosen.folder / file_name(entry)).convert("RGB") for entry in entries]
    figures, verdicts = judge_pictures(entries, images)
    if chosen.output:
        write_report(chosen.output, {"prompts": chosen.prompts.name, **surroundings(), **figures})
    sheet = failure_sheet(entries, images, verdicts) if chosen.sheet else None
    if sheet is not None:
        sheet.save(chosen.sheet)
    sys.stdout.write(summary(figures))
    return 0


def summary(figures: Mapping[str, Any]) -> str:
    """The figures as a few lines of text, one failure a line at the end."""
    lines = []
    for name, share in [("all", figures["all"]), *figures["by_kind"].items()]:
        others = " ".join(
            f"{key} {value:.3f}"
            for key, value in share.items()
            if key not in ("count", "wholly_right")
        )
        right = share.get("wholly_right", 0.0)
        lines.append(f"{name:24} {share['count']:4d}  wholly right {right:.3f}  ({others})")
    lines += [
        f"{failure['picture']}: {failure['prompt']}: {'; '.join(failure['wrong'])}"
        for failure in figures["failures"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
