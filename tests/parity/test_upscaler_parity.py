"""Upscalers against torch: every family, from files as their authors save them, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sdlite_export.upscaler.export import export_upscaler

from sdlite.upscalers.enlarge import upscale
from sdlite.upscalers.files import read_file
from tests.parity.upscaler_reference import (
    Compact,
    Esrgan,
    SwinIr,
    first_release,
    second_release,
)

LEAST_PSNR = 50.0
"""Weights are stored as fp16 and pictures as bytes: 58 dB would be rounding alone."""


def wrapped(state: dict[str, torch.Tensor]) -> dict[str, object]:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    return {"params": zeros, "params_ema": state}


CASES: dict[str, tuple[Callable[[], torch.nn.Module], Callable[..., object], int]] = {
    "x4plus": (Esrgan, wrapped, 4),
    "x2plus": (lambda: Esrgan(unshuffle=2), wrapped, 2),
    "x1": (lambda: Esrgan(unshuffle=4), dict, 1),
    "first release": (Esrgan, lambda state: first_release(state, 2, 2), 4),
    "first release x2": (lambda: Esrgan(doublings=1), lambda s: first_release(s, 2, 1), 2),
    "first release x8": (lambda: Esrgan(doublings=3), lambda s: first_release(s, 2, 3), 8),
    "second release": (Esrgan, second_release, 4),
    "compact": (Compact, wrapped, 4),
    "compact x2": (lambda: Compact(scale=2, convs=5), dict, 2),
    "SwinIR real": (SwinIr, wrapped, 4),
    "SwinIR real x2": (lambda: SwinIr(scale=2), dict, 2),
    "SwinIR large": (lambda: SwinIr(triple=True, window=8), wrapped, 4),
    "SwinIR classical": (lambda: SwinIr(upsampler="pixelshuffle"), dict, 4),
    "SwinIR classical x3": (lambda: SwinIr(upsampler="pixelshuffle", scale=3), dict, 3),
    "SwinIR classical x8": (lambda: SwinIr(upsampler="pixelshuffle", scale=8), dict, 8),
    "SwinIR light": (lambda: SwinIr(upsampler="direct", scale=2), dict, 2),
}


def random_network(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """Weights so large that every part shows, centred so that pictures are not clipped much."""
    torch.manual_seed(5)
    network = make().eval()
    for name, parameter in network.named_parameters():
        if "bias_table" in name:
            parameter.data = torch.randn_like(parameter)
        elif parameter.ndim > 1:
            parameter.data = torch.randn_like(parameter) * (1.5 / parameter[0].numel()) ** 0.5
        elif "norm" in name and name.endswith("weight"):
            parameter.data = 1 + 0.2 * torch.randn_like(parameter)
        else:
            parameter.data = 0.1 * torch.randn_like(parameter)
    last = [p for n, p in network.named_parameters() if n.split(".")[-1] in ("weight", "bias")][-2:]
    last[0].data *= 0.3
    return network


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", CASES)
def test_upscalers_are_torchs(case: str, runtime: str, tmp_path: Path) -> None:
    make, layout, scale = CASES[case]
    network = random_network(make)
    source = tmp_path / "made.pth"
    torch.save(
        layout(network.state_dict()), source, _use_new_zipfile_serialization=case != "first release"
    )
    report = export_upscaler(source, tmp_path / "made.onnx")
    assert report.scale == scale
    file = read_file(report.path)
    pixels = np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    result = upscale(
        Image.fromarray(pixels), file.path, runtime=runtime, precision="fp32", scale=scale
    )
    with torch.no_grad():
        x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        expected = network(x)[0].permute(1, 2, 0).numpy()
    assert expected.std() > 0.1 and ((expected > 0) & (expected < 1)).mean() > 0.4
    got = np.asarray(result.image, np.float32) / 255
    assert got.shape == expected.shape
    error = ((got - expected.clip(0, 1)) ** 2).mean()
    assert -10 * np.log10(error) > LEAST_PSNR
