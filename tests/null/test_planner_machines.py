"""Machines from a board of 512 MB to a GPU of 24 GB, and the plans for Stable Diffusion there.

Sizes of the models are what the exporter states of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sdlite.engine import TensorSpec
from sdlite.errors import RequestError
from sdlite.manifest import (
    Defaults,
    LatentSpace,
    Licence,
    Manifest,
    NoiseTable,
    Source,
)
from sdlite.package import Package
from sdlite.planner import Budget, Plan, Preferences, Relief, RequestShape, plan
from sdlite.types import Device
from tests.null.test_planner import artifact, weights

GB, MB = 10**9, 10**6
TILES = [
    TensorSpec("z", "float32", ("batch", 4, "height", "width")),
    TensorSpec("a", "float32", ("batch", 512, "height", "width")),
    TensorSpec("sample", "float32", ("batch", 3, "image_height", "image_width")),
]


def model(
    name: str,
    family: str,
    side: int,
    unet: tuple[int, str, int, int],
    decoder: tuple[int, int],
    upcast: bool = False,
) -> Package:
    """A model of one size.

    ``unet`` is bytes of weights, their precision, bytes of activations of one item in fp16, and of
    weights that are wide at once; ``decoder`` bytes of activations, whole and of a tile's graph.
    """
    stored, precision, moving, wide = unet
    whole, tiled = decoder
    parts = [
        artifact("text_encoder", "plain", 0, 6 * MB),
        artifact("text_encoder", "segment", 0, 8 * MB),
        replace(artifact("unet", "fused", 0, 2 * moving), widened_bytes=4 * 860 * MB),
        replace(artifact("unet", "plain", 0, 2 * moving), widened_bytes=4 * 860 * MB),
        replace(artifact("unet", "half", 0, moving), widened_bytes=wide),
        replace(artifact("unet", "segment", 0, 116 * MB), widened_bytes=37 * MB),
        replace(artifact("vae_decoder", "fused", 0, whole), widened_bytes=198 * MB),
        artifact("vae_decoder", "segment", 0, whole),
        *(
            replace(artifact("vae_decoder", "tiles", i, size), inputs=(a,), outputs=(b,))
            for i, (size, a, b) in enumerate(((50 * MB, *TILES[:2]), (tiled, *TILES[1:])))
        ),
    ]
    if not upcast:
        parts.append(artifact("vae_decoder", "half", 0, whole // 2))
    return Package(
        Path("nowhere"),
        Manifest(
            version=2,
            reader=2,
            name=name,
            family=family,
            prediction="epsilon",
            noise=NoiseTable("scaled_linear", 0.00085, 0.012, 1000),
            latent=LatentSpace(4, 8, 0.18215, force_upcast=upcast),
            tokenizers=(),
            defaults=Defaults(side, side),
            licence=Licence("unknown"),
            source=Source("single-file", name, ""),
            exporter="0",
            artifacts=tuple(
                replace(a, precision=precision) if a.component == "unet" else a for a in parts
            ),
            weights={
                "text_encoder": weights("text_encoder", 246 * MB),
                "unet": replace(weights("unet", stored), precision=precision),
                "vae_decoder": weights("vae_decoder", 99 * MB),
            },
        ),
    )


SD15 = model("sd15", "sd1", 512, (1721 * MB, "fp16", 53 * MB, 0), (671 * MB, 805 * MB))
XL8 = model(
    "sdxl", "sd1", 1024, (2597 * MB, "w8", 135 * MB, 118 * MB), (2685 * MB, 3220 * MB), upcast=True
)
"""Stable Diffusion XL in 8 bits, with one text encoder for short."""
BF16 = Device("openvino", "cpu", "CPU", None, ("bf16", "fp32"), fixed_sizes=True)
ORT = Device("onnxruntime", "cpu", "CPU")
ARM = Device("openvino", "cpu", "CPU", None, ("fp16", "fp32"), fixed_sizes=True)
CUDA = Device("onnxruntime", "cuda", "GPU", None, ("fp16", "fp32"), own_memory=True)


def machine(ram: float, *devices: Device, vram: float = 0) -> list[Device]:
    """Devices with what is free of main memory, and of a GPU's own, in GB."""
    return [
        replace(item, memory_bytes=int((vram if item.own_memory else ram) * GB)) for item in devices
    ]


def draw(
    package: Package,
    devices: Sequence[Device],
    budget: Budget | None = None,
    **wishes: object,
) -> Plan:
    side = package.manifest.defaults.width
    shape = RequestShape(side, side, 1, 20, True)
    return plan(package, shape, devices, budget or Budget(), Preferences(**wishes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Expected:
    """What of a plan a machine decides."""

    unet: str
    """Engine, device and what is computed in."""
    decoder: str
    """The same."""
    mode: str = "normal"
    resident: bool = False
    calls: int = 1
    """U-Net calls a guided step takes."""
    tiles: int = 1


def seen(made: Plan) -> Expected:
    unet, decoder = made.placement("unet"), made.placement("vae_decoder")
    words = [
        f"{p.device.runtime} {p.device.name} {p.options.precision or 'fp32'}"
        for p in (unet, decoder)
    ]
    return Expected(
        *words,
        made.memory_mode,
        made.resident,
        2 // made.call_batch,
        decoder.tiles,
    )


PROCESSOR, HALF = "onnxruntime cpu fp32", "onnxruntime cuda fp16"
NAN = Relief(precisions=(("unet", "fp32"),))
NAN_DECODER = Relief(precisions=(("vae_decoder", "fp32"),))


@pytest.mark.parametrize(
    ("devices", "relief", "expected"),
    [
        pytest.param(
            machine(0.4, ORT),
            Relief(),
            Expected(PROCESSOR, PROCESSOR, "mapped", calls=2, tiles=8),
            id="512 MB board",
        ),
        pytest.param(
            machine(2.5, ORT, BF16),
            Relief(),
            Expected(PROCESSOR, PROCESSOR, "mapped", calls=2),
            id="4 GB laptop",
        ),
        pytest.param(
            machine(5, ORT, ARM),
            Relief(),
            Expected(PROCESSOR, PROCESSOR, "mapped", calls=2),
            id="8 GB Mac",
        ),
        pytest.param(
            machine(12, ORT, BF16, CUDA, vram=3.6),
            Relief(),
            Expected(HALF, HALF),
            id="4 GB GTX 1650",
        ),
        pytest.param(
            machine(12, ORT, BF16, CUDA, vram=3.6),
            NAN,
            Expected("openvino cpu fp32", "openvino cpu bf16"),
            id="4 GB GTX 1650, U-Net not finite in fp16",
        ),
        pytest.param(
            machine(12, ORT, BF16, CUDA, vram=3.6),
            NAN_DECODER,
            Expected(HALF, "onnxruntime cuda fp32"),
            id="4 GB GTX 1650, decoder not finite in fp16",
        ),
        pytest.param(
            machine(12, ORT, BF16, CUDA, vram=7.5),
            Relief(),
            Expected(HALF, HALF, resident=True),
            id="8 GB GPU",
        ),
        pytest.param(
            machine(12, ORT, BF16, CUDA, vram=7.5),
            NAN,
            Expected("onnxruntime cuda fp32", HALF),
            id="8 GB GPU, U-Net not finite in fp16",
        ),
        pytest.param(
            machine(28, ORT, BF16, CUDA, vram=23),
            Relief(),
            Expected(HALF, HALF, resident=True),
            id="24 GB GPU",
        ),
        pytest.param(
            machine(12, ORT, BF16),
            Relief(),
            Expected("openvino cpu bf16", "openvino cpu bf16", resident=True),
            id="no GPU",
        ),
    ],
)
def test_machines(devices: list[Device], relief: Relief, expected: Expected) -> None:
    made = draw(SD15, devices, relief=relief)
    assert seen(made) == expected
    text = made.placement("text_encoder")
    assert (text.device.name, text.options.precision in (None, "fp32")) == ("cpu", True)
    if made.device_bytes:
        assert made.placement("unet").options.dimensions == {}
        assert "text_encoder on cpu, because it takes next to no time there" in made.reasons
        assert "how fast it is was not measured" in " ".join(made.reasons)
        assert "of the GPU's" in made.explain()
        assert made.private_bytes < 2 * GB, "what is on the GPU takes none of the machine's"
    elif any(item.own_memory for item in devices):
        assert "not cuda, because it would need more memory" in made.reasons


def test_a_small_gpu_holds_sd15_in_two_and_a_half_gigabytes() -> None:
    devices = machine(6, ORT, CUDA, vram=3.6)
    made = draw(SD15, devices, Budget(max_vram=5 * GB // 2), device="cuda")
    assert made.device_bytes <= 5 * GB // 2
    assert seen(made) == Expected(HALF, HALF)


def test_a_small_gpu_holds_xl_in_four_gigabytes_and_leaves_the_decoder_to_the_processor() -> None:
    devices = machine(3, ORT, CUDA, vram=4)
    made = draw(XL8, devices)
    assert seen(made) == Expected(HALF, PROCESSOR, calls=2, tiles=4)
    assert "vae_decoder on cpu, because cuda has too little memory for it" in made.reasons
    # The machine's memory holds the decoder and the text encoder, one after the other.
    assert made.peak_bytes <= 3 * GB
    allowed = draw(XL8, devices, Budget(max_vram=4 * GB))
    assert allowed.device_bytes <= 4 * GB
    assert seen(allowed) == Expected(HALF, "onnxruntime cuda fp32")


def test_what_runs_beside_a_gpu_has_to_fit_the_machine() -> None:
    made = draw(SD15, machine(1, ORT, CUDA, vram=8), Budget(max_memory=340 * MB))
    assert seen(made).unet == PROCESSOR
    assert made.memory_mode == "mapped"


def test_without_graphs_in_fp16_a_gpu_computes_in_fp32() -> None:
    old = [a for a in SD15.manifest.artifacts if a.variant != "half"]
    package = replace(SD15, manifest=replace(SD15.manifest, artifacts=tuple(old)))
    devices = machine(12, ORT, CUDA, vram=7.5)
    assert seen(draw(package, devices)).unet == "onnxruntime cuda fp32"
    with pytest.raises(RequestError, match="nothing here computes in fp16"):
        draw(package, devices, precision="fp16")
    assert seen(draw(SD15, devices, precision="fp16")).unet == HALF
    assert seen(draw(SD15, devices, precision="fp32")).decoder == "onnxruntime cuda fp32"


def test_what_is_asked_for_by_name_goes_before_a_gpu() -> None:
    devices = machine(12, ORT, BF16, CUDA, vram=7.5)
    assert seen(draw(SD15, devices, runtime="openvino")).unet == "openvino cpu bf16"
    assert seen(draw(SD15, devices, device="cpu")).unet == PROCESSOR
    assert seen(draw(SD15, devices, runtime="onnxruntime")).unet == HALF
    assert seen(draw(SD15, devices, memory_mode="mapped")).unet == PROCESSOR
