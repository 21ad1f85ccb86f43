"""Checkpoint in, package out: graphs and weights written separately, tensor by tensor."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sdlite import __version__, memory
from sdlite.choices import PRECISIONS
from sdlite.destination import check_replaceable, package_folder
from sdlite.engine import Artifact, FileEntry
from sdlite.errors import Cancelled, RequestError, UnknownName
from sdlite.manifest import (
    MANIFEST,
    VERSION,
    Licence,
    Manifest,
    Parity,
    Source,
    Tokenizer,
    WeightFile,
    dump_manifest,
    least_reader,
)
from sdlite_export.calibrate import find_engine, read_prompts
from sdlite_export.emit.components import (
    WEIGHTS,
    Plan,
    check_checkpoint,
    components,
    plain_graph,
    plan_component,
    reference_sizes,
    write_graphs,
)
from sdlite_export.emit.coreml.package import (
    CoremlOptions,
    CoremlPlan,
    check_options,
    plan_coreml,
    write_coreml,
)
from sdlite_export.emit.ir import check_openvino, write_irs
from sdlite_export.narrow import NARROW, measured_recipes
from sdlite_export.narrow import Progress as Progress
from sdlite_export.recipe import Recipe, weights_only
from sdlite_export.source import Checkpoint, Prediction, open_source
from sdlite_export.verify import verify_package
from sdlite_export.weights import write_weights

FORMATS = ("onnx", "openvino", "coreml")
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction")
GRAPH_ALLOWANCE = 16 << 20
"""Bytes kept free for graphs, tokenizer and manifest when disk space is checked."""


@dataclass(frozen=True)
class ExportReport:
    """What an export made and what it cost."""

    path: Path
    """The package."""
    name: str
    """Model name."""
    precision: str
    """Precision of the stored weights."""
    size: int
    """Bytes of all files."""
    sizes: dict[str, int]
    """Bytes of each component's weights."""
    seconds: float
    """Wall-clock time."""
    peak_bytes: int | None
    """Largest resident memory of this process so far; None where the system does not say."""
    licence: str
    """Identifier of the model's licence; ``unknown`` when the source states none."""
    parity: tuple[Parity, ...]
    """Differences between graph variants, measured when an engine was there and it was quick."""
    notes: tuple[str, ...]
    """Decisions of the reader that a user may want to know."""


def export_package(
    source: Path,
    dest: Path,
    *,
    precision: str = "fp16",
    format: str = "onnx",
    force: bool = False,
    name: str | None = None,
    prediction: Prediction | None = None,
    progress: Progress | None = None,
    coreml: CoremlOptions | None = None,
    calibration: Path | None = None,
    search: bool = False,
) -> ExportReport:
    """Export a checkpoint to a package folder that appears complete or not at all.

    Args:
        source: a diffusers folder or a single ``.safetensors``, ``.ckpt``, ``.pt``, ``.bin`` or
            ``.gguf`` file.
        dest: folder to make; an existing package is replaced only with ``force``.
        precision: precision of the stored weights, ``fp16``, ``fp32``, ``int8`` (weights and
            activations of the U-Net and the decoder) or ``w8`` (weights alone); vectors stay
            float32, and sensitive layers ``fp16``.
        format: ``onnx``; ``openvino``, which adds OpenVINO's own graphs over the same weights; or
            ``coreml``, which stores in fp16.
        force: whether to replace a package.
        name: model name; that of the source by default.
        prediction: ``epsilon`` or ``v_prediction``, over what the source says or seems to be.
        progress: told label, bytes done, bytes in all; may raise to stop.
        coreml: how the format ``coreml`` is written; its defaults without.
        calibration: text file of prompts to draw while ranges are measured, one a line.
        search: whether, for ``int8``, each layer is tried alone, which takes a run of the U-Net for
            every layer and sample.

    Raises ``UnknownName`` for a precision or format, ``SourceError`` for a checkpoint that cannot
    be read or does not fit its description, ``OutputError`` when ``dest`` cannot be written,
    ``RequestError`` for options of the other format, ``RuntimeUnavailable`` for ``coreml`` without
    coremltools.
    """
    started = time.monotonic()
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    if prediction is not None and prediction not in PREDICTIONS:
        raise UnknownName("prediction type", prediction, PREDICTIONS)
    if format not in FORMATS:
        raise UnknownName("format", format, FORMATS)
    if format == "coreml":
        coreml = coreml or CoremlOptions()
        if precision != "fp16":
            raise RequestError(f"precision {precision}: Core ML packages are stored in fp16")
        check_options(coreml)
    elif coreml is not None:
        raise RequestError("attention, chunks, palette and size are for the format coreml")
    source, dest = Path(source), Path(dest)
    check_replaceable(dest, force)
    if precision == "int8":
        find_engine()
    elif search:
        raise RequestError(f"a scan of layers is for precision int8, not for {precision}")
    if format == "openvino":
        check_openvino()
    prompts = None if calibration is None else read_prompts(calibration)
    checkpoint = open_source(source, prediction)
    if coreml is not None and checkpoint.safety is not None:
        note = "the safety checker is left out, as packages for Core ML have none"
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, note))
    if coreml is not None and coreml.size is not None:
        width, height = coreml.size
        defaults = replace(checkpoint.defaults, width=width, height=height)
        checkpoint = replace(checkpoint, defaults=defaults)
    plans: Sequence[Plan | CoremlPlan] = (
        plan_package(checkpoint, precision) if coreml is None else plan_coreml(checkpoint, coreml)
    )
    needed = sum(plan.size for plan in plans) + GRAPH_ALLOWANCE
    if format == "openvino":
        needed += max(plan.size for plan in plans)  # what OpenVINO saves, for a while
    if coreml is not None:
        needed += max(plan.size for plan in plans)  # a scratch file
    with package_folder(dest, needed, force=force) as folder:
        manifest = write_package(checkpoint, folder, precision, name, progress, plans)
        if precision == "int8":
            whole = [plan for plan in plans if isinstance(plan, Plan)]
            manifest = narrow_package(
                checkpoint, folder, manifest, whole, prompts, progress, search
            )
        if format == "openvino":
            manifest = write_irs(folder, manifest)
            write_manifest(folder, manifest)
        parity = verify_package(folder, manifest)
        if parity:
            manifest = replace(manifest, parity=parity)
            write_manifest(folder, manifest)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ExportReport(
        path=dest,
        name=manifest.name,
        precision=next(a.precision for a in manifest.artifacts if a.component == "unet"),
        size=size,
        sizes=_sizes(manifest),
        seconds=time.monotonic() - started,
        peak_bytes=memory.high_water(),
        licence=manifest.licence.id,
        parity=parity,
        notes=checkpoint.notes,
    )


def narrow_package(
    checkpoint: Checkpoint,
    folder: Path,
    manifest: Manifest,
    plans: Sequence[Plan],
    prompts: Sequence[str] | None,
    progress: Progress | None,
    search: bool = False,
) -> Manifest:
    """Measure ranges with the package in ``folder``, and write it anew in 8 bits."""
    recipes, facts = measured_recipes(checkpoint, folder, plans, prompts, progress, search)
    for plan in plans:
        shutil.rmtree(folder / plan.component.name)
    again = plan_package(checkpoint, "int8", recipes)
    made = write_package(checkpoint, folder, "int8", manifest.name, progress, again)
    made = replace(made, calibration=facts)
    write_manifest(folder, made)
    return made


def plan_package(
    checkpoint: Checkpoint, precision: str, recipes: Mapping[str, Recipe] | None = None
) -> tuple[Plan, ...]:
    """Build all graphs, place all weights, and check them against the checkpoint's tensors.

    Components without a recipe are stored in ``fp16`` where ``precision`` is one in 8 bits.
    """
    plans = []
    for part in components(checkpoint):
        recipe = (recipes or {}).get(part.name)
        if precision == "w8" and part.name.startswith(NARROW):
            recipe = weights_only(plain_graph(part))
        if recipe is not None:
            whole = any(layer.precision == "w8a8" for layer in recipe.layers.values())
            plans.append(plan_component(part, "int8" if whole else "w8", recipe))
        else:
            plans.append(plan_component(part, "fp32" if precision == "fp32" else "fp16"))
    check_checkpoint(checkpoint, plans)
    return tuple(plans)


def write_package(
    checkpoint: Checkpoint,
    folder: Path,
    precision: str = "fp16",
    name: str | None = None,
    progress: Progress | None = None,
    plans: Sequence[Plan | CoremlPlan] | None = None,
) -> Manifest:
    """Write a package into an empty folder; whoever calls makes that atomic.

    Raises ``SourceError`` for a checkpoint that does not fit its description and ``OutputError``
    when the folder cannot be written.
    """
    if plans is None:
        plans = plan_package(checkpoint, precision)
    total = sum(plan.size for plan in plans)
    done = 0
    defaults, latent = checkpoint.defaults, checkpoint.latent
    sizes = reference_sizes(
        defaults.width,
        defaults.height,
        latent.factor,
        max(tokenizer.length for tokenizer in checkpoint.tokenizers.values()),
        len(checkpoint.unet.block_channels),
    )
    artifacts: list[Artifact] = []
    weights: dict[str, WeightFile] = {}
    with _hashing(checkpoint) as digest:
        for plan in plans:
            part = plan.component.name
            (folder / part).mkdir()

            def report(count: int, part: str = part) -> None:
                nonlocal done
                done += count
                if progress is not None:
                    progress(part, min(done, total), total)

            if isinstance(plan, CoremlPlan):
                artifacts += write_coreml(checkpoint, plan, folder, report)
                continue
            artifacts += write_graphs(plan, folder, sizes)
            entry = write_weights(
                folder / part / WEIGHTS,
                plan.needs,
                plan.entries,
                checkpoint.tensors[plan.component.tensors],
                f"{part}/{WEIGHTS}",
                report,
                plan.recipe,
            )
            layers = dict(plan.recipe.layers)
            weights[part] = WeightFile(entry, plan.precision, dict(plan.entries), layers)
        source = Source(checkpoint.kind, checkpoint.name, digest())
    manifest = Manifest(
        version=VERSION,
        reader=VERSION,
        name=name or checkpoint.name,
        family=checkpoint.family,
        prediction=checkpoint.prediction,
        noise=checkpoint.noise,
        latent=latent,
        tokenizers=_tokenizers(checkpoint, folder),
        defaults=defaults,
        licence=_licence(checkpoint, folder),
        source=source,
        exporter=__version__,
        artifacts=tuple(artifacts),
        weights=weights,
        task=checkpoint.task,
        force_zeros_for_empty_prompt=checkpoint.force_zeros_for_empty_prompt,
        low_res=checkpoint.low_res,
    )
    manifest = replace(manifest, reader=least_reader(manifest))
    write_manifest(folder, manifest)
    return manifest


def _sizes(manifest: Manifest) -> dict[str, int]:
    sizes = {part: weights.file.size for part, weights in manifest.weights.items()}
    for artifact in manifest.artifacts:
        if artifact.files:
            sizes[artifact.component] = sizes.get(artifact.component, 0) + artifact.size
    return sizes


@contextmanager
def _hashing(checkpoint: Checkpoint) -> Iterator[Callable[[], str]]:
    """Hash the source in a thread of its own, beside converting and writing.

    Gives a callable that waits for the hash. A body that fails does not wait for it.
    """
    failed = threading.Event()

    def check(_: int) -> None:
        if failed.is_set():
            raise Cancelled("the export ended before its source was hashed")

    with ThreadPoolExecutor(1, thread_name_prefix="source-hash") as pool:
        digest = pool.submit(checkpoint.sha256, check)
        try:
            yield digest.result
        except BaseException:
            failed.set()
            raise


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``sdlite.json``."""
    (folder / MANIFEST).write_text(dump_manifest(manifest), encoding="utf-8", newline="\n")


def _store(folder: Path, relative: str, data: bytes) -> FileEntry:
    path = folder / relative
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return FileEntry(relative, len(data), hashlib.sha256(data).hexdigest())


def _tokenizers(checkpoint: Checkpoint, folder: Path) -> tuple[Tokenizer, ...]:
    """One for each text encoder; two that hold the same are stored once."""
    made: list[Tokenizer] = []
    stored: dict[str, FileEntry] = {}
    for component, tokenizer in checkpoint.tokenizers.items():
        name = component.replace("text_encoder", "tokenizer")
        files = []
        for file, data in sorted(tokenizer.files.items()):
            key = f"{file} {hashlib.sha256(data).hexdigest()}"
            if key not in stored:
                stored[key] = _store(folder, f"{name}/{file}", data)
            files.append(stored[key])
        numbers = (tokenizer.length, tokenizer.bos, tokenizer.eos, tokenizer.pad)
        made.append(Tokenizer(name, "clip", tuple(files), *numbers))
    return tuple(made)


def _licence(checkpoint: Checkpoint, folder: Path) -> Licence:
    licence = checkpoint.licence
    if licence.text is None:
        return Licence(licence.id)
    return Licence(licence.id, _store(folder, "LICENSE.txt", licence.text.encode()))
