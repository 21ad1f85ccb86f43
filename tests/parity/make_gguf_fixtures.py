"""Make tests/export/fixtures/ggml.npz and ggml.gguf with the ``gguf`` package of llama.cpp.

    python tests/parity/make_gguf_fixtures.py

The first holds random blocks of every format and what the package widens them to, the second is a
small file by its writer. Made with gguf 0.19.0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize

OUT = Path(__file__).parents[1] / "export" / "fixtures"
SCALES = {  # first byte of the float16 numbers of a block
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}


def main() -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for name, places in SCALES.items():
        kind = GGMLQuantizationType[name]
        blocks = rng.integers(0, 256, (5, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
        for place in places:
            scale = rng.uniform(-0.1, 0.1, (5, 1)).astype("<f2")
            blocks[:, place : place + 2] = scale.view(np.uint8)
        arrays[f"{name.lower()}_blocks"] = blocks
        arrays[f"{name.lower()}_values"] = dequantize(blocks, kind).astype(np.float32)
    np.savez_compressed(OUT / "ggml.npz", **arrays)
    writer = GGUFWriter(OUT / "ggml.gguf", "diffusion")
    writer.add_license("mit")
    writer.add_array("some.list", ["a", "b"])
    writer.add_array("some.numbers", [1, 2, 3])
    values = (np.arange(6 * 64, dtype=np.float32) / 64 - 3).reshape(2, 3, 64)
    writer.add_tensor("plain", values[0, :2, :5].copy())
    writer.add_tensor("half", values[0].astype(np.float16))
    kind = GGMLQuantizationType.Q8_0
    writer.add_tensor("packed", quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
