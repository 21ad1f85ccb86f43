"""Diffusers folders: what is read, what is preferred, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sdlite_export.source import open_source
from sdlite_export.source.layout import text_slots, unet_slots, vae_slots

from sdlite.errors import SourceCorrupt, SourceError, SourceHostile, UnknownFamily
from tests.export.makers import TorchFile, bf16_words, safetensors_bytes
from tests.tiny import UNET, VAE

WEIGHTS = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "Módel 1"
    shutil.copytree(tiny_checkpoint, copy)
    return copy


def edit(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    data.update(changes)
    path.write_text(json.dumps({key: value for key, value in data.items() if value != "absent"}))


def test_a_folder_is_described(folder: Path) -> None:
    checkpoint = open_source(folder)
    assert (checkpoint.name, checkpoint.kind, checkpoint.family) == ("Módel 1", "diffusers", "sd1")
    assert (checkpoint.unet, checkpoint.vae) == (UNET, VAE)
    assert checkpoint.latent.factor == 8 and checkpoint.latent.scale == VAE.scale
    assert (checkpoint.defaults.width, checkpoint.defaults.steps) == (32, 20)
    for component, slots in (
        ("text_encoder", text_slots(checkpoint.text["text_encoder"])),
        ("unet", unet_slots(checkpoint.unet)),
        ("vae", vae_slots(checkpoint.vae)),
    ):
        tensors = checkpoint.tensors[component]
        assert {name: info.shape for name, info in tensors.infos().items()} == {
            slot.name: slot.shape for slot in slots
        }
    vocab = json.loads(checkpoint.tokenizers["text_encoder"].files["vocab.json"])
    assert (
        vocab["<|endoftext|>"]
        == checkpoint.tokenizers["text_encoder"].eos
        == checkpoint.text["text_encoder"].eos
    )


def test_the_author_can_recommend_defaults(folder: Path) -> None:
    edit(folder / "model_index.json", _sdlite_defaults={"guidance": 5.0, "steps": 12})
    defaults = open_source(folder).defaults
    assert (defaults.guidance, defaults.steps, defaults.width) == (5.0, 12, 32)
    edit(folder / "model_index.json", _sdlite_defaults={"guidnace": 5.0})
    with pytest.raises(SourceCorrupt, match="_sdlite_defaults: unknown field 'guidnace'"):
        open_source(folder)


def test_the_author_can_give_a_map_to_colours(folder: Path) -> None:
    assert open_source(folder).latent.preview == ()
    rows = [[0.1, 0.2, 0.3]] * 4 + [[0, 0, 0.5]]
    edit(folder / "model_index.json", _sdlite_preview=rows)
    assert open_source(folder).latent.preview == tuple(map(tuple, rows))
    for wrong in (rows[:4], [[1, 2]] * 5, [["red"] * 3] * 5, 7):
        edit(folder / "model_index.json", _sdlite_preview=wrong)
        with pytest.raises(SourceCorrupt, match="_sdlite_preview"):
            open_source(folder)


def read_unet(folder: Path) -> dict[str, Any]:
    tensors = open_source(folder).tensors["unet"]
    return {name: tensors.read(name) for name in tensors.infos()}


def test_better_weight_files_are_preferred(folder: Path) -> None:
    unet = folder / "unet"
    full = unet / "diffusion_pytorch_model.safetensors"
    tensors = read_unet(folder)
    half = {name: array.astype(np.float16) for name, array in tensors.items()}
    file = TorchFile()
    file.write(
        unet / "diffusion_pytorch_model.bin",
        {name: file.tensor(bf16_words(array), "bfloat16") for name, array in tensors.items()},
    )
    (unet / "diffusion_pytorch_model.fp16.safetensors").write_bytes(safetensors_bytes(half))

    def kind() -> str:
        return open_source(folder).tensors["unet"].infos()["conv_in.weight"].dtype

    assert kind() == "float32"
    full.unlink()
    assert kind() == "float16"
    assert read_unet(folder)["conv_in.weight"].dtype == np.float16
    (unet / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert kind() == "bfloat16"
    read = read_unet(folder)["conv_in.weight"]
    assert np.abs(read - tensors["conv_in.weight"]).max() < 0.01
    (unet / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(SourceError, match=r"unet has no weights: looked for .* found config\.json"):
        open_source(folder)


@pytest.mark.parametrize(
    "index",
    [
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    ],
)
def test_sharded_weights_are_read(folder: Path, index: str) -> None:
    unet = folder / "unet"
    tensors = read_unet(folder)
    whole = open_source(folder).sha256()
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    names = sorted(tensors)
    first, second = (f"a-0000{number}-of-00002.safetensors" for number in (1, 2))
    shards = {first: names[::2], second: names[1::2]}
    for shard, members in shards.items():
        data = safetensors_bytes({name: tensors[name] for name in members})
        (unet / shard).write_bytes(data)
    places = {name: shard for shard, members in shards.items() for name in members}
    (unet / index).write_text(json.dumps({"weight_map": places}))
    read = read_unet(folder)
    assert all((read[name] == tensors[name]).all() for name in names)
    assert len(open_source(folder).sha256.files) == 4
    assert open_source(folder).sha256() != whole
    (unet / second).write_bytes((unet / first).read_bytes())
    with pytest.raises(SourceCorrupt, match="is in two files"):
        open_source(folder)
    (unet / second).unlink()
    with pytest.raises(SourceError, match=r"00002.safetensors is missing; .*index"):
        open_source(folder)
    (unet / index).write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    with pytest.raises(SourceHostile, match="leads outside the folder; refused"):
        open_source(folder)


def test_old_and_new_names_are_understood(folder: Path, tiny_checkpoint: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    checkpoint = open_source(tiny_checkpoint)
    renamed = {}
    for name in checkpoint.tensors["vae"].infos():
        known = name
        for new, former in old.items():
            known = known.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        renamed[known] = checkpoint.tensors["vae"].read(name)
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in renamed
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(safetensors_bytes(renamed))
    text = checkpoint.tensors["text_encoder"]
    bare = {name.removeprefix("text_model."): text.read(name) for name in text.infos()}
    bare["embeddings.position_ids"] = np.arange(77)[None]
    (folder / "text_encoder" / "model.safetensors").write_bytes(safetensors_bytes(bare))
    read = open_source(folder)
    for component in ("vae", "text_encoder"):
        assert read.tensors[component].infos() == checkpoint.tensors[component].infos()
        for name in read.tensors[component].infos():
            expected = checkpoint.tensors[component].read(name)
            assert (read.tensors[component].read(name) == expected).all()


def test_a_folder_with_only_tokenizer_json_is_read(folder: Path) -> None:
    tokenizer = folder / "tokenizer"
    vocab = json.loads((tokenizer / "vocab.json").read_text())
    before = open_source(folder).tokenizers["text_encoder"]
    added = [{"id": vocab.pop(name), "content": name} for name in ("<|endoftext|>",)]
    whole = {"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": added}
    for path in tokenizer.iterdir():
        path.unlink()
    (tokenizer / "tokenizer.json").write_text(json.dumps(whole))
    read = open_source(folder).tokenizers["text_encoder"]
    assert set(read.files) == {"tokenizer.json"}
    assert (read.bos, read.eos, read.pad, read.length) == (
        before.bos,
        before.eos,
        before.pad,
        before.length,
    )


Change = Callable[[Path], None]


def change(place: str, **values: Any) -> Change:
    return lambda folder: edit(folder / place, **values)


def text(place: str, content: str) -> Change:
    def apply(folder: Path) -> None:
        (folder / place).write_text(content)

    return apply


def delete(place: str) -> Change:
    return lambda folder: (folder / place).unlink()


UNET_FILE, VAE_FILE, TEXT_FILE = (f"{name}/config.json" for name in ("unet", "vae", "text_encoder"))
SCHEDULER = "scheduler/scheduler_config.json"

UNKNOWN: list[tuple[Change, str]] = [
    (
        change("model_index.json", _class_name="FluxPipeline"),
        r"pipeline 'FluxPipeline' \(of .*text_encoder.*\) is not supported; sdlite exports Stable",
    ),
    (change(UNET_FILE, addition_embed_type="image"), "addition_embed_type = 'image' is no part of"),
    (
        change(
            UNET_FILE,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64,
        ),
        "labels 64 wide; text_encoder 16 wide with 2 layers; autoencoder .* fits no family",
    ),
    (change(UNET_FILE, mid_block_type="UNetMidBlock2DSimpleCrossAttn"), "mid_block_type 'UNetMid"),
    (change(UNET_FILE, brand_new_feature=3), "brand_new_feature = 3 is no part of"),
    (change(UNET_FILE, in_channels=5), "U-Net of 5 channels in and 4 out"),
    (
        change(UNET_FILE, cross_attention_dim=32),
        "cross-attention 32 wide, no labels; text_encoder 16 wide with 2 layers; autoencoder with "
        "4 latent channels; this fits no family",
    ),
    (change(UNET_FILE, down_block_types=["A", "B"]), "block 'A' is not supported"),
    (change(UNET_FILE, up_block_types=["UpBlock2D"] * 2), "do not mirror"),
    (change(VAE_FILE, shift_factor=0.1), r"shift_factor = 0\.1 is no part of"),
    (change(VAE_FILE, latent_channels=16), "4 channels in and 4 out.* 16 latent channels"),
    (change(TEXT_FILE, model_type="t5"), "text encoder 't5'"),
    (change(TEXT_FILE, hidden_act="relu"), "hidden_act 'relu'; known: quick_gelu, gelu"),
    (change(SCHEDULER, prediction_type="sample"), "prediction_type 'sample'; known: epsilon"),
    (change(SCHEDULER, beta_schedule="cosine"), "beta_schedule 'cosine'; known: scaled_linear"),
    (change(SCHEDULER, trained_betas=[1, 2]), "trained_betas"),
]


@pytest.mark.parametrize(("apply", "words"), UNKNOWN)
def test_features_beyond_the_family_are_named(folder: Path, apply: Change, words: str) -> None:
    apply(folder)
    with pytest.raises(UnknownFamily, match=words) as caught:
        open_source(folder)
    assert "\n" not in str(caught.value)


BAD: list[tuple[Change, str]] = [
    (delete("unet/config.json"), r"config\.json is missing; the model folder is incomplete"),
    (delete("scheduler/scheduler_config.json"), "is missing; the model folder is incomplete"),
    (delete("tokenizer/merges.txt"), "has no tokenizer: vocab.json with merges.txt, or tokenizer"),
    (text("unet/config.json", "{"), "not JSON"),
    (text("unet/config.json", "[1]"), "holds a list, not a JSON object"),
    (text("unet/config.json", "[" * 100_000), "not JSON"),
    (text("tokenizer/vocab.json", '{"a": "b"}'), "token 'a' has id 'b', not a number"),
    (text("tokenizer/vocab.json", '{"a": 0}'), r"eos_token '<\|endoftext\|>' is not in the voc"),
    (text("tokenizer/merges.txt", "#version: 0.2\na b c\n"), "line 2 is not a pair of tokens"),
    (change(UNET_FILE, block_out_channels="absent"), "block_out_channels None is not a list"),
    (change(UNET_FILE, block_out_channels=[8, -16]), "-16 is not between 1 and 65536"),
    (change(UNET_FILE, block_out_channels=[8, True]), "True is not between 1 and 65536"),
    (change(UNET_FILE, block_out_channels=[8] * 17), "is not a list of sizes"),
    (change(UNET_FILE, layers_per_block="two"), "layers_per_block is 'two', not a int"),
    (change(UNET_FILE, layers_per_block=10**9), "1000000000 is not between 1 and 128"),
    (change(UNET_FILE, norm_eps=None), "norm_eps is None, not a float"),
    (change(UNET_FILE, attention_head_dim=[2, 2, 2]), "has 3 entries, 2 expected"),
    (change(UNET_FILE, attention_head_dim=3), "8 channels do not divide into 3 heads"),
    (change(UNET_FILE, norm_num_groups=3), "8 channels do not divide into 3 groups"),
    (change(UNET_FILE, down_block_types="x"), "2 names expected"),
    (change(UNET_FILE, cross_attention_dim="absent"), "cross_attention_dim is missing, not a int"),
    (change(VAE_FILE, norm_num_groups=3), "4 channels do not divide into 3 groups"),
    (change(VAE_FILE, scaling_factor=0), r"scaling_factor 0\.0 makes no sense"),
    (change(TEXT_FILE, num_attention_heads=3), "16 channels do not divide into 3 heads"),
    (change(TEXT_FILE, vocab_size=5), "vocab_size 5, but the tokenizer's end token is"),
    (change(TEXT_FILE, intermediate_size=33), r"mlp\.fc1\.weight has shape \[32, 16\], \[33, 16\]"),
    (change(SCHEDULER, beta_start=0.1), r"betas from 0\.1 to .* are not rising"),
    (change(SCHEDULER, beta_end="absent"), "beta_end is missing, not a float"),
    (change(UNET_FILE, norm_eps=float("nan")), "norm_eps nan is not a finite number"),
    (change(UNET_FILE, norm_eps=-1), r"norm_eps -1\.0 is not between 0 and 1"),
    (change(UNET_FILE, freq_shift=10**400), "freq_shift inf is not a finite number"),
    (
        change(UNET_FILE, layers_per_block=128, transformer_layers_per_block=128),
        "33538 blocks in all, at most 2048 make sense",
    ),
    (
        change(UNET_FILE, transformer_layers_per_block=[[1], 1]),
        "reverse_transformer_layers_per_block must be there",
    ),
    (
        change(UNET_FILE, transformer_layers_per_block=[[1, 2], 1]),
        "gives a block 2 numbers, it has 1 layers",
    ),
    (change(UNET_FILE, transformer_layers_per_block=[1]), "has 1 entries, 2 expected"),
    (
        change(UNET_FILE, addition_embed_type="text_time"),
        "projection_class_embeddings_input_dim is missing",
    ),
    (change(VAE_FILE, scaling_factor=float("nan")), "scaling_factor nan is not a finite"),
    (change(TEXT_FILE, layer_norm_eps=float("inf")), "layer_norm_eps inf is not a finite"),
    (change(TEXT_FILE, architectures=5), "architectures 5 is not a list of names"),
    (change(TEXT_FILE, max_position_embeddings=64), "makes 77 tokens and the .* positions for 64;"),
    (change(SCHEDULER, beta_start=10**400), "beta_start inf is not a finite number"),
    (change(SCHEDULER, beta_end=float("nan")), "beta_end nan is not a finite number"),
    (change("model_index.json", _sdlite_defaults={"height": 8 * 10**9}), "gives 32x8000000000 pix"),
    (change("model_index.json", _sdlite_defaults=3), "is no JSON object"),
    (change("model_index.json", _sdlite_defaults={"width": 33}), "gives 33x32 pixels in 20 steps"),
    (change("model_index.json", _sdlite_defaults={"steps": 0}), "in 0 steps; sizes are multiples"),
]


@pytest.mark.parametrize(("apply", "words"), BAD)
def test_damaged_folders_say_what_is_wrong(folder: Path, apply: Change, words: str) -> None:
    apply(folder)
    with pytest.raises(SourceError, match=words) as caught:
        open_source(folder)
    assert "\n" not in str(caught.value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_no_config_gives_anything_but_a_source_error(
    tiny_checkpoint: Path, tmp_path: Path, data: Any
) -> None:
    place = data.draw(st.sampled_from([UNET_FILE, VAE_FILE, TEXT_FILE, SCHEDULER]))
    original = json.loads((tiny_checkpoint / place).read_text())
    key = data.draw(st.sampled_from(sorted(original)))
    copy = tmp_path / "copy"
    if not copy.exists():
        shutil.copytree(tiny_checkpoint, copy)
    (copy / place).write_text(json.dumps({**original, key: data.draw(values)}))
    try:
        open_source(copy)
    except SourceError as error:
        assert "\n" not in str(error)
    finally:
        (copy / place).write_text(json.dumps(original))
