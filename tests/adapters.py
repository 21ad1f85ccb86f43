"""Adapter files made by hand, with what they should add, and packages to add it to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from sdlite_export.source.layout import text_slots, unet_slots

from sdlite.engine import FileEntry
from sdlite.manifest import TensorEntry, WeightFile
from sdlite.package import Package
from tests.export.makers import TorchFile, safetensors_bytes
from tests.tiny import Tiny

Array = np.ndarray[Any, np.dtype[Any]]
ROOT = Path(__file__).resolve().parents[1]
SHAPES = ROOT / "models" / "shapes" / "package"
PAGE = 4096

LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "down_blocks.0.resnets.0.conv1"
NORM = "down_blocks.0.resnets.0.norm1"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"


def make_package(
    folder: Path, tiny: Tiny, family: str, dtype: str = "float32"
) -> tuple[Package, dict[str, dict[str, Array]]]:
    """A package of random weights without graphs, and its state dicts as stored."""
    base = Package.open(SHAPES).manifest
    rng = np.random.default_rng(5)
    states: dict[str, dict[str, Array]] = {}
    files = {}
    slots = {name: text_slots(replace(c, vocab_size=40)) for name, c in tiny.texts.items()}
    for component, listed in {**slots, "unet": unet_slots(tiny.unet)}.items():
        state, entries, data = states.setdefault(component, {}), {}, bytearray()
        for slot in listed:
            kind = dtype if len(slot.shape) > 1 else "float32"
            value = (rng.standard_normal(slot.shape) * 0.5).astype(kind)
            state[slot.name] = value.astype(np.float32)
            turned = len(slot.shape) == 2 and "embedding.weight" not in slot.name
            raw = np.ascontiguousarray(value.T if turned else value)
            layout = "transposed" if turned else "source"
            entries[slot.name] = TensorEntry(kind, raw.shape, len(data), raw.nbytes, layout)  # type: ignore[arg-type]
            data += raw.tobytes() + bytes(-raw.nbytes % PAGE)
        path = folder / component / "weights.bin"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        entry = FileEntry(f"{component}/weights.bin", len(data), "")
        files[component] = WeightFile(entry, "fp32", entries)
    manifest = replace(base, name="tiny", family=family, weights=files, artifacts=())
    return Package(folder, manifest), states


def write(path: Path, tensors: Mapping[str, Array], metadata: dict[str, str] | None = None) -> Path:
    """A ``.safetensors`` file."""
    path.write_bytes(safetensors_bytes(tensors, metadata))
    return path


def write_torch(path: Path, value: Any) -> Path:
    """A file as ``torch.save`` writes it; arrays within mappings become tensors."""
    file = TorchFile()

    def stored(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: stored(inner) for key, inner in part.items()}
        return file.tensor(part) if isinstance(part, np.ndarray) else part

    return file.write(path, stored(value))


@dataclass(frozen=True)
class Made:
    """One layer of an adapter."""

    parameters: dict[str, Array]
    """Factors by kohya's names."""
    delta: Array
    """What strength 1 adds to the weight; for IA3 and DoRA, given the weight."""
    alpha: float | None = None
    """Alpha, in the factors."""
    bias: Array | None = None
    """What strength 1 adds to the bias."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Anything else a test wants to know."""


def make_layer(kind: str, base: Array, rank: int = 2, seed: int = 0) -> Made:
    """Factors of a kind for a weight, and what they add, by the definitions in loops."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    out, inside, *sides = base.shape
    ones = (1, 1) if sides else ()
    alpha = np.float32(3.0)
    if kind == "lora":
        down, up = draw(rank, inside, *sides), draw(out, rank, *ones)
        product = (up.reshape(out, rank) @ down.reshape(rank, -1)).reshape(base.shape)
        parameters = {"lora_down.weight": down, "lora_up.weight": up, "alpha": np.array(alpha)}
        return Made(parameters, product * alpha / rank, 3.0)
    if kind == "no alpha":
        made = make_layer("lora", base, rank, seed)
        parameters = {name: value for name, value in made.parameters.items() if name != "alpha"}
        return Made(parameters, made.delta / 3.0 * rank)
    if kind == "mid":
        down, mid, up = draw(rank, inside, 1, 1), draw(rank, rank, *sides), draw(out, rank, 1, 1)
        product = np.zeros(base.shape, np.float32)
        for y, x in np.ndindex(*sides):
            product[:, :, y, x] = up[:, :, 0, 0] @ mid[:, :, y, x] @ down[:, :, 0, 0]
        return Made(
            {"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": mid,
             "alpha": np.array([alpha])}, product * alpha / rank,
        )  # fmt: skip
    if kind == "up kernel":
        down, up = draw(rank, inside, 1, 1), draw(out, rank, *sides)
        product = np.zeros(base.shape, np.float32)
        for y, x in np.ndindex(*sides):
            product[:, :, y, x] = up[:, :, y, x] @ down[:, :, 0, 0]
        return Made({"lora_down.weight": down, "lora_up.weight": up}, product)
    if kind == "loha":
        a, b, c, d = (draw(out, rank), draw(rank, base[0].size), draw(out, rank),
                      draw(rank, base[0].size))  # fmt: skip
        return Made(
            {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d,
             "alpha": np.array(alpha)},
            ((a @ b) * (c @ d)).reshape(base.shape) * alpha / rank,
        )  # fmt: skip
    if kind == "loha core":
        factors = {}
        halves = []
        for half in "12":
            t, a, b = draw(rank, rank, *sides), draw(rank, out), draw(rank, inside)
            factors |= {f"hada_t{half}": t, f"hada_w{half}_a": a, f"hada_w{half}_b": b}
            whole = np.zeros(base.shape, np.float32)
            for y, x in np.ndindex(*sides):
                whole[:, :, y, x] = a.T @ t[:, :, y, x] @ b
            halves.append(whole)
        return Made({**factors, "alpha": np.array(alpha)}, halves[0] * halves[1] * alpha / rank)
    if kind.startswith("lokr"):
        first, second = draw(2, 4), draw(out // 2, inside // 4, *sides)
        parameters = {"lokr_w1": first, "lokr_w2": second, "alpha": np.array(alpha)}
        scale = np.float32(1.0)
        if kind == "lokr parts":
            a, b = draw(2, rank), draw(rank, 4)
            c, d = draw(out // 2, rank), draw(rank, inside // 4 * int(np.prod(sides, dtype=int)))
            first, second = a @ b, (c @ d).reshape(second.shape)
            parameters = {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2_a": c, "lokr_w2_b": d}
            parameters["alpha"] = np.array(alpha)
            scale = alpha / rank
        if kind == "lokr core":
            t, c, d = draw(rank, rank, *sides), draw(rank, out // 2), draw(rank, inside // 4)
            second = np.zeros(second.shape, np.float32)
            for y, x in np.ndindex(*sides):
                second[:, :, y, x] = c.T @ t[:, :, y, x] @ d
            parameters = {"lokr_w1": first, "lokr_t2": t, "lokr_w2_a": c, "lokr_w2_b": d}
            parameters["alpha"] = np.array(alpha)
            scale = alpha / rank
        whole = np.zeros(base.shape, np.float32)
        for place in np.ndindex(*sides):
            whole[(slice(None), slice(None), *place)] = np.kron(
                first, second[(slice(None), slice(None), *place)]
            )
        return Made(parameters, whole * scale)
    if kind == "diff":
        diff, bias = draw(*base.shape), draw(out)
        return Made({"diff": diff, "diff_b": bias}, diff, bias=bias)
    if kind in ("ia3 out", "ia3 in"):
        on_input = kind == "ia3 in"
        factor = draw(inside if on_input else out)
        view = (1, -1, *ones) if on_input else (-1, 1, *ones)
        return Made({"weight": factor, "on_input": np.array(on_input)}, base * factor.reshape(view))
    if kind in ("dora out", "dora in"):
        lora = make_layer("lora", base, rank, seed)
        whole = base + lora.delta
        axis = 0 if kind == "dora out" else 1
        magnitude = np.abs(draw(base.shape[axis])) + 0.5
        changed = np.zeros(base.shape, np.float32)
        for index in range(base.shape[axis]):
            place = (index,) if axis == 0 else (slice(None), index)
            changed[place] = magnitude[index] * whole[place] / np.linalg.norm(whole[place])
        view = (-1, 1, *ones) if axis == 0 else (1, -1, *ones)
        parameters = {**lora.parameters, "dora_scale": magnitude.reshape(view).astype("f4")}
        return Made(parameters, changed - base)
    raise AssertionError(kind)
