"""Pictures compared in pairs: likeness, confidence, ways to draw."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality.compare import read_way
from benchmarks.quality.likeness import EQUAL_DB, paired_difference, psnr, ssim


def picture(seed: int = 0, noise: float = 0.0) -> Image.Image:
    rows, columns = np.mgrid[0:128, 0:128]
    base = np.stack([rows, columns, (rows + columns) // 2], axis=-1).astype(np.float64)
    base += np.random.default_rng(seed).normal(0, 1, base.shape) * noise
    return Image.fromarray(np.clip(np.round(base), 0, 255).astype(np.uint8))


def test_psnr_is_that_of_the_noise() -> None:
    flat = Image.new("RGB", (64, 64), (100, 100, 100))
    other = Image.new("RGB", (64, 64), (110, 110, 110))
    assert psnr(flat, other) == pytest.approx(20 * np.log10(25.5))
    assert psnr(flat, flat) == EQUAL_DB


def test_ssim_falls_with_noise_and_is_one_for_equal_pictures() -> None:
    clean = picture()
    assert ssim(clean, clean) == pytest.approx(1.0)
    little, much = (ssim(clean, picture(1, noise)) for noise in (2.0, 20.0))
    assert 1.0 > little > much > 0.0


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="one size"):
        psnr(picture(), Image.new("RGB", (64, 64)))
    with pytest.raises(ValueError, match="one size"):
        ssim(picture(), Image.new("RGB", (64, 64)))


def test_interval_of_a_paired_difference() -> None:
    before = [1.0] * 100
    after = [1.0] * 98 + [0.0] * 2
    found = paired_difference(before, after)
    assert found["difference"] == pytest.approx(-0.02)
    half = 1.96 * float(np.std([0.0] * 98 + [-1.0] * 2, ddof=1)) / 10
    assert found["low"] == pytest.approx(-0.02 - half, abs=1e-5)
    assert found["high"] == pytest.approx(-0.02 + half, abs=1e-5)
    assert paired_difference(before, before)["high"] == 0.0


def test_a_way_is_a_package_and_settings() -> None:
    way = read_way("shapes,runtime=openvino,steps=10,sampler=Euler a,guidance_interval=[1, 5]")
    assert way.model == "shapes"
    assert way.opening == {"runtime": "openvino"}
    assert way.drawing == {"steps": 10, "sampler": "Euler a", "guidance_interval": (1, 5)}
    with pytest.raises(ValueError, match="stepz=10"):
        read_way("shapes,stepz=10")
