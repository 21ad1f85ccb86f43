"""Single-file checkpoints in LDM layout, and those that are something else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdlite_export.configs import ClipTextConfig, UnetConfig, VaeConfig
from sdlite_export.source import open_source
from sdlite_export.source.layout import text_slots, unet_slots, vae_slots

from sdlite.errors import SourceCorrupt, SourceError, UnknownFamily
from sdlite.manifest import Defaults, LatentSpace, NoiseTable
from sdlite.noise import alpha_bar
from sdlite.package import hash_file
from tests.export.makers import (
    TEXT,
    UNET,
    VAE,
    TorchFile,
    ldm_model,
    raw_safetensors,
    safetensors_bytes,
)

SD15 = UnetConfig(
    in_channels=4,
    out_channels=4,
    block_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    down_attention=(True, True, True, False),
    up_attention=(False, True, True, True),
    heads=(8, 8, 8, 8),
    transformer_depth=(1, 1, 1, 1),
    cross_dim=768,
)
SD15_VAE = VaeConfig(3, 3, 4, (128, 256, 512, 512), 2)
SD15_TEXT = ClipTextConfig(49408, 768, 3072, 12, 12)

REAL_NAMES = """
input_blocks.0.0.weight 320,4,3,3 conv_in.weight
time_embed.2.bias 1280 time_embedding.linear_2.bias
input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight 320,768
  down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight
input_blocks.3.0.op.weight 320,320,3,3 down_blocks.0.downsamplers.0.conv.weight
input_blocks.4.0.skip_connection.weight 640,320,1,1 down_blocks.1.resnets.0.conv_shortcut.weight
input_blocks.8.1.proj_in.weight 1280,1280,1,1 down_blocks.2.attentions.1.proj_in.weight
input_blocks.11.0.out_layers.3.weight 1280,1280,3,3 down_blocks.3.resnets.1.conv2.weight
middle_block.1.transformer_blocks.0.ff.net.0.proj.weight 10240,1280
  mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight
output_blocks.0.0.in_layers.2.weight 1280,2560,3,3 up_blocks.0.resnets.0.conv1.weight
output_blocks.2.1.conv.weight 1280,1280,3,3 up_blocks.0.upsamplers.0.conv.weight
output_blocks.5.2.conv.bias 1280 up_blocks.1.upsamplers.0.conv.bias
output_blocks.8.0.in_layers.0.weight 960 up_blocks.2.resnets.2.norm1.weight
output_blocks.11.1.transformer_blocks.0.attn1.to_out.0.bias 320
  up_blocks.3.attentions.2.transformer_blocks.0.attn1.to_out.0.bias
out.2.weight 4,320,3,3 conv_out.weight
"""
REAL_VAE_NAMES = """
encoder.down.0.block.0.norm1.weight 128 encoder.down_blocks.0.resnets.0.norm1.weight
encoder.down.1.block.0.nin_shortcut.weight 256,128,1,1
  encoder.down_blocks.1.resnets.0.conv_shortcut.weight
encoder.down.2.downsample.conv.bias 512 encoder.down_blocks.2.downsamplers.0.conv.bias
encoder.mid.attn_1.proj_out.weight 512,512 encoder.mid_block.attentions.0.to_out.0.weight
encoder.conv_out.weight 8,512,3,3 encoder.conv_out.weight
quant_conv.weight 8,8,1,1 quant_conv.weight
decoder.up.3.block.0.conv1.weight 512,512,3,3 decoder.up_blocks.0.resnets.0.conv1.weight
decoder.up.1.upsample.conv.weight 256,256,3,3 decoder.up_blocks.2.upsamplers.0.conv.weight
decoder.up.0.block.2.conv2.bias 128 decoder.up_blocks.3.resnets.2.conv2.bias
decoder.norm_out.bias 128 decoder.conv_norm_out.bias
"""


def facts(text: str) -> list[tuple[str, tuple[int, ...], str]]:
    words = text.split()
    return [
        (words[at], tuple(map(int, words[at + 1].split(","))), words[at + 2])
        for at in range(0, len(words), 3)
    ]


def test_the_layout_is_that_of_stable_diffusion_1_5() -> None:
    unet = {slot.ldm: slot for slot in unet_slots(SD15)}
    vae = {slot.ldm: slot for slot in vae_slots(SD15_VAE)}
    text = {slot.name: slot for slot in text_slots(SD15_TEXT)}
    assert (len(unet), len(vae), len(text)) == (686, 248, 196)
    assert len({slot.name for slot in unet.values()}) == 686
    assert sum(int(np.prod(slot.shape)) for slot in unet.values()) == 859_520_964
    assert sum(int(np.prod(slot.shape)) for slot in vae.values()) == 83_653_863
    assert sum(int(np.prod(slot.shape)) for slot in text.values()) == 123_060_480
    for slots, names in ((unet, REAL_NAMES), (vae, REAL_VAE_NAMES)):
        for ldm, shape, name in facts(names):
            assert (slots[ldm].shape, slots[ldm].name) == (shape, name)


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    return ldm_model()


@pytest.fixture(scope="module")
def small(model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ldm") / "my model.safetensors"
    path.write_bytes(safetensors_bytes(model, {"modelspec.license": "mit", "format": "pt"}))
    return path


def test_everything_is_derived_from_the_tensors(small: Path, model: dict[str, Any]) -> None:
    checkpoint = open_source(small)
    assert (checkpoint.unet, checkpoint.vae, checkpoint.text["text_encoder"]) == (UNET, VAE, TEXT)
    assert (checkpoint.name, checkpoint.kind, checkpoint.family) == (
        "my model",
        "single-file",
        "sd1",
    )
    assert checkpoint.prediction == "epsilon"
    assert checkpoint.noise == NoiseTable("scaled_linear", 0.00085, 0.012, 1000)
    assert checkpoint.latent == LatentSpace(4, 8, 0.18215)
    assert checkpoint.defaults == Defaults(512, 512)
    assert checkpoint.licence.id == "mit"
    assert checkpoint.sha256() == hash_file(small)
    tokenizer = checkpoint.tokenizers["text_encoder"]
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.length) == (
        49406,
        49407,
        49407,
        77,
    )
    places = {
        "unet": ("model.diffusion_model.", unet_slots(UNET)),
        "vae": ("first_stage_model.", vae_slots(VAE)),
        "text_encoder": ("cond_stage_model.transformer.", text_slots(TEXT)),
    }
    for component, (prefix, slots) in places.items():
        tensors = checkpoint.tensors[component]
        infos = dict(tensors.infos())
        for slot in slots:
            stored = model[prefix + slot.ldm]
            assert infos.pop(slot.name).shape == slot.shape
            read = tensors.read(slot.name)
            assert read.shape == slot.shape and read.dtype == stored.dtype
            assert read.tobytes() == stored.tobytes()
        assert not infos


@pytest.mark.parametrize("kind", ["float32", "float64", "bf16"])
def test_other_precisions_become_float32(tmp_path: Path, model: dict[str, Any], kind: str) -> None:
    wanted = "f8" if kind == "float64" else "f4"
    floats = {
        name: array.astype("i8" if array.dtype.kind == "i" else wanted)
        for name, array in model.items()
    }
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes(floats, bf16=kind == "bf16"))
    unet = open_source(path).tensors["unet"]
    assert unet.infos()["conv_in.weight"].dtype == {"bf16": "bfloat16"}.get(kind, kind)
    read = unet.read("conv_in.weight")
    assert read.dtype == np.float32
    stored = model["model.diffusion_model.input_blocks.0.0.weight"].astype(np.float32)
    assert np.abs(read - stored).max() <= (2**-7 if kind == "bf16" else 0) * np.abs(stored).max()


def test_a_ckpt_file_gives_the_same(tmp_path: Path, model: dict[str, Any], small: Path) -> None:
    file = TorchFile()
    state = {name: file.tensor(array) for name, array in model.items()}
    path = file.write(tmp_path / "m.ckpt", {"state_dict": state, "epoch": 1})
    checkpoint, other = open_source(path), open_source(small)
    assert checkpoint.kind == "ckpt"
    assert checkpoint.unet == other.unet
    for component, tensors in checkpoint.tensors.items():
        assert tensors.infos() == other.tensors[component].infos()
        for name in tensors.infos():
            assert (tensors.read(name) == other.tensors[component].read(name)).all()


@pytest.mark.skipif(os.name == "nt", reason="needs a sparse file")
def test_a_full_size_header_is_read(tmp_path: Path) -> None:
    header: dict[str, Any] = {}
    end = 0
    for prefix, slots in (
        ("model.diffusion_model.", unet_slots(SD15)),
        ("first_stage_model.", vae_slots(SD15_VAE)),
        ("cond_stage_model.transformer.", text_slots(SD15_TEXT)),
    ):
        for slot in slots:
            size = 4 * int(np.prod(slot.shape))
            header[prefix + slot.ldm] = {
                "dtype": "F32",
                "shape": slot.shape,
                "data_offsets": [end, end + size],
            }
            end += size
    path = tmp_path / "sd15.safetensors"
    path.write_bytes(raw_safetensors(header))
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size + end)  # 4.3 GB that take no space
    checkpoint = open_source(path)
    assert checkpoint.text == {"text_encoder": SD15_TEXT}
    assert (checkpoint.unet, checkpoint.vae) == (SD15, SD15_VAE)
    assert checkpoint.sha256.size > 4_200_000_000
    assert not checkpoint.tensors["vae"].read("quant_conv.weight").any()


def write(path: Path, tensors: dict[str, Any], **metadata: str) -> Path:
    path.write_bytes(safetensors_bytes(tensors, metadata))
    return path


def ema_names(model: dict[str, Any]) -> dict[str, Any]:
    start = "model.diffusion_model."
    made: dict[str, Any] = {
        "model_ema." + "diffusion_model" + name[len(start) :].replace(".", ""): array * 0 + 1
        for name, array in model.items()
        if name.startswith(start)
    }
    made["model_ema.decay"] = np.ones((), np.float32)
    made["model_ema.num_updates"] = np.zeros((), np.int32)
    return made


def test_averaged_weights_are_left_alone_beside_plain_ones(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    checkpoint = open_source(write(tmp_path / "m.safetensors", {**model, **ema_names(model)}))
    assert "the plain U-Net is used" in checkpoint.notes[0]
    assert (checkpoint.tensors["unet"].read("conv_in.weight") != 1).all()


def test_averaged_weights_are_used_where_they_are_alone(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    rest = {name: array for name, array in model.items() if not name.startswith("model.")}
    checkpoint = open_source(write(tmp_path / "m.safetensors", {**rest, **ema_names(model)}))
    assert checkpoint.unet == UNET
    assert "only averaged weights" in checkpoint.notes[0]
    unet = checkpoint.tensors["unet"]
    assert len(unet.infos()) == len(list(unet_slots(UNET)))
    for slot in unet_slots(UNET):
        assert (unet.read(slot.name) == 1).all()


def test_text_encoders_without_text_model_in_their_names_are_read(
    tmp_path: Path, model: dict[str, Any], small: Path
) -> None:
    renamed = {name.replace("r.text_model.", "r."): array for name, array in model.items()}
    assert renamed.keys() != model.keys()
    text = open_source(write(tmp_path / "m.safetensors", renamed)).tensors["text_encoder"]
    assert text.infos() == open_source(small).tensors["text_encoder"].infos()


@pytest.mark.parametrize("stated", ["v", "V_prediction", None])
def test_v_prediction_is_recognised(
    tmp_path: Path, model: dict[str, Any], stated: str | None
) -> None:
    metadata = {"modelspec.prediction_type": stated} if stated else {}
    extra = {} if stated else {"v_pred": np.zeros((), np.float32)}
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes({**model, **extra}, metadata))
    assert open_source(path).prediction == "v_prediction"


def without(model: dict[str, Any], start: str) -> dict[str, Any]:
    return {name: array for name, array in model.items() if not name.startswith(start)}


ONE = np.zeros((2, 2), np.float16)
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "SD3": ({"model.diffusion_model.joint_blocks.0.x": ONE}, "looks like Stable Diffusion 3"),
    "FLUX": ({"double_blocks.0.img_attn.qkv.weight": ONE}, "looks like FLUX"),
    "LoRA": ({"lora_unet_down_blocks_0.lora_down.weight": ONE}, "looks like a LoRA"),
    "embedding": ({"emb_params": ONE}, "looks like a textual inversion"),
    "ControlNet": ({"control_model.input_blocks.0.0.weight": ONE}, "looks like a ControlNet"),
    "VAE": ({"encoder.down.0.block.0.norm1.weight": ONE}, "looks like an autoencoder alone"),
    "unknown": ({"layer.weight": ONE}, r"not a known kind of model \(tensor names start with l"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_models_are_named(tmp_path: Path, kind: str) -> None:
    tensors, words = OTHERS[kind]
    with pytest.raises(UnknownFamily, match=words) as caught:
        open_source(write(tmp_path / "m.safetensors", tensors))
    assert str(caught.value).endswith("Supported so far: Stable Diffusion 1.x, 2.x and XL")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("first_stage_model.", "a checkpoint without autoencoder"),
        ("cond_stage_model.", "a checkpoint without text encoder"),
        ("model.diffusion_model.", "a checkpoint without U-Net"),
    ],
)
def test_a_missing_part_is_named(
    tmp_path: Path, model: dict[str, Any], start: str, words: str
) -> None:
    with pytest.raises(UnknownFamily, match=words):
        open_source(write(tmp_path / "m.safetensors", without(model, start)))


UNET_START = "model.diffusion_model."


@pytest.mark.parametrize(
    ("name", "change", "error", "words"),
    [
        ("input_blocks.0.0.weight", lambda a: np.tile(a, (1, 3, 1, 1))[:, :7], UnknownFamily,
         r"U-Net of 7 channels in and 4 out, .* fits no family"),
        ("out.0.bias", lambda a: None, SourceCorrupt,
         r"U-Net: 1 of \d+ tensors are missing: out\.0\.bias; the file is incomplete"),
        ("out.0.bias", lambda a: a[:5], SourceCorrupt, r"has shape \[5\], \[32\] was expected"),
        ("out.0.bias", lambda a: a.astype(np.int64), SourceCorrupt, "holds int64, not weights"),
        ("input_blocks.3.0.in_layers.2.weight", lambda a: a[:16], UnknownFamily,
         "16 channels, no multiple of 32"),
        ("input_blocks.6.0.in_layers.2.weight", lambda a: ONE, UnknownFamily,
         r"1 tensors that no model of .* has: input_blocks\.6\.0\.in_layers\.2\.weight"),
        ("output_blocks.0.1.transformer_blocks.0.norm1.weight", lambda a: ONE, UnknownFamily,
         r"depths .*, 1 in the middle and \[\[1, 0\], \[1, 1\], \[1, 1\]\] on the way up"),
        ("middle_block.1.transformer_blocks.0.norm1.weight", lambda a: None, UnknownFamily,
         r"35 tensors that no model of .* has: middle_block\.1\.norm\.bias"),
        ("motion_modules.0.weight", lambda a: ONE, UnknownFamily,
         r"1 tensors that no model of .* has: motion_modules\.0\.weight"),
        ("input_blocks.0.0.weight", lambda a: a[0, 0, 0, 0], SourceCorrupt, r"has shape \[\]"),
    ],
)  # fmt: skip
def test_u_nets_that_do_not_fit_are_told(
    tmp_path: Path, model: dict[str, Any], name: str, change: Any, error: Any, words: str
) -> None:
    changed = dict(model)
    value = change(changed.pop(UNET_START + name, None))
    if value is not None:
        changed[UNET_START + name] = value
    with pytest.raises(error, match=words):
        open_source(write(tmp_path / "m.safetensors", changed))


def test_another_noise_table_is_refused(tmp_path: Path, model: dict[str, Any]) -> None:
    changed = {**model, "alphas_cumprod": model["alphas_cumprod"] * 0.5}
    with pytest.raises(UnknownFamily, match=r"noise table \(alphas_cumprod, shape \[1000\]\)"):
        open_source(write(tmp_path / "m.safetensors", changed))
    halved = {**model, "alphas_cumprod": model["alphas_cumprod"].astype(np.float16)}
    assert open_source(write(tmp_path / "m.safetensors", halved)).family == "sd1"
    marked = open_source(write(tmp_path / "m.safetensors", {**model, "ztsnr": ONE}))
    assert marked.noise.zero_terminal_snr
    assert (marked.defaults.guidance_rescale, marked.defaults.schedule) == (0.7, "SGM Uniform")
    stored = alpha_bar(marked.noise).astype(np.float32)
    assert open_source(
        write(tmp_path / "m.safetensors", {**model, "alphas_cumprod": stored})
    ).noise.zero_terminal_snr


def test_another_vocabulary_is_refused(tmp_path: Path, model: dict[str, Any]) -> None:
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    with pytest.raises(UnknownFamily, match=r"of 100 tokens; a single file has no tokenizer"):
        open_source(write(tmp_path / "m.safetensors", {**model, name: model[name][:100]}))
    name = name.replace("token_embedding", "position_embedding")
    with pytest.raises(UnknownFamily, match=r"for 64 tokens; a single file .* one makes 77"):
        open_source(write(tmp_path / "m.safetensors", {**model, name: model[name][:64]}))


def test_paths_that_are_no_models_are_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist; give a model file or a diffusers"):
        open_source(tmp_path / "none.safetensors")
    (tmp_path / "m.npz").write_text("")
    with pytest.raises(SourceError, match=r"unknown kind of file '\.npz'; sdlite reads"):
        open_source(tmp_path / "m.npz")
    with pytest.raises(SourceError, match=r"no diffusers folder: it has no model_index\.json$"):
        open_source(tmp_path)
    (tmp_path / "m.safetensors").write_text("")
    with pytest.raises(SourceError, match=r"give one of its files, e\.g\. m\.safetensors"):
        open_source(tmp_path)
    (tmp_path / "sdlite.json").write_text("{}")
    with pytest.raises(SourceError, match="is an sdlite package already"):
        open_source(tmp_path)


def test_the_shipped_vocabulary_is_clips(small: Path) -> None:
    files = open_source(small).tokenizers["text_encoder"].files
    vocab = json.loads(files["vocab.json"])
    assert len(vocab) == 49408
    assert sorted(vocab.values()) == list(range(49408))
    known = {"!": 0, "a</w>": 320, "the</w>": 518, "cat</w>": 2368, "<|startoftext|>": 49406}
    assert {token: vocab[token] for token in known} == known
    assert vocab["<|endoftext|>"] == 49407
    merges = files["merges.txt"].decode().splitlines()
    assert merges[0] == "#version: 0.2" and len(merges) == 48895
    for line in merges[1:]:
        left, right = line.split(" ")
        assert left in vocab and right in vocab and left + right in vocab
