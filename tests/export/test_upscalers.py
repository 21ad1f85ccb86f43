"""Upscalers from file to picture: recognised, exported, run over tiles, on each engine."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from sdlite_export.upscaler.config import CompactConfig, EsrganConfig, SwinIrConfig, UpscalerConfig
from sdlite_export.upscaler.emit import OnnxUpscalerOps
from sdlite_export.upscaler.export import export_upscaler
from sdlite_export.upscaler.networks import upscaler
from sdlite_export.upscaler.source import open_upscaler

from sdlite import registry
from sdlite.errors import (
    CalibrationFailed,
    Cancelled,
    OutputError,
    PackageInvalid,
    RequestError,
    RuntimeUnavailable,
    SourceCorrupt,
    SourceError,
    UnknownFamily,
    UnknownName,
)
from sdlite.upscalers.enlarge import upscale
from sdlite.upscalers.files import UpscalerFile, find_file, installed, read_file, waiting
from sdlite.upscalers.network import Upscaler
from tests.export.makers import safetensors_bytes

ESRGAN = EsrganConfig(3, 8, 4, 2, 1, 2)
CONFIGS: dict[str, UpscalerConfig] = {
    "esrgan": ESRGAN,
    "x2plus": replace(ESRGAN, unshuffle=2),
    "compact": CompactConfig(3, 8, 3, 2),
    "swinir": SwinIrConfig(3, 12, (2,), (2,), 24, 4, False, True, "nearest", 8, 4),
}
SEEN = {"esrgan": 16, "x2plus": 32, "compact": 5, "swinir": 16}


def tensors_of(config: UpscalerConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of a network, which then changes pictures a little as trained ones do."""
    ops = OnnxUpscalerOps("fp32")
    upscaler(ops, config)
    rng = np.random.default_rng(seed)
    made = {}
    for name, need in ops.finish().weights.items():
        fan = int(np.prod(need.shape[1:])) if len(need.shape) > 1 else 100
        made[name] = (rng.standard_normal(need.shape) / fan**0.5).astype(np.float32)
        if "norm" in name and name.endswith("weight"):
            made[name] = np.ones(need.shape, np.float32)
    return made


def write(path: Path, config: UpscalerConfig, seed: int = 0) -> Path:
    path.write_bytes(safetensors_bytes(tensors_of(config, seed)))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, UpscalerFile]:
    folder = tmp_path_factory.mktemp("upscalers")
    found = {}
    for name, config in CONFIGS.items():
        source = write(folder / f"{name}.safetensors", config)
        found[name] = read_file(export_upscaler(source, folder / f"{name}.onnx").path)
    return found


def photo(width: int, height: int) -> Image.Image:
    """Something with edges and gradients."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / 7 + k) * np.cos(y / 11 - k) for k in range(3)]
    pixels = np.stack(waves, -1) * 60 + 128 + 40 * ((x // 16 + y // 16) % 2)[:, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    try:
        registry.probe(request.param)
    except RuntimeUnavailable as error:
        pytest.skip(error.reason)
    return str(request.param)


@pytest.mark.parametrize("name", CONFIGS)
def test_files_say_what_they_are(files: dict[str, UpscalerFile], name: str) -> None:
    file, config = files[name], CONFIGS[name]
    assert file.scale == config.scale
    assert file.multiple == config.multiple
    assert file.reach == config.reach
    assert file.channels == 3
    assert file.bytes_per_pixel > 100
    assert not list(file.path.parent.glob("*.part"))
    onnx.checker.check_model(str(file.path))


@pytest.mark.parametrize("name", CONFIGS)
def test_tiles_give_what_the_whole_gives(
    files: dict[str, UpscalerFile], name: str, runtime: str
) -> None:
    image = photo(150, 107)
    with Upscaler(files[name], runtime=runtime, tile=512, precision="fp32") as one:
        whole = one.enlarge(image)
    counted: list[tuple[int, int]] = []
    with Upscaler(files[name], runtime=runtime, tile=72, precision="fp32") as several:
        tiled = several.enlarge(image, lambda *done: counted.append(done))
    assert whole.size == (150 * files[name].scale, 107 * files[name].scale)
    assert counted[-1][0] == counted[-1][1] > 5
    assert np.asarray(whole).std() > 5
    # What lies further away than the network sees leaves no trace at all.
    assert psnr(whole, tiled) > (65 if SEEN[name] * 2 + 8 <= 40 else 50)


def test_engines_agree(files: dict[str, UpscalerFile]) -> None:
    try:
        registry.probe("openvino")
    except RuntimeUnavailable as error:
        pytest.skip(error.reason)
    results = [
        upscale(photo(40, 32), files["swinir"].path, runtime=name, precision="fp32").image
        for name in ("onnxruntime", "openvino")
    ]
    assert psnr(*results) > 60


def test_sizes_and_transparency(files: dict[str, UpscalerFile]) -> None:
    image = photo(33, 21)
    path = files["x2plus"].path
    assert upscale(image, path).image.size == (66, 42)
    assert upscale(image, path, scale=3).image.size == (99, 63)
    assert upscale(image, path, scale=1.5).image.size == (50, 32)
    assert upscale(image, path, size=(40, 90)).image.size == (40, 90)
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    result = upscale(clear, path).image
    assert result.mode == "RGBA"
    low, high = result.getchannel("A").getextrema()
    assert isinstance(low, int) and isinstance(high, int)
    assert low < 10 and high > 245
    assert upscale(Image.new("L", (9, 7), 30), "Nearest", scale=2).image.getpixel((3, 3)) == (
        30,
        30,
        30,
    )


def test_cancel_ends_after_a_tile(files: dict[str, UpscalerFile]) -> None:
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        upscale(
            photo(100, 100),
            files["compact"].path,
            tile=64,
            on_tile=lambda *_: cancel.set(),
            cancel=cancel,
        )


def test_onnx_files_of_others(files: dict[str, UpscalerFile], tmp_path: Path) -> None:
    """An export of another program: open sizes, names of its own, no notes; and a fixed size."""
    model = onnx.load(str(files["compact"].path))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "theirs.onnx"))
    report = export_upscaler(tmp_path / "theirs.onnx", tmp_path / "mine.onnx")
    assert (report.kind, report.scale) == ("ONNX", 2)
    image = photo(70, 50)
    same = upscale(image, files["compact"].path).image
    assert psnr(upscale(image, report.path).image, same) > 60
    for dim, size in zip(
        model.graph.input[0].type.tensor_type.shape.dim, (1, 3, 48, 32), strict=True
    ):
        dim.dim_value = size
    onnx.save(model, str(tmp_path / "fixed.onnx"))
    fixed = export_upscaler(tmp_path / "fixed.onnx", tmp_path / "mine-fixed.onnx").path
    assert read_file(fixed).tile == (48, 32)
    assert psnr(upscale(image, fixed).image, same) > 45
    assert upscale(photo(20, 20), fixed).image.size == (40, 40)


def _onnx(path: Path, inputs: list[list[int]], scale: float, outputs: int = 3) -> Path:
    values = [
        helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape)
        for i, shape in enumerate(inputs)
    ]
    factor = helper.make_tensor("s", TensorProto.FLOAT, [4], [1, outputs / 3, scale, scale])
    node = helper.make_node("Resize", ["x0", "", "s"], ["y"])
    gives = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "g", values, gives, [factor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("inputs", "scale", "outputs", "words"),
    [
        ([[1, 4, 64, 64]], 2, 4, r"takes and gives x0 float32\[1, 4, 64, 64\].* takes \(1, 3,"),
        ([[1, 3, 8, 8], [1]], 2, 3, "has one picture in and one out"),
        ([[2, 3, 8, 8]], 2, 3, "it takes 2 pictures at once"),
        ([[1, 3, 8, 8]], 1.5, 3, "it enlarges 1.5 times down and 1.5 across"),
        ([[1, 3, 8, 8]], 2, 6, "as many channels as it takes"),
    ],
)
def test_onnx_files_that_are_no_upscalers(
    tmp_path: Path, inputs: list[list[int]], scale: float, outputs: int, words: str
) -> None:
    path = _onnx(tmp_path / "in.onnx", inputs, scale, outputs)
    with pytest.raises(UnknownFamily, match=words):
        export_upscaler(path, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_files_that_cannot_be_used_say_what_was_seen(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes({"conv.weight": np.zeros((2, 3), np.float32)}))
    with pytest.raises(UnknownFamily, match=r"1 tensors, among them conv.weight \(2, 3\)"):
        export_upscaler(path, out)
    tensors = tensors_of(ESRGAN)
    del tensors["body.1.rdb2.conv3.weight"]
    path.write_bytes(safetensors_bytes(tensors))
    with pytest.raises(SourceCorrupt, match=r"body.1.rdb2.conv3.weight of shape .* is missing"):
        export_upscaler(path, out)
    tensors = tensors_of(ESRGAN)
    tensors["conv_first.bias"][0] = np.nan
    path.write_bytes(safetensors_bytes(tensors))
    with pytest.raises(SourceCorrupt, match=r"conv_first\.bias holds numbers that are not finite"):
        export_upscaler(path, out, precision="fp32")
    swinir = tensors_of(CONFIGS["swinir"])
    ends = ("conv_before", "conv_up", "conv_hr", "conv_last")
    restoring = {name: tensor for name, tensor in swinir.items() if not name.startswith(ends)}
    path.write_bytes(safetensors_bytes(restoring))
    with pytest.raises(UnknownFamily, match="a SwinIR that does not enlarge"):
        export_upscaler(path, out)
    (tmp_path / "b.onnx").write_bytes(b"no graph")
    with pytest.raises(SourceCorrupt, match=r"b\.onnx: it is no ONNX file"):
        export_upscaler(tmp_path / "b.onnx", out)
    with pytest.raises(SourceError, match="no file"):
        open_upscaler(tmp_path / "none.pth")
    with pytest.raises(OutputError, match=r"out.txt does not end in \.onnx"):
        export_upscaler(write(path, ESRGAN), tmp_path / "out.txt")
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match="is there already; --force replaces it"):
        export_upscaler(path, out)
    assert out.read_bytes() == b"mine"
    assert export_upscaler(path, out, force=True).scale == 4


def test_found_by_name(
    files: dict[str, UpscalerFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDLITE_HOME", str(tmp_path))
    folder = tmp_path / "models" / "upscalers"
    folder.mkdir(parents=True)
    (folder / "Fine x4.onnx").write_bytes(files["esrgan"].path.read_bytes())
    (folder / "broken.onnx").write_bytes(b"")
    (folder / "4x-Ultra.pth").write_bytes(b"")
    assert [file.name for file in installed()] == ["Fine x4"]
    assert [path.name for path in waiting()] == ["4x-Ultra.pth"]
    assert find_file("fine X4").scale == 4
    with pytest.raises(UnknownName, match=r"unknown upscaler 'Fine x3'. Did you mean 'Fine x4'\?"):
        upscale(photo(8, 8), "Fine x3")
    with pytest.raises(RequestError, match=r"has to be exported first: sdlite export .*Ultra.pth"):
        upscale(photo(8, 8), "4x-ultra")
    with pytest.raises(PackageInvalid, match="is no upscaler: the file is empty"):
        find_file("broken")
    with pytest.raises(RequestError, match=r"no upscaler at .*there is no such file, or"):
        find_file(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scale": 0.5}, r"scale 0\.5 is not a number from 1 to 16"),
        ({"scale": float("nan")}, "scale nan"),
        ({"size": (0, 5)}, "a picture of 0x5"),
        ({"size": (20000, 20000)}, "a picture of 20000x20000: at most"),
        ({"tile": 8}, "tile 8 is not between 16 and 8192"),
        ({"runtime": "cuda"}, "unknown runtime 'cuda'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"precision": "fp16", "runtime": "onnxruntime"}, "nothing here computes in fp16"),
    ],
)
def test_values_that_cannot_be_used(
    files: dict[str, UpscalerFile], values: dict[str, object], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        upscale(photo(8, 8), files["compact"].path, **values)  # type: ignore[arg-type]


def test_notes_that_lie_are_an_error(files: dict[str, UpscalerFile], tmp_path: Path) -> None:
    model = onnx.load(str(files["compact"].path))
    facts = json.loads(model.metadata_props[0].value)
    for change, words in (
        ({"scale": 3}, "gave .* not scale 3"),
        ({"scale": 99}, "99 is not between 1 and 8"),
        ({"kind": None, "reach": "far"}, "'far' is not between"),
    ):
        model.metadata_props[0].value = json.dumps(facts | change)
        path = tmp_path / "changed.onnx"
        onnx.save(model, str(path))
        with pytest.raises(Exception, match=words):
            upscale(photo(8, 8), path)


@pytest.mark.parametrize("name", ["esrgan", "x2plus", "compact"])
def test_in_eight_bits(
    files: dict[str, UpscalerFile], tmp_path: Path, runtime: str, name: str
) -> None:
    source = write(tmp_path / "source.safetensors", CONFIGS[name])
    report = export_upscaler(source, tmp_path / f"{name}.onnx", precision="int8")
    assert report.likeness is not None and report.likeness >= 40
    file = read_file(report.path)
    assert file.narrow and not files[name].narrow
    onnx.checker.check_model(str(file.path))
    model = onnx.load(str(file.path))
    stored = [item for item in model.graph.initializer if item.data_type == TensorProto.INT8]
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    whole = 2 + (name == "x2plus")  # the first, the last, and one that folds
    assert len(stored) == len(convs) - whole
    image = photo(60, 44)
    with Upscaler(files[name], runtime=runtime, precision="fp32") as wide:
        before = wide.enlarge(image)
    with Upscaler(file, runtime=runtime, precision="fp32") as narrow:
        after = narrow.enlarge(image)
    assert 36 < psnr(before, after) < 90


def test_ranges_come_from_the_pictures_given(tmp_path: Path) -> None:
    source = write(tmp_path / "source.safetensors", ESRGAN)
    folder = tmp_path / "pictures"
    folder.mkdir()
    photo(200, 90).save(folder / "a.png")
    photo(20, 30).convert("L").save(folder / "b.jpg")
    first = export_upscaler(
        source, tmp_path / "a.onnx", precision="int8", calibration=folder / "a.png"
    )
    second = export_upscaler(source, tmp_path / "b.onnx", precision="int8", calibration=folder)
    assert first.path.read_bytes() != second.path.read_bytes()
    again = export_upscaler(
        source, tmp_path / "a.onnx", precision="int8", calibration=folder / "a.png", force=True
    )
    assert again.likeness == first.likeness


def test_what_cannot_be_in_eight_bits(files: dict[str, UpscalerFile], tmp_path: Path) -> None:
    swinir = write(tmp_path / "swinir.safetensors", CONFIGS["swinir"])
    compact = write(tmp_path / "compact.safetensors", CONFIGS["compact"])
    unlike = tensors_of(ESRGAN)
    # A channel that nothing looks at, much larger than the others, leaves these no steps.
    unlike["conv_up2.bias"][0] = 1e4
    unlike["conv_hr.weight"][:, 0] = 0
    wild = tmp_path / "wild.safetensors"
    wild.write_bytes(safetensors_bytes(unlike))
    (tmp_path / "empty").mkdir()
    for source, calibration, words in (
        (swinir, None, "is SwinIR, which hardly has convolutions"),
        (files["compact"].path, None, "keeps its own precision"),
        (wild, None, r"in 8 bits is only .* dB like itself, at least 40"),
        (compact, tmp_path / "none", "no picture or folder"),
        (compact, tmp_path / "empty", "holds no pictures"),
    ):
        with pytest.raises(CalibrationFailed, match=words):
            export_upscaler(
                source, tmp_path / "made.onnx", precision="int8", calibration=calibration
            )
        assert not (tmp_path / "made.onnx").exists()
