"""What a single file's U-Net predicts and under which noise it was trained: no shape shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from sdlite.errors import UnknownFamily
from sdlite.manifest import NoiseTable
from sdlite.noise import alpha_bar
from sdlite.tensors.base import Tensors
from sdlite_export.configs import UnetConfig
from sdlite_export.source.checkpoint import Prediction
from sdlite_export.source.family import Family
from sdlite_export.source.files import read_bytes
from sdlite_export.source.gather import SUPPORTED

NOISE = NoiseTable("scaled_linear", 0.00085, 0.012, 1000)
"""The forward process of all families but upscalers; a file says nothing of it, or repeats it."""
UPSCALER_NOISE = NoiseTable("scaled_linear", 0.0001, 0.02, 1000)
"""That of the x4 upscaler, for its latents and for the small picture."""
LOW_RES = "low_scale_model."
"""Where a file repeats the process of the small picture."""
V_SPREAD = 0.09
"""SD2's two kinds of training left the biases of one norm with deviations on either side of this;
ComfyUI tells them apart by the same number."""
NAMES: dict[str, Prediction] = {
    "v": "v_prediction",
    "vprediction": "v_prediction",
    "eps": "epsilon",
    "epsilon": "epsilon",
}


def read_prediction(
    path: Path,
    source: Tensors,
    metadata: Mapping[str, str],
    family: Family,
    unet: Tensors,
    config: UnetConfig,
) -> tuple[Prediction, str]:
    """What the U-Net predicts, and a note when that had to be judged.

    The file may say so: a marker tensor, its metadata, or a configuration ``NAME.yaml`` beside it
    with ``parameterization``. Of SD2, which exists in both kinds, it is judged from the weights.
    """
    beside = path.with_suffix(".yaml")
    if beside.is_file():
        text = read_bytes(beside).decode("utf-8", "replace")
        match = re.search(r"^\s*parameterization:\s*[\"']?(\w+)", text, re.MULTILINE)
        named = NAMES.get(_plain(match[1])) if match else None
        if match and named is None:
            raise UnknownFamily(
                f"{beside}: parameterization {match[1]!r}; known: eps, v. Correct the file or "
                "remove it"
            )
        if named is not None:
            return named, ""
    stated = NAMES.get(_plain(metadata.get("modelspec.prediction_type", "")))
    if "v_pred" in source.infos() or stated == "v_prediction":
        return "v_prediction", ""
    if stated is None and family.task == "upscale":
        return "v_prediction", ""
    if stated is not None or family.name != "sd2" or family.task != "text":
        return "epsilon", ""
    block = len(config.block_channels) - 1
    name = f"up_blocks.{block}.attentions.{config.layers_per_block}.transformer_blocks.0.norm1.bias"
    if name not in unet.infos():
        return "epsilon", ""
    spread = float(np.std(unet.read(name).astype(np.float64)))
    found: Prediction = "v_prediction" if spread > V_SPREAD else "epsilon"
    return found, (
        f"{found}, judged from the weights; if pictures come out grey or as noise, export again "
        f"with --prediction {'epsilon' if found == 'v_prediction' else 'v_prediction'}"
    )


def _plain(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.casefold())


def read_noise(
    where: str, source: Tensors, plain: NoiseTable = NOISE, prefix: str = ""
) -> NoiseTable:
    """The noise table: the usual one, or with zero terminal SNR where a marker or table says so.

    ``plain`` is the family's usual one, and ``prefix`` starts the name of the file's copy. Raises
    ``UnknownFamily`` when that copy is another.
    """
    rescaled = replace(plain, zero_terminal_snr=True)
    marked = "ztsnr" in source.infos() and not prefix
    name = f"{prefix}alphas_cumprod"
    info = source.infos().get(name)
    if info is None:
        return rescaled if marked else plain
    for table in (rescaled, plain):
        usual = alpha_bar(table)
        if info.shape == usual.shape:
            stored = source.read(name).astype(np.float64)
            # Half precision keeps three digits; the last values, about 0.005, lose nothing more.
            if np.allclose(stored, usual, rtol=0.01, atol=1e-3):
                return rescaled if marked else table
    raise UnknownFamily(
        f"{where}: its noise table ({name}, shape {list(info.shape)}) is not that of "
        f"{SUPPORTED}; not supported"
    )
