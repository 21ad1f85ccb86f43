"""Our readers against torch, safetensors and diffusers themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils
from sdlite_export.configs import ClipTextConfig, UnetConfig, VaeConfig
from sdlite_export.source.layout import Slot, text_slots, unet_slots, vae_slots

from sdlite.tensors.base import Tensors
from sdlite.tensors.pickle import open_pickle
from sdlite.tensors.safetensors import open_safetensors

UNET = UnetConfig(
    in_channels=4,
    out_channels=4,
    block_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    down_attention=(True, True, True, False),
    up_attention=(False, True, True, True),
    heads=(8, 8, 8, 8),
    transformer_depth=(1, 1, 1, 1),
    cross_dim=768,
)
VAE = VaeConfig(3, 3, 4, (128, 256, 512, 512), 2)
TEXT = ClipTextConfig(49408, 768, 3072, 12, 12)


def shapes(slots: Any) -> dict[str, tuple[int, ...]]:
    return {slot.name: slot.shape for slot in slots}


def state_shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def test_the_layout_is_that_of_diffusers_and_transformers() -> None:
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        vae = diffusers.AutoencoderKL(
            block_out_channels=VAE.block_channels,
            layers_per_block=2,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
        )
        config = transformers.CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_attention_heads=12
        )
        text = transformers.CLIPTextModel(config)
    assert state_shapes(unet) == shapes(unet_slots(UNET))
    assert state_shapes(vae) == shapes(vae_slots(VAE))
    # Transformers 5 dropped the common start of the names.
    bare = {
        name.removeprefix("text_model."): shape for name, shape in shapes(text_slots(TEXT)).items()
    }
    seen = {name.removeprefix("text_model."): shape for name, shape in state_shapes(text).items()}
    assert seen == bare


def marked(prefix: str, slots: list[Slot]) -> dict[str, torch.Tensor]:
    """One number a tensor, in a tensor of as many dimensions."""
    return {
        prefix + slot.ldm: torch.full((1,) * len(slot.shape), float(number))
        for number, slot in enumerate(slots)
    }


def test_ldm_names_map_as_diffusers_maps_them() -> None:
    blocks = {"down_block_types": ["x"] * 4, "up_block_types": ["x"] * 4}
    none = dict.fromkeys(("num_class_embeds", "class_embed_type", "addition_embed_type"))
    slots = list(unet_slots(UNET))
    state = marked("model.diffusion_model.", slots)
    made = single_file_utils.convert_ldm_unet_checkpoint(
        state, {**blocks, **none, "layers_per_block": 2}
    )
    assert {name: float(value) for name, value in made.items()} == {
        slot.name: float(number) for number, slot in enumerate(slots)
    }
    slots = list(vae_slots(VAE))
    state = marked("first_stage_model.", slots)
    made = single_file_utils.convert_ldm_vae_checkpoint(
        state, {**blocks, "block_out_channels": VAE.block_channels}
    )
    assert {name: float(value.flatten()[0]) for name, value in made.items()} == {
        slot.name: float(number) for number, slot in enumerate(slots)
    }


DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


def tensors() -> dict[str, torch.Tensor]:
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * 10
    made = {str(dtype): base.to(dtype) for dtype in DTYPES}
    made |= {
        "transposed": base.T,
        "part": base[1:3, ::2],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base),
        "expanded": base[:1].expand(3, 6),
    }
    return made


def check(file: Tensors, expected: dict[str, torch.Tensor]) -> None:
    assert set(file.infos()) == set(expected)
    for name, tensor in expected.items():
        info = file.infos()[name]
        assert info.shape == tuple(tensor.shape)
        assert info.dtype == str(tensor.dtype).removeprefix("torch.")
        wide = tensor.detach()
        wide = wide.float() if wide.dtype == torch.bfloat16 else wide
        read = file.read(name)
        assert read.flags.c_contiguous and read.shape == info.shape
        assert np.array_equal(read, wide.numpy())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("nested", [False, True])
def test_files_of_torch_save_are_read(tmp_path: Path, protocol: int, nested: bool) -> None:
    state = tensors()
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    state |= dict(module.state_dict())
    value: Any = dict(state)
    if nested:
        ordered = module.state_dict()  # carries _metadata
        ordered.update(state)
        optimizer = torch.optim.AdamW(module.parameters())
        value = {"state_dict": ordered, "epoch": 3, "optimizer": [optimizer.state_dict()]}
    path = tmp_path / "m.ckpt"
    torch.save(value, path, pickle_protocol=protocol)
    check(open_pickle(path), state)


def test_files_of_torch_before_1_6_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    state = tensors()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    check(open_pickle(path), state)


def test_files_of_safetensors_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = {name: tensor.detach().clone().contiguous() for name, tensor in tensors().items()}
    path = tmp_path / "m.safetensors"
    save_file(state, path, {"format": "pt"})
    check(open_safetensors(path), state)
