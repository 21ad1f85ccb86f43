"""Make full-size random checkpoints: ``python -m benchmarks.checkpoints sd15 --dtype fp16 DEST``.

Only numpy is needed. Names and shapes are those of the public checkpoints, values are random but
scaled so that activations keep a deviation of about one through the whole model: weights by their
fan-in, residual branches small, norm weights near 1, biases small. The same architecture and seed
give the same values in every layout and, up to rounding, in every dtype. Tensors are made and
written one at a time, so memory stays below 1 GB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.architectures import ARCHITECTURES, Architecture
from benchmarks.folder import write_folder_files
from benchmarks.layout import Spec, clip_specs, open_clip_specs, unet_specs, vae_specs
from sdlite.types import Array, Float32

DTYPES = {"fp32": ("F32", 4), "fp16": ("F16", 2), "bf16": ("BF16", 2)}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint."""

    component: str
    """``unet``, ``vae``, ``text_encoder``, ``text_encoder_2`` or empty."""
    name: str
    """Full name in the single file."""
    spec: Spec
    """Names, shape and scale."""


def tensors(arch: Architecture) -> Iterator[Tensor]:
    """All tensors of the three components, in the order of the structure."""
    for spec in unet_specs(arch.unet, arch.label_width):
        yield Tensor("unet", f"model.diffusion_model.{spec.ldm}", spec)
    for spec in vae_specs(arch.vae):
        yield Tensor("vae", f"first_stage_model.{spec.ldm}", spec)
    for index, encoder in enumerate(arch.text):
        component = f"text_encoder{arch.suffix(index)}"
        specs = open_clip_specs if encoder.open_clip else clip_specs
        for spec in specs(encoder.config):
            yield Tensor(component, encoder.prefix + spec.ldm, spec)


def values(name: str, spec: Spec, seed: int) -> Array:
    """Values of one tensor: they depend on its full name, its shape and the seed alone."""
    if spec.kind == "position_ids":
        return np.arange(spec.shape[-1], dtype=np.int64).reshape(spec.shape)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    array: Float32 = generator.standard_normal(spec.shape, dtype=np.float32)
    if spec.kind == "weight":
        fan_in = spec.shape[0] if spec.transposed else int(np.prod(spec.shape[1:]))
        array *= np.float32(spec.gain / fan_in**0.5)
    elif spec.kind == "embedding":
        array *= np.float32(spec.gain)
    elif spec.kind == "norm_weight":
        array *= np.float32(0.1)
        array += np.float32(1.0)
    else:
        array *= np.float32(0.02)
    return array


def encode(array: Array, dtype: str) -> Array:
    """Round float32 to the stored dtype; bfloat16 comes as uint16, nearest even."""
    if array.dtype != np.float32 or dtype == "fp32":
        return array
    if dtype == "fp16":
        return array.astype(np.float16)
    bits = array.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)


def schedule_buffers(first: float = 0.00085, last: float = 0.012) -> dict[str, Float32]:
    """The buffers that LDM checkpoints keep at the top level (scaled-linear betas)."""
    betas = np.linspace(first**0.5, last**0.5, 1000) ** 2
    alphas = np.cumprod(1.0 - betas)
    before = np.append(1.0, alphas[:-1])
    variance = betas * (1.0 - before) / (1.0 - alphas)
    buffers = {
        "betas": betas,
        "alphas_cumprod": alphas,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": alphas**0.5,
        "sqrt_one_minus_alphas_cumprod": (1.0 - alphas) ** 0.5,
        "log_one_minus_alphas_cumprod": np.log(1.0 - alphas),
        "sqrt_recip_alphas_cumprod": alphas**-0.5,
        "sqrt_recipm1_alphas_cumprod": (1.0 / alphas - 1.0) ** 0.5,
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * before**0.5 / (1.0 - alphas),
        "posterior_mean_coef2": (1.0 - before) * (1.0 - betas) ** 0.5 / (1.0 - alphas),
    }
    return {name: array.astype(np.float32) for name, array in buffers.items()}


def write_safetensors(
    path: Path, entries: Mapping[str, tuple[tuple[int, ...], Iterator[Array]]], dtype: str
) -> int:
    """Write tensors one at a time; int64 ones first so that everything is aligned.

    Each entry is a shape and an iterator that gives the array once, float32 or int64. Returns the
    bytes written.
    """
    # position_ids is the only integer tensor of these checkpoints.
    integers = {name for name in entries if name.endswith("position_ids")}
    order = sorted(entries, key=lambda name: (name not in integers, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in order:
        shape = entries[name][0]
        label, size = ("I64", 8) if name in integers else DTYPES[dtype]
        end = offset + size * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": label, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name in order:
            array = encode(next(entries[name][1]), dtype)
            stream.write(np.ascontiguousarray(array).data)
    return 8 + len(text) + offset


def ema_name(name: str) -> str:
    """Name of a U-Net tensor's moving average in LDM files."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def write_checkpoint(
    path: Path,
    arch: str = "sd15",
    dtype: str = "fp32",
    seed: int = 0,
    ema: bool = False,
) -> int:
    """Write a single-file checkpoint in LDM layout and return its size in bytes."""
    architecture = ARCHITECTURES[arch]
    entries: dict[str, tuple[tuple[int, ...], Iterator[Array]]] = {}
    for tensor in tensors(architecture):
        entries[tensor.name] = (tensor.spec.shape, _lazily(tensor.name, tensor.spec, seed))
        if ema and tensor.component == "unet":
            name = ema_name(tensor.name)
            entries[name] = (tensor.spec.shape, _lazily(name, tensor.spec, seed))
    if architecture.top_level:
        # Upscalers keep those of the small picture's noise too.
        for start in ("", "low_scale_model.") if architecture.unet.class_embeds else ("",):
            for name, buffer in schedule_buffers(*architecture.betas).items():
                entries[start + name] = (buffer.shape, iter((buffer,)))
    if ema:
        for name, value in (("decay", 0.9999), ("num_updates", 1000.0)):
            entries[f"model_ema.{name}"] = ((), iter((np.array(value, dtype=np.float32),)))
    return write_safetensors(path, entries, dtype)


def _lazily(name: str, spec: Spec, seed: int) -> Iterator[Array]:
    yield values(name, spec, seed)


def write_folder(path: Path, arch: str = "sd15", dtype: str = "fp32", seed: int = 0) -> int:
    """Write the same values as a diffusers folder and return the bytes of its weight files."""
    architecture = ARCHITECTURES[arch]
    write_folder_files(path, architecture)
    components: dict[str, dict[str, tuple[tuple[int, ...], Iterator[Array]]]] = {}
    kept = {
        name
        for encoder in architecture.text
        for spec in clip_specs(encoder.in_folder(architecture.alone))
        for name in spec.diffusers
    }
    for tensor in tensors(architecture):
        found = components.setdefault(tensor.component, {})
        for index, name in enumerate(tensor.spec.diffusers):
            if tensor.component.startswith("text_encoder") and name not in kept:
                continue
            found[name] = (_folder_shape(tensor), _folder_values(tensor, index, seed))
    size = 0
    for component, entries in components.items():
        text = component.startswith("text_encoder")
        file = "model.safetensors" if text else "diffusion_pytorch_model.safetensors"
        size += write_safetensors(path / component / file, entries, dtype)
    return size


def _folder_shape(tensor: Tensor) -> tuple[int, ...]:
    shape, parts = tensor.spec.shape, len(tensor.spec.diffusers)
    if tensor.component == "vae" and ".attentions." in tensor.spec.diffusers[0]:
        shape = tuple(shape[:2])
    if tensor.spec.transposed:
        shape = shape[::-1]
    return (shape[0] // parts, *shape[1:])


def _folder_values(tensor: Tensor, index: int, seed: int) -> Iterator[Array]:
    array = values(tensor.name, tensor.spec, seed)
    part = np.split(array, len(tensor.spec.diffusers))[index]
    yield (part.T if tensor.spec.transposed else part).reshape(_folder_shape(tensor))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
    parser.add_argument("arch", choices=sorted(ARCHITECTURES))
    parser.add_argument("dest", type=Path, help="file to write, or folder with --layout diffusers")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--layout", choices=("ldm", "diffusers"), default="ldm")
    parser.add_argument("--ema", action="store_true", help="add the U-Net's moving averages")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.ema and options.layout == "diffusers":
        parser.error("a diffusers folder has no moving averages; leave --ema out")
    start = time.perf_counter()
    if options.layout == "ldm":
        size = write_checkpoint(
            options.dest, options.arch, options.dtype, options.seed, options.ema
        )
    else:
        size = write_folder(options.dest, options.arch, options.dtype, options.seed)
    print(f"{options.dest}: {size / 1e9:.2f} GB in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
