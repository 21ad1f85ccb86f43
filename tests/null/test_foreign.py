"""Folders of other tools, written byte by byte: no ONNX library is needed to open one."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdlite_runtimes.null import NullRuntime
from sdlite_runtimes.nullpackage import write_null_package

from sdlite.engine import LoadOptions
from sdlite.errors import PackageInvalid, PackageMissing, UnknownFamily
from sdlite.foreign import is_foreign, open_foreign
from sdlite.irfile import read_ir
from sdlite.onnxfile import read_onnx
from sdlite.package import Package
from sdlite.ports import DecoderPort, TextEncoderPort, UnetPort
from sdlite.text.tokenizer import ClipTokenizer

Value = tuple[str, int, list[int | str]]
FLOAT, INT32, INT64, HALF = 1, 6, 7, 10
WIDTH = 16
HUGE = "1" + "0" * 400
"""A JSON number no float can hold."""


def field(number: int, value: int | bytes | str) -> bytes:
    """One protobuf field: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def value_info(name: str, dtype: int, shape: list[int | str]) -> bytes:
    dims = b"".join(
        field(1, field(1, size) if isinstance(size, int) else field(2, size)) for size in shape
    )
    return field(1, name) + field(2, field(1, field(1, dtype) + field(2, dims)))


def onnx(
    inputs: list[Value], outputs: list[Value], weights: str | None = None, dtype: int = FLOAT
) -> bytes:
    graph = b"".join(field(11, value_info(*item)) for item in inputs)
    graph += b"".join(field(12, value_info(*item)) for item in outputs)
    tensor = field(1, 4) + field(2, dtype) + field(8, "w")
    if weights is None:
        tensor += field(9, bytes(16))
    else:
        tensor += field(13, field(1, "location") + field(2, weights)) + field(14, 1)
    return field(7, graph + field(5, tensor)) + field(8, field(1, "") + field(2, 14))


LATENTS: list[int | str] = ["batch", 4, "height", "width"]
GRAPHS: dict[str, tuple[list[Value], list[Value]]] = {
    "text_encoder": (
        [("input_ids", INT32, ["batch", "sequence"])],
        [
            ("last_hidden_state", FLOAT, ["batch", "sequence", WIDTH]),
            ("pooler_output", FLOAT, ["batch", WIDTH]),
        ],
    ),
    "unet": (
        [
            ("sample", FLOAT, LATENTS),
            ("timestep", INT64, []),
            ("encoder_hidden_states", FLOAT, ["batch", "sequence", WIDTH]),
        ],
        [("out_sample", FLOAT, LATENTS)],
    ),
    "vae_decoder": (
        [("latent_sample", FLOAT, LATENTS)],
        [("sample", FLOAT, ["batch", 3, "image_height", "image_width"])],
    ),
    "vae_encoder": (
        [("sample", FLOAT, ["batch", 3, "image_height", "image_width"])],
        [("latent_sample", FLOAT, LATENTS)],
    ),
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def make_folder(tmp_path: Path) -> Path:
    """What diffusers' conversion script leaves behind."""
    root = tmp_path / "sd-onnx"
    put(root / "model_index.json", {"_class_name": "OnnxStableDiffusionPipeline"})
    put(root / "scheduler" / "scheduler_config.json", SCHEDULER)
    source = write_null_package(tmp_path / "null")
    (source / "tokenizer").rename(root / "tokenizer")
    special = {"pad_token": {"content": "!</w>"}, "eos_token": "<|endoftext|>"}
    put(root / "tokenizer" / "special_tokens_map.json", special)
    put(root / "tokenizer" / "tokenizer_config.json", {"model_max_length": 77})
    for name, (inputs, outputs) in GRAPHS.items():
        (root / name).mkdir()
        external = "weights.pb" if name == "unet" else None
        (root / name / "model.onnx").write_bytes(onnx(inputs, outputs, external))
    (root / "unet" / "weights.pb").write_bytes(bytes(64))
    return root


def test_diffusers_folder(folder: Path) -> None:
    assert is_foreign(folder)
    package = open_foreign(folder)
    manifest = package.manifest
    assert manifest.name == "sd-onnx"
    assert manifest.prediction == "epsilon"
    assert manifest.noise.beta_end == 0.012
    assert manifest.latent.scale == 0.18215
    assert (manifest.defaults.width, manifest.defaults.height) == (512, 512)
    assert manifest.licence.id == "unknown"
    (unet,) = package.find("unet", "plain")
    assert [spec.name for spec in unet.inputs] == ["sample", "timestep", "encoder_hidden_states"]
    assert unet.inputs[1].shape == ()
    assert unet.inputs[1].dtype == "int64"
    assert unet.opset == 14
    assert unet.weights == "unet/weights.pb"
    assert manifest.weights["unet"].file.size == 64
    assert len(package.find("vae_encoder", "plain")) == 1
    package.verify()
    tokenizer = ClipTokenizer.from_package(package)
    ids = tokenizer.chunk_ids(tokenizer.tokenize(["ab"])[0])
    assert len(ids) == 77
    assert ids[0] == manifest.tokenizers[0].bos
    assert ids[-1] == manifest.tokenizers[0].pad != manifest.tokenizers[0].eos


def test_runs_through_the_ports(folder: Path) -> None:
    package = open_foreign(folder)
    runtime = NullRuntime()
    device = runtime.probe()[0]
    sessions = {
        name: runtime.load(package.find(name, "plain")[0], folder, device, LoadOptions())
        for name in ("text_encoder", "unet", "vae_decoder")
    }
    ids = np.ones((2, 77), np.int64)
    context = TextEncoderPort(sessions["text_encoder"]).encode_text(ids)
    x = np.ones((2, 4, 8, 8), np.float32)
    port = UnetPort(sessions["unet"])
    assert port.whole_timesteps
    latents = port.predict(x, np.full(2, 500.4, np.float32), context)
    assert latents.shape == x.shape
    assert DecoderPort(sessions["vae_decoder"]).decode(latents).shape == (2, 3, 64, 64)


def test_optimum_folder(folder: Path) -> None:
    put(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    put(
        folder / "scheduler" / "scheduler_config.json",
        {**SCHEDULER, "prediction_type": "v_prediction"},
    )
    config = {"scaling_factor": 0.5, "block_out_channels": [1, 2, 3], "latent_channels": 4}
    put(folder / "vae_decoder" / "config.json", config)
    put(folder / "unet" / "config.json", {"sample_size": 96})
    inputs, outputs = GRAPHS["unet"]
    (folder / "unet" / "model.onnx").write_bytes(onnx(inputs, outputs, "model.onnx_data", HALF))
    (folder / "unet" / "model.onnx_data").write_bytes(bytes(10))
    (folder / "README.md").write_text("---\nlicense: creativeml-openrail-m\ntags: []\n---\n# x\n")
    manifest = open_foreign(folder).manifest
    assert manifest.prediction == "v_prediction"
    assert manifest.latent.scale == 0.5
    assert manifest.latent.factor == 4
    assert manifest.defaults.width == 96 * 4
    assert manifest.licence.id == "creativeml-openrail-m"
    assert manifest.weights["unet"].precision == "fp16"


def test_whole_tokenizer_file(folder: Path) -> None:
    vocab = json.loads((folder / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    special = ("<|startoftext|>", "<|endoftext|>")
    added = [{"content": word, "id": vocab.pop(word)} for word in special]
    data = {"added_tokens": added, "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    put(folder / "tokenizer" / "tokenizer.json", data)
    (folder / "tokenizer" / "merges.txt").unlink()
    (tokenizer,) = open_foreign(folder).manifest.tokenizers
    assert tokenizer.bos == added[0]["id"]
    assert [entry.path for entry in tokenizer.files] == ["tokenizer/tokenizer.json"]


@pytest.mark.parametrize("data", [{}, {"model": []}, {"model": {"vocab": 3}}])
def test_whole_tokenizer_file_without_vocabulary(folder: Path, data: dict[str, Any]) -> None:
    put(folder / "tokenizer" / "tokenizer.json", data)
    (folder / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(PackageInvalid, match="no vocabulary"):
        open_foreign(folder)


def test_fixed_size_is_the_default(folder: Path) -> None:
    inputs, outputs = GRAPHS["unet"]
    fixed: list[Value] = [("sample", FLOAT, [2, 4, 96, 64]), *inputs[1:]]
    (folder / "unet" / "model.onnx").write_bytes(onnx(fixed, outputs))
    defaults = open_foreign(folder).manifest.defaults
    assert (defaults.width, defaults.height) == (512, 768)


def test_other_folders_are_not_foreign(folder: Path, tmp_path: Path) -> None:
    assert not is_foreign(tmp_path)
    assert not is_foreign(tmp_path / "nothing")
    (folder / "unet" / "model.onnx").rename(folder / "unet" / "model.safetensors")
    assert not is_foreign(folder)
    (folder / "unet" / "model.safetensors").rename(folder / "unet" / "model.onnx")
    put(folder / "sdlite.json", {})
    assert not is_foreign(folder)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("vae_decoder/model.onnx", "vae_decoder"),
        ("scheduler/scheduler_config.json", "scheduler_config.json"),
        ("tokenizer/merges.txt", "tokenizer"),
        ("unet/weights.pb", "weights.pb"),
    ],
)
def test_missing_parts(folder: Path, missing: str, named: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(PackageMissing, match=named):
        open_foreign(folder)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("scheduler/scheduler_config.json", "[]", "not a JSON object"),
        ("scheduler/scheduler_config.json", "{", "not JSON"),
        ("scheduler/scheduler_config.json", '{"beta_schedule": "cosine"}', "cosine"),
        ("scheduler/scheduler_config.json", '{"prediction_type": "sample"}', "'sample'"),
        ("scheduler/scheduler_config.json", '{"beta_start": "small"}', "'small'"),
        ("scheduler/scheduler_config.json", '{"beta_start": 0.5, "beta_end": 0.1}', "not rising"),
        ("tokenizer/special_tokens_map.json", '{"bos_token": "<go>"}', "<go>"),
        ("tokenizer/special_tokens_map.json", '{"bos_token": 5}', "bos_token"),
        ("tokenizer/vocab.json", '{"a": "b"}', "not in the vocabulary"),
        ("vae_decoder/config.json", '{"scaling_factor": 0}', "scaling_factor"),
        ("vae_decoder/config.json", '{"block_out_channels": 5}', "block_out_channels"),
        ("unet/model.onnx", "hello", "cannot be opened"),
        ("scheduler/scheduler_config.json", '{"prediction_type": []}', r"prediction_type \[\] is"),
        ("scheduler/scheduler_config.json", '{"beta_schedule": {}}', r"beta_schedule {} is not"),
        ("scheduler/scheduler_config.json", '{"beta_start": NaN}', "beta_start nan is not a fin"),
        ("scheduler/scheduler_config.json", f'{{"beta_start": {HUGE}}}', "000... is not a finite"),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": 1e999}', "inf is not a fin"),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": 1e10}', "from 1 to"),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": 10.5}', "a whole number"),
        ("vae_decoder/config.json", '{"scaling_factor": NaN}', "scaling_factor nan"),
        ("vae_decoder/config.json", '{"scaling_factor": 1e30}', "scaling_factor 1e"),
        ("vae_decoder/config.json", '{"latent_channels": 1e6}', "latent_channels 1000000"),
        ("vae_decoder/config.json", f'{{"block_out_channels": {[1] * 99}}}', "block_out_channels"),
        ("unet/config.json", '{"sample_size": Infinity}', "sample_size inf"),
        ("unet/config.json", '{"sample_size": 0}', "sample_size 0 is not"),
        ("tokenizer/vocab.json", '{"<|startoftext|>": 1, "<|endoftext|>": -2}', "number -2"),
    ],
)
def test_parts_that_make_no_sense(folder: Path, file: str, content: str, named: str) -> None:
    (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(PackageInvalid, match=named):
        open_foreign(folder)


def test_a_part_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "scheduler_config.json":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(PackageInvalid, match=r"scheduler_config\.json cannot be read: Permission"):
        open_foreign(folder)


def test_a_weight_of_endless_dimensions_is_read_at_once(tmp_path: Path) -> None:
    dims = varint(2**63 - 1) * 50_000
    tensor = field(1, dims) + field(2, FLOAT) + field(8, "w")
    graph = field(12, value_info("y", FLOAT, [1])) + field(5, tensor)
    (tmp_path / "model.onnx").write_bytes(field(7, graph))
    assert read_onnx(tmp_path / "model.onnx").elements == {FLOAT: 1 << 63}


def test_which_graph(folder: Path) -> None:
    graph = folder / "unet" / "model.onnx"
    graph.rename(folder / "unet" / "unet_fp16.onnx")
    assert open_foreign(folder).find("unet", "plain")[0].graph == "unet/unet_fp16.onnx"
    (folder / "unet" / "other.onnx").write_bytes(b"x")
    with pytest.raises(PackageInvalid, match=r"other.onnx, unet_fp16.onnx"):
        open_foreign(folder)


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ([*GRAPHS["unet"][0], ("text_embeds", FLOAT, ["batch", 8])], "text_embeds"),
        ([*GRAPHS["unet"][0], ("timestep_cond", FLOAT, ["batch", 8])], "timestep_cond"),
        (GRAPHS["unet"][0][:2], "takes sample, timestep"),
        ([("sample", FLOAT, ["batch", 9, "h", "w"]), *GRAPHS["unet"][0][1:]], "takes 9 channels"),
    ],
)
def test_models_of_other_kinds(folder: Path, inputs: list[Value], named: str) -> None:
    (folder / "unet" / "model.onnx").write_bytes(onnx(inputs, GRAPHS["unet"][1]))
    with pytest.raises(UnknownFamily, match=named):
        open_foreign(folder)


def test_two_text_encoders(folder: Path) -> None:
    (folder / "text_encoder_2").mkdir()
    with pytest.raises(UnknownFamily, match=r"OnnxStable.*two text encoders"):
        open_foreign(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_download_cache_of_links(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(item for item in folder.rglob("*") if item.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert is_foreign(folder)
    package = open_foreign(folder)
    package.verify()
    ClipTokenizer.from_package(package)


def test_verify_finds_a_file_gone(folder: Path) -> None:
    package = open_foreign(folder)
    (folder / "unet" / "model.onnx").unlink()
    with pytest.raises(PackageMissing, match=r"model.onnx"):
        package.verify()


def test_null_package_is_a_package(tmp_path: Path) -> None:
    package = Package.open(write_null_package(tmp_path / "p", size=32))
    package.verify()
    assert package.manifest.defaults.width == 32


IR = """<?xml version="1.0"?>
<net name="unet" version="11"><layers>
<layer id="0" name="x" type="Parameter"><output>
<port id="0" precision="FP32" names="sample"><dim>-1</dim><dim>4</dim></port></output></layer>
<layer id="1" name="w" type="Const"><data element_type="{dtype}" shape="4, 8" offset="0" size="64"/>
<output><port id="0" precision="FP16"><dim>4</dim><dim>8</dim></port></output></layer>
<layer id="2" name="y" type="MatMul"><output>
<port id="2" precision="FP32"><dim>-1</dim><dim>8</dim></port></output></layer>
<layer id="3" name="z" type="Result"/></layers><edges>
<edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
<edge from-layer="2" from-port="2" to-layer="3" to-port="0"/></edges></net>"""


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [("f32", "fp32"), ("f16", "fp16"), ("bf16", "fp16"), ("u8", "w8"), ("i4", "w4")],
)
def test_an_ir_says_its_ports_and_where_its_weights_lie(
    tmp_path: Path, dtype: str, precision: str
) -> None:
    path = tmp_path / "openvino_model.xml"
    path.write_text(IR.format(dtype=dtype))
    found = read_ir(path)
    assert [(s.name, s.dtype, s.shape) for s in found.inputs] == [("sample", "float32", ("?", 4))]
    # A tensor without a name is called like the layer that gives it.
    assert [(s.name, s.shape) for s in found.outputs] == [("y", ("?", 8))]
    assert found.locations == {"openvino_model.bin"}
    assert found.initializers == {"w": "openvino_model.bin"}
    assert found.precision == precision


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no element found"),
        ("<net", "unclosed token"),
        ("<html/>", "no network with outputs"),
        ('<!DOCTYPE net [<!ENTITY a "b">]><net/>', "declares entities"),
        (IR.format(dtype="f32").replace('<edge from-layer="2" from-port="2"', "<edge"), "no Open"),
        (IR.format(dtype="f32").replace('shape="4, 8"', 'shape="four"'), "no OpenVINO IR"),
    ],
)
def test_what_is_no_ir_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "openvino_model.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_ir(path)
