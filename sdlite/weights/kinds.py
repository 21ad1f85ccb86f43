"""What each kind of adapter adds to a layer, as formulas over numpy arrays.

A layer's weight is ``(out, in)`` or ``(out, in, height, width)``; what is added has its shape.
LoRA: Hu et al. 2021. LoHa: Hyeon-Woo et al. 2021 (FedPara). LoKr: Yeh et al. 2023 (LyCORIS).
IA3: Liu et al. 2022. DoRA: Liu et al. 2024. Trainers store the factors of convolutions as
convolutions, or with a core tensor ``mid``, ``t1``, ``t2`` that holds the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sdlite.types import Array, Float32

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
TINY = float(np.finfo(np.float32).eps)
VECTORS = frozenset({"diff_b", "b_norm", "up_bias"})
"""Parameters that change a layer's bias."""


class Misfit(Exception):
    """Factors that do not fit together; the message says which."""


@dataclass(frozen=True)
class Kind:
    """One kind of adapter."""

    name: str
    """As people call it."""
    needs: tuple[frozenset[str], ...]
    """Sets of parameters, any one of which makes a layer of this kind."""
    also: frozenset[str] = frozenset()
    """Parameters it may have besides."""


def _sets(*texts: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(text.split()) for text in texts)


_DORA = frozenset({"alpha", "dora_scale", "magnitude"})
_W1, _W2 = ("lokr_w1", "lokr_w1_a lokr_w1_b"), ("lokr_w2", "lokr_w2_a lokr_w2_b")
KINDS = (
    Kind("LoRA", _sets("down up"), _DORA | {"mid", "up_bias"}),
    Kind(
        "LoHa",
        _sets("hada_w1_a hada_w1_b hada_w2_a hada_w2_b"),
        _DORA | {"hada_t1", "hada_t2"},
    ),
    Kind("LoKr", _sets(*(f"{a} {b}" for a in _W1 for b in _W2)), _DORA | {"lokr_t2"}),
    Kind("full difference", _sets("diff", "diff_b"), _DORA | {"diff", "diff_b"}),
    Kind("norm", _sets("w_norm"), frozenset({"alpha", "b_norm"})),
    Kind("IA3", _sets("weight on_input", "ia3_l"), frozenset({"alpha"})),
)


def kind_of(parameters: frozenset[str]) -> Kind | None:
    """The kind of a layer with these parameters; None when none has them all and no others."""
    for kind in KINDS:
        for needs in kind.needs:
            if needs <= parameters <= needs | kind.also:
                return kind
    return None


def rank_of(shapes: Shapes) -> int | None:
    """The rank ``alpha`` is divided by; None where nothing is decomposed."""
    for name in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        if shapes.get(name):
            return shapes[name][0]
    return None


def check(kind: Kind, shapes: Shapes, shape: Shape) -> bool:
    """Whether factors make something of ``shape``, by their shapes alone.

    Raises ``Misfit`` when they do not even fit each other.
    """
    rows, columns = shape[0], math.prod(shape[1:])
    size = rows * columns
    if kind.name == "IA3":
        if "ia3_l" in shapes:
            return math.prod(shapes["ia3_l"]) in (rows, *shape[1:2])
        return math.prod(shapes["weight"]) in (rows, *shape[1:2])
    if kind.name in ("full difference", "norm"):
        names = [name for name in ("diff", "w_norm") if name in shapes]
        vectors = [name for name in ("diff_b", "b_norm") if name in shapes]
        return all(math.prod(shapes[name]) == size for name in names) and all(
            math.prod(shapes[name]) == rows for name in vectors
        )
    makes = {"LoRA": _lora_shape, "LoHa": _loha_shape, "LoKr": _lokr_shape}[kind.name](shapes)
    return makes == (rows, columns)


def _matrix(shapes: Shapes, name: str) -> tuple[int, int]:
    """Rows and columns of a factor, kernel and all."""
    shape = shapes[name]
    if len(shape) not in (2, 4):
        raise Misfit(f"{name} has {len(shape)} dimensions, not 2 or 4")
    return shape[0], math.prod(shape[1:])


def _same(first: str, a: int, second: str, b: int) -> None:
    if a != b:
        raise Misfit(f"{first} has rank {a}, {second} has rank {b}")


def _lora_shape(shapes: Shapes) -> tuple[int, int]:
    rank, columns = _matrix(shapes, "down")
    rows, inner = _matrix(shapes, "up")
    kernel = 1
    if "mid" in shapes:
        if len(shapes["mid"]) != 4:
            raise Misfit(f"mid has {len(shapes['mid'])} dimensions, not 4")
        out, inside, *sides = shapes["mid"]
        _same("mid", inside, "down", rank)
        rank, kernel = out, math.prod(sides)
    elif len(shapes["up"]) == 4:
        kernel = math.prod(shapes["up"][2:])
        inner = shapes["up"][1]
    _same("down", rank, "up", inner)
    return rows, columns * kernel


def _loha_shape(shapes: Shapes) -> tuple[int, int]:
    made = []
    for half in ("1", "2"):
        a, b, core = f"hada_w{half}_a", f"hada_w{half}_b", f"hada_t{half}"
        first, second = _matrix(shapes, a), _matrix(shapes, b)
        if core in shapes:
            made.append(_core_shape(shapes, core, a, b))
        else:
            _same(a, first[1], b, second[0])
            made.append((first[0], second[1]))
    if made[0] != made[1]:
        raise Misfit(f"its two products are {made[0]} and {made[1]}")
    return made[0]


def _core_shape(shapes: Shapes, core: str, a: str, b: str) -> tuple[int, int]:
    if len(shapes[core]) != 4:
        raise Misfit(f"{core} has {len(shapes[core])} dimensions, not 4")
    first, second, *sides = shapes[core]
    (rank_a, rows), (rank_b, columns) = _matrix(shapes, a), _matrix(shapes, b)
    _same(core, first, a, rank_a)
    _same(core, second, b, rank_b)
    return rows, columns * math.prod(sides)


def _lokr_shape(shapes: Shapes) -> tuple[int, int]:
    made = []
    for half in ("1", "2"):
        name, a, b = f"lokr_w{half}", f"lokr_w{half}_a", f"lokr_w{half}_b"
        if name in shapes:
            made.append(_matrix(shapes, name))
        elif half == "2" and "lokr_t2" in shapes:
            made.append(_core_shape(shapes, "lokr_t2", a, b))
        else:
            first, second = _matrix(shapes, a), _matrix(shapes, b)
            _same(a, first[1], b, second[0])
            made.append((first[0], second[1]))
    return made[0][0] * made[1][0], made[0][1] * made[1][1]


def delta(
    kind: Kind,
    found: Mapping[str, Float32],
    shape: Shape,
    base: Array,
    scale: float,
    rank: int | None = None,
) -> Float32:
    """What strength 1 adds to a weight.

    Args:
        kind: the layer's kind; its factors passed ``check``.
        found: float32 parameters by name.
        shape: of the weight.
        base: the weight itself, float32, which IA3 and DoRA depend on.
        scale: ``alpha / rank``, 1 where there is none.
        rank: ranks of a LoRA to keep; None keeps all.

    Returns:
        float32 of ``shape``; for matrices a view whose transpose may be the contiguous one.
    """
    if kind.name == "IA3":
        return _ia3(found, shape, base)
    if kind.name in ("full difference", "norm"):
        name = "diff" if "diff" in found else "w_norm"
        added: Float32 = found[name].reshape(shape) if name in found else np.zeros(shape, "f4")
    else:
        made = {"LoRA": _lora, "LoHa": _loha, "LoKr": _lokr}[kind.name]
        added = made(found, shape, rank)
    if scale != 1.0:
        added = added * np.float32(scale)
    if "dora_scale" in found or "magnitude" in found:
        added = _dora(found, shape, base, added)
    return added


def bias_delta(found: Mapping[str, Float32], scale: float) -> Float32 | None:
    """What strength 1 adds to the layer's bias, a vector; None for most layers."""
    for name in VECTORS & found.keys():
        return found[name].reshape(-1) * np.float32(scale)
    return None


def _lora(found: Mapping[str, Float32], shape: Shape, rank: int | None) -> Float32:
    down, up = found["down"], found["up"]
    if "mid" in found:
        return _einsum("oi,ijkl,jp->opkl", _flat(up), found["mid"], _flat(down)).reshape(shape)
    if rank is not None:
        down, up = down[:rank], up[:, :rank]
    if up.ndim == 4 and up.shape[2:] != (1, 1):
        return _einsum("oikl,ip->opkl", up, _flat(down)).reshape(shape)
    if len(shape) == 2:
        # Linear weights are mostly stored transposed: the product is made that way round.
        return (_flat(down).T @ _flat(up).T).T
    return (_flat(up) @ _flat(down)).reshape(shape)


def _einsum(subscripts: str, *values: Float32) -> Float32:
    made: Float32 = np.einsum(subscripts, *values, optimize=True)
    return made


def _flat(value: Float32) -> Float32:
    return value.reshape(value.shape[0], -1)


def _core(core: Float32, a: Float32, b: Float32) -> Float32:
    return _einsum("ijkl,ir,jp->rpkl", core, _flat(a), _flat(b))


def _loha(found: Mapping[str, Float32], shape: Shape, rank: int | None) -> Float32:
    halves = []
    for half in ("1", "2"):
        a, b = found[f"hada_w{half}_a"], found[f"hada_w{half}_b"]
        core = found.get(f"hada_t{half}")
        made = _flat(a) @ _flat(b) if core is None else _core(core, a, b)
        halves.append(made.reshape(shape))
    product: Float32 = halves[0] * halves[1]
    return product


def _lokr(found: Mapping[str, Float32], shape: Shape, rank: int | None) -> Float32:
    first = found.get("lokr_w1")
    if first is None:
        first = found["lokr_w1_a"] @ found["lokr_w1_b"]
    first = _flat(first)
    second = found.get("lokr_w2")
    if second is None:
        a, b, core = found["lokr_w2_a"], found["lokr_w2_b"], found.get("lokr_t2")
        second = _flat(a) @ _flat(b) if core is None else _core(core, a, b)
    rows, columns = second.shape[0], shape[1] // first.shape[1]
    block = second.reshape(rows, columns, *shape[2:])
    # The Kronecker product over the first two axes, the kernel going along with the second factor.
    return _einsum("ab,cd...->acbd...", first, block).reshape(shape)


def _ia3(found: Mapping[str, Float32], shape: Shape, base: Array) -> Float32:
    if "ia3_l" in found:
        # PEFT stores factors, (out, 1) or, of feed-forward layers, (1, in).
        factor = found["ia3_l"]
        on_input = factor.ndim > 1 and factor.shape[0] == 1 and factor.size == shape[1]
        factor = factor - np.float32(1.0)
    else:
        factor = found["weight"]
        on_input = bool(found["on_input"].reshape(-1)[0])
    axis = 1 if on_input else 0
    if factor.size != shape[axis]:
        raise Misfit(f"its factors are {factor.size}, the layer has {shape[axis]} there")
    view = [1] * len(shape)
    view[axis] = -1
    added: Float32 = base * factor.reshape(view)
    return added


def _dora(found: Mapping[str, Float32], shape: Shape, base: Array, added: Float32) -> Float32:
    """Weights of learnt magnitude: ``m (W + D) / |W + D| - W``, norms by output or by input."""
    whole = base + added
    by_output = "magnitude" in found or found["dora_scale"].shape[:1] == shape[:1]
    magnitude = found["magnitude" if "magnitude" in found else "dora_scale"]
    axis = 0 if by_output else 1
    if magnitude.size != shape[axis]:
        raise Misfit(f"its magnitudes are {magnitude.size}, the layer has {shape[axis]}")
    others = tuple(index for index in range(len(shape)) if index != axis)
    norm = np.sqrt(np.square(whole).sum(axis=others, keepdims=True)) + np.float32(TINY)
    view = [1] * len(shape)
    view[axis] = -1
    result: Float32 = whole * (magnitude.reshape(view) / norm) - base
    return result
