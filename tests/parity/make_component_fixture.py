"""Write what diffusers and transformers give for the tiny model, for tests without torch.

``python -m tests.parity.make_component_fixture`` from the repository's root.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.peers.components import references
from tests.tiny import BEGIN, END, Tiny, make_tiny_checkpoint, tiny_vocabulary

FIXTURE = Path(__file__).parents[1] / "export" / "fixtures" / "tiny-reference.npz"


def main() -> None:
    rng = np.random.default_rng(11)
    vocabulary, _ = tiny_vocabulary()
    ids = rng.integers(0, vocabulary[BEGIN], (2, 77))
    ids[:, 0], ids[:, 12:] = vocabulary[BEGIN], vocabulary[END]

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    inputs = {
        "text_encoder": {"input_ids": ids},
        "unet": {
            "sample": normal(2, 4, 5, 7),
            "timestep": np.array([3.0, 977.5], np.float32),
            "encoder_hidden_states": normal(2, 77, 16),
        },
        "vae_decoder": {"latent_sample": normal(2, 4, 3, 5)},
        "vae_encoder": {"sample": np.tanh(normal(2, 3, 24, 40))},
    }
    arrays = {}
    with tempfile.TemporaryDirectory() as scratch:
        # float16 weights are the same numbers in every package.
        folder = make_tiny_checkpoint(Path(scratch) / "tiny", Tiny(dtype="float16"))
        for component, given in inputs.items():
            for name, value in given.items():
                arrays[f"{component}.in.{name}"] = value
            for name, value in references(folder, component, given, 1).items():
                arrays[f"{component}.out.{name}"] = value
    np.savez_compressed(FIXTURE, **arrays)
    print(FIXTURE, FIXTURE.stat().st_size)


if __name__ == "__main__":
    main()
