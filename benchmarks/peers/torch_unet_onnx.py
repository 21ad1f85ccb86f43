"""Export diffusers' U-Net with torch's own ONNX exporter: the graph our U-Net is measured against.

``python -m benchmarks.peers.torch_unet_onnx FOLDER DEST`` needs torch, diffusers and onnxscript.
FOLDER is a diffusers folder (``python -m benchmarks.checkpoints sd15 FOLDER --layout diffusers``),
DEST the ``model.onnx`` to write, its weights beside it. Shapes are fixed unless ``--dynamic`` is
given, which favours the peer: an engine can plan for sizes it knows.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel


class Plain(torch.nn.Module):
    """The U-Net with tensors in and one tensor out."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        return self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("dest", type=Path)
    parser.add_argument("--opset", type=int, default=23)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--cells", type=int, default=64, help="latent width and height")
    parser.add_argument("--dynamic", action="store_true", help="leave batch, height, width free")
    options = parser.parse_args()
    unet = UNet2DConditionModel.from_pretrained(
        options.folder, subfolder="unet", torch_dtype=torch.float32, low_cpu_mem_usage=True
    ).eval()
    size = (options.batch, 4, options.cells, options.cells)
    inputs = (
        torch.randn(size),
        torch.full((options.batch,), 500.0),
        torch.randn(options.batch, 77, unet.config.cross_attention_dim),
    )
    shapes = None
    if options.dynamic:
        batch = torch.export.Dim("batch", min=1, max=64)
        rows, columns = torch.export.Dim("rows", min=1), torch.export.Dim("columns", min=1)
        shapes = (
            {0: batch, 2: 8 * rows, 3: 8 * columns},
            {0: batch},
            {0: batch},
        )
    options.dest.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with torch.no_grad():
        torch.onnx.export(
            Plain(unet),
            inputs,
            str(options.dest),
            input_names=["sample", "timestep", "encoder_hidden_states"],
            output_names=["out_sample"],
            opset_version=options.opset,
            dynamo=True,
            external_data=True,
            dynamic_shapes=shapes,
        )
    facts = {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "opset": options.opset,
        "dynamic": options.dynamic,
        "batch": options.batch,
        "cells": options.cells,
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "diffusers", "onnx", "onnxscript")
        },
    }
    options.dest.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
