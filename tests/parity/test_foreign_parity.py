"""Folders in optimum's and diffusers' ONNX layouts, exported by torch.onnx, against diffusers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from sdlite_export.export import export_package

import sdlite
from sdlite.engine import LoadOptions, Session
from sdlite.foreign import is_foreign, open_foreign
from sdlite.ports import DecoderPort, EncoderPort, TextEncoderPort, UnetPort
from sdlite.registry import devices, get
from tests.tiny import make_tiny_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    # Sizes become constants where a trace takes them from Python; the free axes are named below.
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

LIMIT = 1e-4
"""Of the reference's standard deviation."""
LATENTS = {0: "batch", 2: "height", 3: "width"}
PICTURE = {0: "batch", 2: "height", 3: "width"}
TOKENS = {0: "batch", 1: "sequence"}


class Calls(torch.nn.Module):
    """A function of modules, as something torch.onnx exports."""

    def __init__(self, function: Callable[..., object], *modules: torch.nn.Module) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(modules)
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.function(*inputs)


def export(
    path: Path,
    function: Callable[..., object],
    module: torch.nn.Module,
    inputs: dict[str, tuple[torch.Tensor, dict[int, str]]],
    outputs: dict[str, dict[int, str]],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        Calls(function, module).eval(),
        tuple(tensor for tensor, _ in inputs.values()),
        str(path),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes={name: axes for name, (_, axes) in inputs.items() if axes} | outputs,
        opset_version=17,
        dynamo=False,
    )


def write_folder(pipe: StableDiffusionPipeline, source: Path, root: Path, layout: str) -> Path:
    """Export a pipeline's parts with the names and dtypes of one of the two layouts."""
    optimum = layout == "optimum"
    text, unet, vae = pipe.text_encoder, pipe.unet, pipe.vae
    tokens = torch.ones((2, 77), dtype=torch.int64 if optimum else torch.int32)
    x = torch.randn(2, 4, 6, 6)
    context = torch.randn(2, 77, text.config.hidden_size)
    timestep = torch.tensor(7) if optimum else torch.randn(2)

    def encode_text(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = text(ids)
        return found.last_hidden_state, found.pooler_output

    def encode(picture: torch.Tensor) -> torch.Tensor:
        distribution = vae.encode(picture).latent_dist
        return distribution.parameters if optimum else distribution.sample()

    export(
        root / "text_encoder" / "model.onnx",
        encode_text,
        text,
        {"input_ids": (tokens, TOKENS)},
        {"last_hidden_state": TOKENS, "pooler_output": {0: "batch"}},
    )
    export(
        root / "unet" / "model.onnx",
        lambda sample, time, states: unet(sample, time, states, return_dict=False)[0],
        unet,
        {
            "sample": (x, LATENTS),
            "timestep": (timestep, {} if optimum else {0: "batch"}),
            "encoder_hidden_states": (context, TOKENS),
        },
        {"out_sample": LATENTS},
    )
    export(
        root / "vae_decoder" / "model.onnx",
        lambda latent: vae.decode(latent, return_dict=False)[0],
        vae,
        {"latent_sample": (x, LATENTS)},
        {"sample": PICTURE},
    )
    export(
        root / "vae_encoder" / "model.onnx",
        encode,
        vae,
        {"sample": (torch.randn(2, 3, 48, 48), PICTURE)},
        {"latent_parameters" if optimum else "latent_sample": LATENTS},
    )
    shutil.copytree(source / "tokenizer", root / "tokenizer")
    shutil.copytree(source / "scheduler", root / "scheduler")
    kind = "StableDiffusionPipeline" if optimum else "OnnxStableDiffusionPipeline"
    (root / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    if optimum:
        for component in ("vae_encoder", "vae_decoder"):
            shutil.copy(source / "vae" / "config.json", root / component / "config.json")
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with SD1.x's latent scale: diffusers' ONNX layout does not state it."""
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("foreign") / "source")
    config = folder / "vae" / "config.json"
    settings = json.loads(config.read_text()) | {"scaling_factor": 0.18215}
    config.write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def pipe(source: Path) -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(source, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module", params=["diffusers", "optimum"])
def folder(
    request: pytest.FixtureRequest,
    pipe: StableDiffusionPipeline,
    source: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    root = tmp_path_factory.mktemp(request.param) / "folder"
    torch.manual_seed(0)
    with torch.no_grad():
        return write_folder(pipe, source, root, request.param)


def opened(folder: Path, component: str) -> Session:
    (artifact,) = open_foreign(folder).find(component, "plain")
    device = devices("onnxruntime")[0]
    return get("onnxruntime").load(artifact, folder, device, LoadOptions(threads=1))


def error(found: np.ndarray, expected: torch.Tensor) -> float:
    reference = expected.numpy()
    assert found.shape == reference.shape
    return float(np.abs(found - reference).max() / reference.std())


@torch.no_grad()
def test_text_encoder(folder: Path, pipe: StableDiffusionPipeline) -> None:
    ids = np.random.default_rng(0).integers(0, 500, (3, 77))
    found = TextEncoderPort(opened(folder, "text_encoder")).encode(ids)
    expected = pipe.text_encoder(torch.from_numpy(ids))
    assert error(found.hidden, expected.last_hidden_state) < LIMIT
    assert found.pooled is not None
    assert error(found.pooled, expected.pooler_output) < LIMIT


@torch.no_grad()
@pytest.mark.parametrize("times", [[500.0, 500.0, 500.0], [1.0, 400.0, 999.0]])
def test_unet(folder: Path, pipe: StableDiffusionPipeline, times: list[float]) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 4, 8, 6)).astype(np.float32)
    context = rng.standard_normal((3, 77, 16)).astype(np.float32)
    found = UnetPort(opened(folder, "unet")).predict(x, np.array(times, np.float32), context)
    expected = pipe.unet(torch.from_numpy(x), torch.tensor(times), torch.from_numpy(context)).sample
    assert error(found, expected) < LIMIT


@torch.no_grad()
def test_vae(folder: Path, pipe: StableDiffusionPipeline) -> None:
    rng = np.random.default_rng(2)
    latents = rng.standard_normal((2, 4, 5, 7)).astype(np.float32)
    found = DecoderPort(opened(folder, "vae_decoder")).decode(latents)
    assert error(found, pipe.vae.decode(torch.from_numpy(latents)).sample) < LIMIT
    picture = rng.uniform(-1, 1, (1, 3, 40, 32)).astype(np.float32)
    distribution = pipe.vae.encode(torch.from_numpy(picture)).latent_dist
    port = EncoderPort(opened(folder, "vae_encoder"))
    encoded = port.encode(picture)
    assert port.draws == ("diffusers" in str(folder))
    if encoded.logvar is None:
        assert encoded.mean.shape == tuple(distribution.mean.shape)
        away = np.abs(encoded.mean - distribution.mean.numpy()) / distribution.std.numpy()
        assert 0.1 < away.mean() < 3
    else:
        assert error(encoded.mean, distribution.mean) < LIMIT
        assert error(encoded.logvar, distribution.logvar) < LIMIT


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-10)))


def test_picture_equals_our_own_export(folder: Path, source: Path, tmp_path: Path) -> None:
    """Same checkpoint, same seed: the foreign folder and our own package draw the same."""
    assert is_foreign(folder)
    export_package(source, tmp_path / "own", precision="fp32")
    pictures = []
    for path in (folder, tmp_path / "own"):
        with sdlite.load(path, threads=1) as pipe:
            result = pipe.generate(
                "a red circle", seed=3, width=64, height=48, steps=8, sampler="Euler", guidance=3.0
            )
            pictures.append(np.asarray(result.images[0]))
    assert pictures[0].std() > 5
    # optimum's U-Net takes whole timesteps, so that ours are rounded.
    assert psnr(*pictures) > (50 if "diffusers" in str(folder) else 25)
