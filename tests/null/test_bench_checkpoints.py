from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.architectures import ARCHITECTURES
from benchmarks.checkpoints import (
    encode,
    schedule_buffers,
    tensors,
    write_checkpoint,
    write_folder,
)
from benchmarks.folder import byte_characters


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__")
    return header, data[8 + size :]


def array(header: dict[str, Any], data: bytes, name: str, dtype: str) -> Any:
    begin, end = header[name]["data_offsets"]
    return np.frombuffer(data[begin:end], dtype).reshape(header[name]["shape"])


@pytest.mark.parametrize(
    ("arch", "counts", "parameters"),
    [
        # Published parameter counts of the U-Nets and of the autoencoder they share.
        (
            "sd15",
            {"unet": 686, "vae": 248, "text_encoder": 197},
            {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480 + 77},
        ),
        (
            "sd21",
            {"unet": 686, "vae": 248, "text_encoder": 293},
            {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 354_032_640},
        ),
        (
            "sdxl",
            {"unet": 1680, "vae": 248, "text_encoder": 197, "text_encoder_2": 389},
            {
                "unet": 2_567_463_684,
                "vae": 83_653_863,
                "text_encoder": 123_060_480 + 77,
                "text_encoder_2": 694_659_840,
            },
        ),
    ],
)
def test_counts_are_those_of_the_public_checkpoints(
    arch: str, counts: dict[str, int], parameters: dict[str, int]
) -> None:
    found: Counter[str] = Counter()
    names = []
    for tensor in tensors(ARCHITECTURES[arch]):
        found[tensor.component] += int(np.prod(tensor.spec.shape))
        names.append((tensor.component, tensor.name))
    assert len(set(names)) == len(names)
    assert Counter(component for component, _ in names) == counts
    assert found == parameters


def test_spot_checked_names_and_shapes() -> None:
    shapes = {tensor.name: tensor.spec.shape for tensor in tensors(ARCHITECTURES["sd15"])}
    unet, vae = "model.diffusion_model", "first_stage_model"
    text = "cond_stage_model.transformer.text_model"
    for name, shape in {
        f"{unet}.time_embed.0.weight": (1280, 320),
        f"{unet}.input_blocks.0.0.weight": (320, 4, 3, 3),
        f"{unet}.input_blocks.3.0.op.weight": (320, 320, 3, 3),
        f"{unet}.input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        f"{unet}.input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        f"{unet}.input_blocks.11.0.emb_layers.1.bias": (1280,),
        f"{unet}.middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
        f"{unet}.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        f"{unet}.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        f"{unet}.output_blocks.8.0.in_layers.2.weight": (640, 960, 3, 3),
        f"{unet}.output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
        f"{unet}.out.2.weight": (4, 320, 3, 3),
        f"{vae}.encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        f"{vae}.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        f"{vae}.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        f"{vae}.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        f"{vae}.quant_conv.weight": (8, 8, 1, 1),
        f"{text}.embeddings.position_ids": (1, 77),
        f"{text}.encoder.layers.11.mlp.fc1.weight": (3072, 768),
    }.items():
        assert shapes[name] == shape


def test_small_checkpoint(tmp_path: Path) -> None:
    sizes = {}
    for dtype in ("fp32", "fp16", "bf16"):
        path = tmp_path / f"{dtype}.safetensors"
        sizes[dtype] = write_checkpoint(path, "sd15-small", dtype, seed=3)
        assert path.stat().st_size == sizes[dtype]
    wide, wide_data = read(tmp_path / "fp32.safetensors")
    half, half_data = read(tmp_path / "fp16.safetensors")
    brain, brain_data = read(tmp_path / "bf16.safetensors")
    assert set(schedule_buffers()) < set(wide)
    begins = sorted(entry["data_offsets"] for entry in wide.values())
    assert begins[0][0] == 0 and begins[-1][1] == len(wide_data)
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(begins))
    name = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    exact = array(wide, wide_data, name, "<f4")
    assert 0.5 < exact.std() * (64 * 9) ** 0.5 / 1.68 < 1.5
    assert half[name]["dtype"] == "F16" and brain[name]["dtype"] == "BF16"
    assert np.array_equal(array(half, half_data, name, "<f2"), exact.astype(np.float16))
    widened = (array(brain, brain_data, name, "<u2").astype(np.uint32) << 16).view(np.float32)
    assert np.all(abs(widened - exact) <= abs(exact) / 256)


def test_same_seed_same_file_other_seed_other_file(tmp_path: Path) -> None:
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        path = tmp_path / f"{number}.safetensors"
        write_checkpoint(path, "sd15-small", "fp16", seed)
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_moving_averages_are_other_values_under_flat_names(tmp_path: Path) -> None:
    path = tmp_path / "ema.safetensors"
    write_checkpoint(path, "sd15-small", "fp16", ema=True)
    header, data = read(path)
    averages = [name for name in header if name.startswith("model_ema.")]
    assert len(averages) == 684 + 2
    assert header["model_ema.decay"]["shape"] == []
    plain = array(header, data, "model.diffusion_model.out.2.weight", "<f2")
    average = array(header, data, "model_ema.diffusion_modelout2weight", "<f2")
    assert plain.shape == average.shape and not np.array_equal(plain, average)


def test_folder_has_the_values_of_the_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "file.safetensors", "sd15-small", "fp32")
    write_folder(tmp_path / "folder", "sd15-small", "fp32")
    single, single_data = read(tmp_path / "file.safetensors")
    vae, vae_data = read(tmp_path / "folder" / "vae" / "diffusion_pytorch_model.safetensors")
    ours = array(single, single_data, "first_stage_model.decoder.up.3.block.0.conv1.weight", "<f4")
    theirs = array(vae, vae_data, "decoder.up_blocks.0.resnets.0.conv1.weight", "<f4")
    assert np.array_equal(ours, theirs)
    assert vae["encoder.mid_block.attentions.0.to_q.weight"]["shape"] == [64, 64]
    config = json.loads((tmp_path / "folder" / "unet" / "config.json").read_text())
    assert config["block_out_channels"] == [32, 64, 64, 64]
    vocabulary = json.loads(
        (tmp_path / "folder" / "tokenizer" / "vocab.json").read_text(encoding="utf-8")
    )
    assert vocabulary["<|startoftext|>"] == 49406 and len(vocabulary) == 514


def test_byte_characters_are_distinct_and_printable() -> None:
    characters = byte_characters()
    assert len(set(characters)) == 256
    assert characters[ord("a")] == "a" and characters[ord(" ")] == "\u0120"


def test_bfloat16_rounds_to_nearest_even() -> None:
    exact = np.array([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, -1.5], dtype=np.float32)
    widened = (encode(exact, "bf16").astype(np.uint32) << 16).view(np.float32)
    assert widened.tolist() == [1.0, 1.0, 1.0 + 2**-6, -1.5]
