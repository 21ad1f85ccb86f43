"""Make tests/null/fixtures/canny.npz: pictures and their edges by OpenCV (opencv-python-headless).

    python tests/parity/make_canny_fixture.py

Made with 5.0.0; OpenCV is needed for nothing else.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

TARGET = Path(__file__).resolve().parents[1] / "null" / "fixtures" / "canny.npz"


def main() -> None:
    """Noise of several sizes and softness, grey and coloured, and thresholds of all kinds."""
    rng = np.random.default_rng(0)
    arrays = {}
    for case in range(16):
        height, width = rng.integers(3, 48, 2)
        picture = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        if case % 4:
            picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.6, 4)))
        if case % 3 == 0:
            picture = np.ascontiguousarray(picture[..., 0])
        low, high = np.sort(rng.uniform(5, 600, 2))
        arrays[f"picture{case}"] = picture
        arrays[f"limits{case}"] = np.array([low, high])
        arrays[f"edges{case}"] = cv2.Canny(picture, low, high)
    np.savez_compressed(TARGET, **arrays)


if __name__ == "__main__":
    main()
