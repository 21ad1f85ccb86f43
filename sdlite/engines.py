"""What the planner knows of engines: what each reads, holds and computes in, and which is faster.

Figures behind the choices are in docs/benchmarks.md and field measurements named here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdlite.choices import COMPUTE_PRECISIONS
from sdlite.engine import Artifact
from sdlite.errors import NoPlan, RequestError, UnknownName
from sdlite.manifest import LatentSpace
from sdlite.package import Package
from sdlite.types import Device

VARIANTS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("onnxruntime", "normal"): ("fused", "plain"),
    ("onnxruntime", "mapped"): ("segment", "fused", "plain"),
    ("openvino", "normal"): ("plain", "fused"),
    ("coreml", "normal"): ("original", "split_einsum"),
}
"""Graph variants an engine runs in a memory mode, best first; others take ``plain``. OpenVINO
takes the same time for either of its two (SD1.5's U-Net: 2.47 s); plain has fewer nodes."""
HALF = "half"
"""Variant that computes in fp16, for engines that compute in what a graph is written in."""
AS_WRITTEN = frozenset({"onnxruntime"})
"""Engines that compute in what a graph is written in."""
GPUS = ("cuda", "dml", "migraphx", "rocm")
"""Devices of ONNX Runtime that are taken where they are, for large models, as whoever has such a
wheel installed it for them. They were not measured; other GPUs and NPUs are used when asked for."""
FORMATS: Mapping[str, tuple[str, ...]] = {"coreml": ("coreml",), "openvino": ("openvino", "onnx")}
"""Formats of the graphs an engine reads, best first, where that is not ONNX alone."""
NEURAL_ENGINE = frozenset({"cpu_and_ne", "all"})
"""Devices of Core ML for which attention is better written head by head."""
MODES: Mapping[str, tuple[str, ...]] = {"openvino": ("normal",), "coreml": ("normal",)}
"""Memory modes of an engine that has not all."""
LARGE_BYTES = 100 << 20
"""Weights of a U-Net from which on compiling for OpenVINO is soon paid back: it takes seconds, and
what it wins is a small part of a second a picture for the model that ships."""
LEVELS = 8
"""More resolutions than this no U-Net has."""
OWN_SIZES = ("text_encoder", "t2i-adapter/", "ip-adapter/", "image-encoder/")
"""Starts of the names of components whose sizes are not those of the picture drawn: tokens, cells
of their own, and the pictures an encoder takes."""
EXACT = frozenset({"text_encoder", "text_encoder_2"})
"""Components that cost next to nothing, so that they are not computed narrowly without need."""


def variants(runtime: str, mode: str, device: str = "") -> tuple[str, ...]:
    """Graph variants to look for, best first."""
    found = VARIANTS.get((runtime, mode), ("plain",))
    return found[::-1] if runtime == "coreml" and device in NEURAL_ENGINE else found


def formats_read(runtime: str) -> tuple[str, ...]:
    """Formats of the graphs an engine reads, best first."""
    return FORMATS.get(runtime, ("onnx",))


def formats_of(package: Package) -> frozenset[str]:
    """Formats of the graphs a package has."""
    return frozenset(artifact.format for artifact in package.manifest.artifacts)


def graphs(
    package: Package,
    component: str,
    device: Device,
    mode: str,
    others: Sequence[Device],
    variant: str | None = None,
    extension: str = "",
    half: bool = False,
) -> tuple[Device, tuple[Artifact, ...]]:
    """The graph, or chain of graphs, of a component, and the device that reads it.

    That is ``device``, or, where it reads no graph there is, the first of ``others`` that does.
    ``variant`` is the one wanted, instead of the best for the device; ``extension`` what the graph
    also takes, the end of its variant; with ``half`` one that computes in fp16 is preferred on
    ``device``. Raises ``NoPlan``.
    """
    for item in (device, *others):
        names = variants(item.runtime, mode, item.name) if variant is None else (variant,)
        if half and item == device and variant is None:
            names = (HALF, *names)
        for format in formats_read(item.runtime):
            for name in names:
                found = package.find(component, name + extension, format=format)
                if found and all(not item.opset or a.opset <= item.opset for a in found):
                    return item, found
    what = component if variant is None else f"{variant} {component}"
    raise NoPlan(
        [
            f"package {package.manifest.name} has no {what} graph for {device.runtime} on "
            f"{device.name}; export it again with this version of sdlite"
        ]
    )


def reads(package: Package, component: str, device: Device, mode: str) -> bool:
    """Whether a package has a graph of a component that a device reads."""
    try:
        graphs(package, component, device, mode, (), half="fp16" in device.precisions)
    except NoPlan:
        return False
    return True


def is_large(package: Package) -> bool:
    """Whether a model is so large that an engine may take seconds to open it."""
    weights = package.manifest.weights.get("unet")
    if weights is not None:
        return weights.file.size >= LARGE_BYTES
    graphs = (a.size for a in package.manifest.artifacts if a.component == "unet")
    return max(graphs, default=0) >= LARGE_BYTES


def takes_openvino(package: Package) -> bool:
    """Whether a model is worth looking for OpenVINO: a large one, or one in 8 bits."""
    return is_large(package) or _in_eight_bits(package)


def _in_eight_bits(package: Package) -> bool:
    """Whether the U-Net's activations are in 8 bits: OpenVINO computes them so, ONNX Runtime takes
    float32 for convolutions, and no more than as much time for the rest."""
    unet = package.manifest.weights.get("unet")
    return unet is not None and unet.precision == "int8"


def memory_modes(device: Device, wanted: str) -> tuple[str, ...]:
    """Memory modes to try in order; raises ``RequestError`` when the device has not the wanted."""
    has = _modes(device)
    if wanted == "auto":
        return has
    if wanted not in has:
        raise RequestError(
            f"{device.runtime} has no memory mode {wanted} on {device.name}, only "
            f"{', '.join(has)}; leave --memory-mode, --runtime or --device out"
        )
    return (wanted,)


def _modes(device: Device) -> tuple[str, ...]:
    if device.own_memory:
        return ("normal",)
    return MODES.get(device.runtime, ("normal", "mapped"))


def precision_for(
    component: str, device: Device, wanted: str | None, force_upcast: bool = False
) -> str | None:
    """What to compute a component in; None where there is nothing to choose.

    With ``force_upcast`` the autoencoder leaves float16's range and is given float32 instead, also
    where float16 is wanted.
    """
    chosen = device.precisions[0]
    if wanted is not None and wanted in device.precisions:
        chosen = wanted
    elif component in EXACT and "fp32" in device.precisions:
        chosen = "fp32"
    if force_upcast and component.startswith("vae_") and chosen == "fp16":
        chosen = "fp32" if "fp32" in device.precisions else chosen
    return None if len(device.precisions) == 1 and chosen in ("fp32", wanted) else chosen


def as_written(device: Device, artifacts: Sequence[Artifact], precision: str | None) -> str | None:
    """The precision of graphs that were chosen, where the engine computes as they are written."""
    if device.runtime not in AS_WRITTEN or precision is None:
        return precision
    return "fp16" if artifacts[0].variant == HALF else "fp32"


def dimensions_of(
    component: str,
    device: Device,
    batch: int,
    size: tuple[int, int],
    latent: LatentSpace,
    controlled: bool = False,
) -> Mapping[str, int]:
    """Sizes to make static for pictures of ``size``, width and height in pixels.

    The number of tokens stays free: it depends on the prompt, and costs nothing.
    """
    if not device.fixed_sizes or component.startswith(OWN_SIZES):
        return {}
    width, height = size
    picture = {"image_height": height, "image_width": width}
    if component == "vae_encoder":
        return {"batch": batch, **picture}
    sizes = {"batch": batch, "height": height // latent.factor, "width": width // latent.factor}
    if not controlled:
        return sizes
    # What control networks say comes at the size of each level, rounded up.
    for axis in ("height", "width"):
        sizes |= {f"{axis}_{1 << n}": -(-sizes[axis] // (1 << n)) for n in range(1, LEVELS)}
    return sizes | picture


def candidates(
    devices: Sequence[Device],
    package: Package,
    runtime: str | None,
    device: str | None,
    precision: str | None,
    memory_mode: str = "auto",
) -> tuple[tuple[Device, tuple[str, ...]], ...]:
    """Devices a plan may use, best first, each with why it comes at its place.

    A runtime or device asked for by name is the only one.

    Raises:
        UnknownName: there is no such runtime, device or precision.
        RequestError: no device computes in that precision, or has that memory mode, or what was
            asked for reads none of the package's formats.
        NoPlan: there is no device at all.
    """
    if precision is not None and precision not in COMPUTE_PRECISIONS:
        raise UnknownName("precision", precision, COMPUTE_PRECISIONS)
    found = list(devices)
    if runtime is not None:
        found = [item for item in found if item.runtime == runtime]
        if not found:
            raise UnknownName("runtime", runtime, {item.runtime: None for item in devices})
    if device is not None:
        names = dict.fromkeys(item.name for item in found)
        found = [item for item in found if item.name == device]
        if not found:
            raise UnknownName("device", device, names)
    if not found:
        raise NoPlan(["no engine found a device"])
    found = _readers(found, package)
    if precision is not None:
        able = [item for item in found if computes(item, package, precision)]
        if not able:
            there = ", ".join(
                f"{item.runtime} {item.name} in {' or '.join(item.precisions)}" for item in found
            )
            raise RequestError(f"nothing here computes in {precision}: {there}")
        found = able
    named = runtime is not None or device is not None
    apple = [item for item in found if item.runtime == "coreml"]
    if apple and device is None:
        rest = [item for item in found if item.runtime != "coreml"]
        chosen, why = _of_apple(apple, package)
        return ((chosen, (why,)), *((item, ()) for item in rest[:1]))
    if memory_mode != "auto" and not named:
        able = [item for item in found if memory_mode in _modes(item)]
        found = able or found
    if device is not None or not takes_openvino(package):
        return ((found[0], ()),)
    gpus = [item for item in found if item.runtime == "onnxruntime" and item.name in GPUS]
    gpus.sort(key=lambda item: GPUS.index(item.name))
    if named:
        first = [item for item in found if item not in gpus]
        return (*((item, (_why_gpu(item),)) for item in gpus[:1]), *((d, ()) for d in first[:1]))
    faster = [item for item in found if item.runtime == "openvino" and _measured(item)]
    others = [item for item in found if item not in faster and item not in gpus]
    return (
        *((item, (_why_gpu(item),)) for item in gpus[:1]),
        *((item, (_why(item, package),)) for item in faster[:1]),
        *((item, ()) for item in others[:1]),
    )


def computes(device: Device, package: Package, precision: str) -> bool:
    """Whether a device computes a package's U-Net in a precision."""
    halves = device.runtime not in AS_WRITTEN or bool(package.find("unet", HALF))
    return precision in device.precisions and (precision != "fp16" or halves)


def prefers_openvino(device: Device, narrow: bool = False) -> bool:
    """Whether a device is OpenVINO's on a processor with bf16, about twice as fast there, or with
    ``narrow``, for a network in 8 bits, on any it was measured on."""
    if device.runtime != "openvino" or not _measured(device):
        return False
    return narrow or device.precisions[0] == "bf16"


def _readers(devices: Sequence[Device], package: Package) -> list[Device]:
    """Devices that read a format the package has."""
    formats = formats_of(package)
    found = [item for item in devices if formats & set(formats_read(item.runtime))]
    if not found:
        wanted = sorted({formats_read(item.runtime)[-1] for item in devices})
        there = ", ".join(dict.fromkeys(item.runtime for item in devices))
        raise RequestError(
            f"{package.manifest.name} has {' and '.join(sorted(formats))} graphs, which {there} "
            f"cannot read; export the model with --format {wanted[0]}"
        )
    return found


def _of_apple(devices: Sequence[Device], package: Package) -> tuple[Device, str]:
    """Core ML's device for the U-Net there is, and why."""
    for item in devices:
        first = variants(item.runtime, "normal", item.name)[0]
        if package.find("unet", first, format="coreml"):
            return item, f"{item.name}, because the U-Net's attention is written for it ({first})"
    return devices[0], f"{devices[0].name}, because the package is for Core ML"


def check_size(package: Package, artifacts: Sequence[Artifact], size: tuple[int, int]) -> None:
    """Raise ``RequestError`` when a U-Net's graph is of another size only."""
    factor = package.manifest.latent.factor
    wanted = (size[1] // factor, size[0] // factor)
    for artifact in artifacts:
        for port in artifact.inputs:
            if artifact.component != "unet" or port.name != "sample" or len(port.shape) != 4:
                continue
            height, width = port.shape[2:]
            for cells, has in zip(wanted, (height, width), strict=True):
                if isinstance(has, int) and has != cells:
                    raise RequestError(
                        f"{package.manifest.name} draws {_pixels(width, factor)}x"
                        f"{_pixels(height, factor)} only, not {size[0]}x{size[1]}; export the "
                        f"model again with --size {size[0]}x{size[1]}, or ask for the size it has"
                    )


def _pixels(cells: int | str, factor: int) -> str:
    return str(cells * factor) if isinstance(cells, int) else cells


def _measured(device: Device) -> bool:
    """Whether OpenVINO was measured to be faster on such a device: processors of x86-64."""
    return device.name == "cpu" and device.precisions[0] != "fp16"


def _why_gpu(device: Device) -> str:
    return f"{device.name}, because there is such a GPU; how fast it is was not measured"


def _why(device: Device, package: Package) -> str:
    if "onnx" not in formats_of(package):
        return "openvino, because the model's graphs are written for it"
    if _in_eight_bits(package) and device.seven_bits:
        return (
            "openvino, because it computes what this package has in 8 bits in 8 bits, which gains "
            "less on this processor: without VNNI weights are brought to 7 bits"
        )
    if _in_eight_bits(package):
        return "openvino, because it computes what this package has in 8 bits in 8 bits"
    if device.precisions[0] == "bf16":
        return (
            "openvino, because it computes in bf16 on this processor, "
            "about twice as fast as onnxruntime in fp32"
        )
    return "openvino, because it was measured to be about a fifth faster than onnxruntime in fp32"
