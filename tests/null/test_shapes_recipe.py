"""The data of the shapes model's recipe: the same from one seed, and nothing held out in it."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks.quality.captions import parse_caption
from benchmarks.quality.make_heldout import PATH, is_held_out

RECIPE = Path(__file__).resolve().parents[2] / "models" / "shapes" / "train"


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    return importlib.import_module("scenes")


@pytest.fixture
def captions(scenes: ModuleType) -> ModuleType:
    return importlib.import_module("captions")


def test_the_same_seed_gives_the_same_scenes_captions_and_pictures(
    scenes: ModuleType, captions: ModuleType
) -> None:
    def stream() -> list[tuple[object, str, bytes]]:
        rng = np.random.default_rng((3, 0, 0))
        drawn = [scenes.draw_scene(rng) for _ in range(20)]
        return [(s, captions.caption(rng, s).text, scenes.render(s).tobytes()) for s in drawn]

    assert stream() == stream()


def test_the_scenes_and_captions_of_a_seed_stay_what_they_are(
    scenes: ModuleType, captions: ModuleType
) -> None:
    rng = np.random.default_rng(1)
    lines = []
    for _ in range(200):
        scene = scenes.draw_scene(rng)
        # rounded, so that a last bit of another machine's arithmetic is no difference
        places = " ".join(f"{v:.6f}" for item in scene.items for v in (item.x, item.y, item.r))
        lines.append(f"{captions.caption(rng, scene).text} | {scene.style} | {places}")
    told = "\n".join(lines)
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "9d9ef808cc36eee6"


def test_no_held_out_combination_is_ever_drawn(scenes: ModuleType) -> None:
    rng = np.random.default_rng(5)
    for _ in range(400):
        scene = scenes.draw_scene(rng)
        assert not is_held_out(scenes.combination(scene))
        assert not is_held_out(scenes.combination(scenes.neighbour(rng, scene)))


def test_prompts_to_choose_by_are_none_of_those_that_judge(
    scenes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = importlib.import_module("ask")
    path = tmp_path / "prompts.json"
    argv = ["ask.py", str(path), "--flat", "4", "--outline", "12", "--soft", "8"]
    monkeypatch.setattr("sys.argv", argv)
    ask.main()
    asked = json.loads(path.read_text(encoding="utf-8"))
    styles = [entry["style"] for entry in asked]
    assert {style: styles.count(style) for style in set(styles)} == {
        "flat": 4,
        "outline": 12,
        "soft": 8,
    }
    assert sum(entry["shapes"] for entry in asked) == 36
    for entry in asked:
        wanted = parse_caption(entry["prompt"])
        assert wanted.style == entry["style"]
        assert len(wanted.objects) == entry["shapes"]
    judging = {entry["prompt"] for entry in json.loads(PATH.read_text(encoding="utf-8"))}
    assert judging.isdisjoint(entry["prompt"] for entry in asked)
