"""The parts of a model as Core ML packages of one size, and their entries in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path

from sdlite.engine import Artifact, FileEntry, TensorSpec
from sdlite.errors import RequestError, UnknownName
from sdlite.package import hash_file
from sdlite_export.emit.components import (
    Component,
    check_checkpoint,
    components,
    reference_sizes,
)
from sdlite_export.emit.coreml.mil import Attention, Precision, build, physical
from sdlite_export.emit.coreml.palette import BITS
from sdlite_export.emit.coreml.tape import Piece, Tape
from sdlite_export.emit.coreml.tools import BLOB, INDEX, MODEL, coremltools, save
from sdlite_export.emit.coreml.weights import Store
from sdlite_export.emit.graph import WeightNeed
from sdlite_export.source.checkpoint import Checkpoint

ATTENTIONS: tuple[Attention, ...] = ("original", "split_einsum")
CHUNK_BYTES = 1_000_000_000
"""The Neural Engine takes no program with more weights."""
SMALL_BITS = 8
"""Bits of the palettes of everything but the U-Net. On the shapes model text features were off by
16 % with 4 bits, 4 % with 6 and 1 % with 8, decoded pictures by 21 %, 5 % and 1 %."""
SENSITIVE = ("conv_in.", "conv_out.", "time_embedding.", "add_embedding.", "position_embedding.")
"""Parts of the names of weights that get no palette: everything goes through them, and they are
small."""
SCRATCH = "weights.scratch"
SAFETY = "safety_checker"
"""The component that is left out: its vision transformer is not written for Core ML."""


@dataclass(frozen=True)
class CoremlOptions:
    """How a model is written for Core ML."""

    attention: Attention = "original"
    """``original`` (for GPUs) or ``split_einsum`` (head by head, for the Neural Engine)."""
    chunks: bool = False
    """Whether the U-Net is cut into two programs, or as many as keep each under ``CHUNK_BYTES``."""
    palette: int | None = None
    """Bits of the U-Net's palettes, 4, 6 or 8; None stores float16 values."""
    size: tuple[int, int] | None = None
    """Width and height of the pictures in pixels; None is the model's own."""


@dataclass(frozen=True)
class CoremlPlan:
    """A component written down and cut, ready to be built."""

    component: Component
    """The part."""
    tape: Tape
    """Its operations."""
    pieces: Sequence[Piece]
    """Its programs."""
    precision: Precision
    """What it computes in."""
    attention: Attention
    """How its attention is written."""
    bits: int | None
    """Bits of its palettes."""

    @property
    def needs(self) -> Mapping[str, WeightNeed]:
        """Weights by name."""
        return self.tape.weights

    @property
    def size(self) -> int:
        """Bytes its weights take on disk at most."""
        return _bytes(self.tape, self.precision, None)

    @property
    def label(self) -> str:
        """Its precision as the manifest says it."""
        return self.precision if self.bits is None else f"palette{self.bits}"


def check_options(options: CoremlOptions) -> None:
    """Raise ``UnknownName`` for what cannot be."""
    if options.attention not in ATTENTIONS:
        raise UnknownName("attention", options.attention, ATTENTIONS)
    if options.palette is not None and options.palette not in BITS:
        raise UnknownName("palette", str(options.palette), map(str, BITS))


def plan_coreml(checkpoint: Checkpoint, options: CoremlOptions) -> tuple[CoremlPlan, ...]:
    """Write down every component for pictures of the size, and check the checkpoint's tensors.

    Raises ``RequestError`` for a size the model cannot draw, ``SourceError`` for tensors that do
    not fit, ``RuntimeUnavailable`` without coremltools.
    """
    check_options(options)
    coremltools()
    width, height = options.size or (checkpoint.defaults.width, checkpoint.defaults.height)
    factor = checkpoint.latent.factor
    if min(width, height) < factor or width % factor or height % factor:
        raise RequestError(
            f"size {width}x{height}: both sides have to be multiples of {factor} pixels"
        )
    tokens = max(tokenizer.length for tokenizer in checkpoint.tokenizers.values())
    sizes = reference_sizes(width, height, factor, tokens, len(checkpoint.unet.block_channels))
    plans = []
    for component in components(checkpoint):
        if component.name == SAFETY:
            continue
        tape = Tape(sizes)
        component.build(tape, "plain")
        unet = component.name == "unet"
        # Where float16 is too narrow for what flows through, it computes in float32.
        wide = component.name.startswith("vae_") and checkpoint.latent.force_upcast
        precision: Precision = "fp32" if wide else "fp16"
        bits = options.palette if unet or options.palette is None else SMALL_BITS
        count = 1
        if unet and options.chunks:
            count = max(2, ceil(_bytes(tape, precision, bits) / CHUNK_BYTES))
        pieces = tape.pieces(count)
        attention = options.attention if unet else "original"
        plans.append(CoremlPlan(component, tape, pieces, precision, attention, bits))
    wanted = {plan.component.tensors for plan in plans}
    tensors = {name: each for name, each in checkpoint.tensors.items() if name in wanted}
    check_checkpoint(replace(checkpoint, tensors=tensors), plans)
    return tuple(plans)


def write_coreml(
    checkpoint: Checkpoint,
    plan: CoremlPlan,
    folder: Path,
    report: Callable[[int], object],
) -> list[Artifact]:
    """Write the programs of a component into ``folder/<component>`` and describe them.

    ``report`` gets bytes of weights as they are read.
    """
    name = plan.component.name
    tensors = checkpoint.tensors[plan.component.tensors]
    artifacts = []
    for index, piece in enumerate(plan.pieces):
        stem = plan.attention if len(plan.pieces) == 1 else f"{plan.attention}-{index}"
        relative = f"{name}/{stem}.mlpackage"
        scratch = folder / name / SCRATCH
        store = Store(
            tensors, plan.tape.weights, plan.precision, plan.bits, is_sensitive, scratch, report
        )
        program = build(piece, plan.attention, plan.precision, store)
        save(program, folder / relative, f"{checkpoint.name}: {name}", checkpoint.licence.id)
        del program, store
        scratch.unlink(missing_ok=True)
        graph, *files = (
            FileEntry(path, (folder / path).stat().st_size, hash_file(folder / path))
            for path in (f"{relative}/{part}" for part in (MODEL, BLOB, INDEX))
        )
        artifacts.append(
            Artifact(
                component=name,
                format="coreml",
                variant=plan.attention,
                precision=plan.label,
                graph=graph.path,
                graph_size=graph.size,
                graph_sha256=graph.sha256,
                inputs=_inputs(piece, plan.precision),
                outputs=_outputs(piece, plan.precision),
                index=index,
                files=tuple(files),
            )
        )
    return artifacts


def is_sensitive(key: str) -> bool:
    """Whether a weight keeps its values when others get a palette."""
    return any(part in f".{key}" or key.startswith(part) for part in SENSITIVE)


def _bytes(tape: Tape, precision: Precision, bits: int | None) -> int:
    each = bits / 8 if bits is not None else 2 if precision == "fp16" else 4
    return int(each * sum(prod(need.shape) for need in tape.weights.values()))


def _inputs(piece: Piece, precision: Precision) -> tuple[TensorSpec, ...]:
    dtypes = {"float32": "float32", "int64": "int32"}
    whole = (TensorSpec(v.name, dtypes[v.dtype], v.shape) for v in piece.inputs)
    inner = "float16" if precision == "fp16" else "float32"
    return (*whole, *(TensorSpec(v.name, inner, physical(v)) for v in piece.taken))


def _outputs(piece: Piece, precision: Precision) -> tuple[TensorSpec, ...]:
    inner = "float16" if precision == "fp16" else "float32"
    given = (TensorSpec(v.name, inner, physical(v)) for v in piece.given)
    return (*given, *(TensorSpec(name, "float32", v.shape) for name, v in piece.outputs))
