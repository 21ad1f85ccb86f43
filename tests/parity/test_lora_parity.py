"""Merged weights against what diffusers and PEFT fuse, on a tiny model: within 1e-4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sdlite_export.export import export_package

from sdlite.package import Package
from sdlite.weights.files import open_tensor_file
from sdlite.weights.lora import match, names_of
from sdlite.weights.merge import Use, merge
from tests.adapters import Array, make_layer, write
from tests.tiny import make_tiny_checkpoint

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")
LIMIT = 1e-4
LINEAR = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
CONV = ["conv1", "conv2", "conv_shortcut", "proj_in", "proj_out"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("tiny") / "package"
    export_package(checkpoint, folder, name="tiny", precision="fp32")
    return Package.open(folder)


def merged(package: Package, path: Path, component: str = "unet") -> dict[str, Array]:
    """What we make of a file, as the state dict has it."""
    names = names_of(package)
    adapter = match(open_tensor_file(path), package, names)
    assert not adapter.unmatched
    entries = package.manifest.weights[component].tensors
    found = merge(package, component, [Use(adapter, 1.0, 1.0)], names)
    return {
        name: value.T if entries[name].layout == "transposed" else value
        for name, value in found.items()
    }


def compare(found: dict[str, Array], before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = 0
    for name, value in after.items():
        expected, old = value.numpy(), before[name].numpy()
        mine = found.get(name, old)
        assert np.abs(mine - expected).max() <= LIMIT * np.abs(expected).max(), name
        changed += not np.array_equal(expected, old)
    assert changed >= len(found) - 1 and changed > 3


CONFIGS = {
    "lora": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=LINEAR + CONV),
    "rslora": lambda: peft.LoraConfig(r=4, lora_alpha=5, use_rslora=True, target_modules=LINEAR),
    "dora": lambda: peft.LoraConfig(r=3, lora_alpha=5, use_dora=True, target_modules=LINEAR + CONV),
    "bias": lambda: peft.LoraConfig(r=2, lora_alpha=4, lora_bias=True, target_modules=["to_out.0"]),
    "loha": lambda: peft.LoHaConfig(r=3, alpha=5, target_modules=LINEAR + CONV),
    "loha core": lambda: peft.LoHaConfig(
        r=3, alpha=5, target_modules=["conv1", "conv2"], use_effective_conv2d=True
    ),
    "lokr": lambda: peft.LoKrConfig(r=2, alpha=3, target_modules=LINEAR + CONV),
    "lokr parts": lambda: peft.LoKrConfig(r=1, alpha=3, target_modules=LINEAR, decompose_both=True),
    "lokr core": lambda: peft.LoKrConfig(
        r=1, alpha=3, target_modules=["conv1", "conv2"], use_effective_conv2d=True
    ),
    "ia3": lambda: peft.IA3Config(
        target_modules=["to_k", "to_v", "ff.net.2"], feedforward_modules=["ff.net.2"]
    ),
}


@pytest.mark.filterwarnings("ignore:.*LoRA tensor.*invalid shape")  # it means biases
@pytest.mark.parametrize("kind", CONFIGS)
def test_peft(kind: str, package: Package, checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel.from_pretrained(checkpoint / "unet")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrapped = peft.get_peft_model(model, CONFIGS[kind]())
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if any(mark in name for mark in ("lora_", "hada_", "lokr_", "ia3_")):
                value.copy_(torch.rand_like(value) * 0.3 + (0.5 if "magnitude" in name else -0.1))
    wrapped.save_pretrained(tmp_path)
    after = wrapped.merge_and_unload().state_dict()
    compare(merged(package, tmp_path), before, after)


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "diffusers old"])
def test_diffusers(layout: str, package: Package, checkpoint: Path, tmp_path: Path) -> None:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(checkpoint, safety_checker=None)
    models = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    before = {
        component: {name: value.clone() for name, value in model.state_dict().items()}
        for component, model in models.items()
    }
    ends = {
        "kohya": ("lora_down.weight", "lora_up.weight"),
        "diffusers": ("lora_A.weight", "lora_B.weight"),
        "diffusers old": ("lora.down.weight", "lora.up.weight"),
    }[layout]
    tensors: dict[str, Array] = {}
    attention = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
    text = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "out_proj.weight")
    for component, names, prefix in (("unet", attention, "lora_unet_"),
                                     ("text_encoder", text, "lora_te_")):  # fmt: skip
        for index, (name, value) in enumerate(before[component].items()):
            if not name.endswith(names) or (component, layout) == ("text_encoder", "diffusers old"):
                continue
            made = make_layer("lora", value.numpy(), seed=index)
            module = name.removesuffix(".weight")
            if component == "text_encoder" and not module.startswith("text_model."):
                module = f"text_model.{module}"  # transformers 5 drops it, files keep it
            stem = f"{component}.{module}"
            if layout == "kohya":
                stem = prefix + module.replace(".", "_")
                tensors[f"{stem}.alpha"] = made.parameters["alpha"]
            tensors[f"{stem}.{ends[0]}"] = made.parameters["lora_down.weight"]
            tensors[f"{stem}.{ends[1]}"] = made.parameters["lora_up.weight"]
    path = write(tmp_path / "x.safetensors", tensors)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for component, model in models.items():
        if (component, layout) == ("text_encoder", "diffusers old"):
            continue  # those of the text encoder had names of their own
        after = {name: value.detach() for name, value in model.state_dict().items()}
        found = merged(package, path, component)
        if component == "text_encoder" and "text_model.final_layer_norm.bias" not in after:
            found = {name.removeprefix("text_model."): value for name, value in found.items()}
        compare(found, before[component], after)


def test_diffusers_settings_in_the_header(
    package: Package, checkpoint: Path, tmp_path: Path
) -> None:
    model = diffusers.UNet2DConditionModel.from_pretrained(checkpoint / "unet")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    model.add_adapter(peft.LoraConfig(r=2, lora_alpha=7, target_modules=["to_q", "to_v"],
                                      init_lora_weights=False))  # fmt: skip
    model.save_lora_adapter(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    model.fuse_lora()
    model.unload_lora()
    compare(merged(package, path), before, model.state_dict())
    assert "lora_alpha" in json.dumps(open_tensor_file(path).config)
