"""The safety checker against diffusers' own, on a small one with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from sdlite_export.export import export_package
from transformers import CLIPConfig, CLIPImageProcessor

import sdlite
from sdlite import registry
from sdlite.chain import open_chain
from sdlite.engine import LoadOptions
from sdlite.image.clip import clip_pixels
from sdlite.package import Package
from sdlite.safety import checked, objects
from tests.tiny import make_tiny_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SIZE = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[StableDiffusionSafetyChecker, Path]:
    """diffusers' checker, and a package that was exported with it."""
    folder = tmp_path_factory.mktemp("safety")
    torch.manual_seed(3)
    config = CLIPConfig(
        projection_dim=16,
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": SIZE,
            "patch_size": 5,
            "projection_dim": 16,
        },
        text_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
    )
    checker = StableDiffusionSafetyChecker(config).eval()
    for name, parameter in checker.named_parameters():
        scale = 0.3 if "weight" in name or "embed" in name else 0.1
        parameter.data = torch.randn_like(parameter) * scale
        if "norm" in name and name.endswith("weight"):
            parameter.data += 1
    checker.concept_embeds_weights.data = torch.full((17,), 0.4)
    checker.special_care_embeds_weights.data = torch.full((3,), 0.2)
    tiny = make_tiny_checkpoint(folder / "tiny")
    checker.save_pretrained(tiny / "safety_checker")
    index = json.loads((tiny / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (tiny / "model_index.json").write_text(json.dumps(index))
    export_package(tiny, folder / "package", precision="fp32")
    return checker, folder / "package"


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(4)
    small = [rng.integers(0, 256, (9, 7, 3), np.uint8) for _ in range(24)]
    return [Image.fromarray(item).resize((61, 44)) for item in small]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_scores_and_verdicts_are_diffusers(
    made: tuple[StableDiffusionSafetyChecker, Path], runtime: str
) -> None:
    checker, folder = made
    processor = CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    package = Package.open(folder)
    device = registry.probe(runtime)[0]
    options = LoadOptions(precision="fp32" if runtime == "openvino" else None)
    artifacts = package.find("safety_checker", "plain")
    session = open_chain(registry.get(runtime), artifacts, folder, device, options)
    verdicts = []
    for picture in pictures():
        theirs = processor(picture, return_tensors="pt").pixel_values
        ours = clip_pixels(picture, SIZE)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5)
        with torch.no_grad():
            _, bad = checker(theirs, [np.zeros((2, 2, 3))])
            pooled = checker.vision_model(theirs)[1]
            embeds = torch.nn.functional.normalize(checker.visual_projection(pooled))
            wanted = embeds @ torch.nn.functional.normalize(checker.concept_embeds).T - 0.4
        scores = session.run({"pixel_values": ours})
        np.testing.assert_allclose(scores["concepts"], wanted.numpy(), atol=2e-5)
        assert objects(scores["special"][0], scores["concepts"][0]) == bad[0]
        verdicts.append(bad[0])
    session.close()
    assert 2 < sum(verdicts) < 22
    kept, objected = checked(pictures(), package, device, options)
    assert objected == tuple(i for i, bad in enumerate(verdicts) if bad)
    for index, picture in enumerate(pictures()):
        expected = Image.new("RGB", picture.size) if index in objected else picture
        assert kept[index].tobytes() == expected.tobytes()


def test_a_picture_it_objects_to_is_black_and_says_so(
    made: tuple[StableDiffusionSafetyChecker, Path],
) -> None:
    with sdlite.load(made[1], runtime="onnxruntime") as pipe:
        plain = pipe.generate(sdlite.Request("a", steps=1, seed=1, images=6))
        result = pipe.generate(sdlite.Request("a", steps=1, seed=1, images=6, safety_checker=True))
    black = [np.asarray(image).max() == 0 for image in result.images]
    for index, image in enumerate(result.images):
        told = f"the safety checker made picture {index + 1} black" in result.notes
        assert told == black[index]
        assert black[index] or image.tobytes() == plain.images[index].tobytes()
    assert "Safety checker: on" in result.infotexts[0]
    assert "Safety checker" not in plain.infotexts[0]
