"""What a single file's U-Net predicts and under which noise it was trained: no shape shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
"""The forward process of all families; a file says nothing of it, or repeats it."""
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


def read_noise(where: str, source: Tensors) -> NoiseTable:
    """The noise table: the usual one, or with zero terminal SNR where a marker or table says so.

    Raises ``UnknownFamily`` when the file's copy of the table is another.
    """
    rescaled = NoiseTable(
        NOISE.kind, NOISE.beta_start, NOISE.beta_end, NOISE.train_steps, zero_terminal_snr=True
    )
    marked = "ztsnr" in source.infos()
    info = source.infos().get("alphas_cumprod")
    if info is None:
        return rescaled if marked else NOISE
    for table in (rescaled, NOISE):
        usual = alpha_bar(table)
        if info.shape == usual.shape:
            stored = source.read("alphas_cumprod").astype(np.float64)
            # Half precision keeps three digits; the last values, about 0.005, lose nothing more.
            if np.allclose(stored, usual, rtol=0.01, atol=1e-3):
                return rescaled if marked else table
    raise UnknownFamily(
        f"{where}: its noise table (alphas_cumprod, shape {list(info.shape)}) is not that of "
        f"{SUPPORTED}; not supported"
    )
