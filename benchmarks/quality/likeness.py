"""How alike two pictures are, and how sure a paired difference is; numpy and Pillow only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float64]

EQUAL_DB = 99.0
"""What two equal pictures of 8 bits are said to reach."""
_WINDOW, _SIGMA = 11, 1.5


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB pictures of one size, in dB, at most ``EQUAL_DB``."""
    a, b = (np.asarray(image.convert("RGB"), np.float64) for image in (first, second))
    if a.shape != b.shape:
        raise ValueError(f"pictures of {first.size} and {second.size}: give two of one size")
    mean = float(((a - b) ** 2).mean())
    return min(EQUAL_DB, 10 * math.log10(255.0**2 / mean)) if mean else EQUAL_DB


def ssim(first: Image.Image, second: Image.Image) -> float:
    """Structural similarity of the luma of two pictures (Wang et al. 2004): 1 when equal."""
    a, b = (np.asarray(image.convert("L"), np.float64) for image in (first, second))
    if a.shape != b.shape:
        raise ValueError(f"pictures of {first.size} and {second.size}: give two of one size")
    mean_a, mean_b = _blurred(a), _blurred(b)
    spread_a = _blurred(a * a) - mean_a**2
    spread_b = _blurred(b * b) - mean_b**2
    both = _blurred(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    bottom = (mean_a**2 + mean_b**2 + c1) * (spread_a + spread_b + c2)
    return float((top / bottom).mean())


def _blurred(plane: Floats) -> Floats:
    """Gaussian mean over every whole window inside the picture."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        views = np.lib.stride_tricks.sliding_window_view(plane, _WINDOW, axis)
        plane = views @ weights
    return plane


def paired_difference(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """Mean of ``after - before`` over pairs, with its 95 % confidence interval (normal)."""
    change = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    if change.size < 2:
        raise ValueError(f"{change.size} pairs: a confidence interval needs two or more")
    mean = float(change.mean())
    half = 1.96 * float(change.std(ddof=1)) / math.sqrt(change.size)
    return {
        "before": round(float(np.mean(before)), 5),
        "after": round(float(np.mean(after)), 5),
        "difference": round(mean, 5),
        "low": round(mean - half, 5),
        "high": round(mean + half, 5),
    }
