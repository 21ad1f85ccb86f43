"""Add a ControlNet, T2I-Adapter or IP-Adapter to a package: its own graphs and weights, and graphs
of the U-Net that take what it says."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

from sdlite import memory
from sdlite.adapterentry import (
    CONTROL,
    EXTENSIONS,
    IMAGE,
    IMAGE_ENCODER,
    AdapterEntry,
    kind_of,
)
from sdlite.choices import PRECISIONS
from sdlite.destination import check_replaceable, package_folder
from sdlite.engine import Artifact
from sdlite.errors import RequestError, UnknownName
from sdlite.manifest import VERSION, Manifest, WeightFile, least_reader
from sdlite.package import Package
from sdlite.tensors.base import Tensors
from sdlite_export.architectures.controlnet import controlnet
from sdlite_export.architectures.ip_adapter import ip_adapter
from sdlite_export.architectures.t2i_adapter import PoolOps, t2i_adapter
from sdlite_export.calibrate import find_engine, read_prompts
from sdlite_export.configs import ControlNetConfig, IPAdapterConfig, T2IAdapterConfig
from sdlite_export.emit.components import (
    WEIGHTS,
    Component,
    Plan,
    plain_graph,
    plan_component,
    reference_sizes,
    write_graphs,
)
from sdlite_export.emit.extend import UnetPlaces, extended, unet_places
from sdlite_export.encoders import ChosenEncoder, choose_encoder, encoder_component
from sdlite_export.export import GRAPH_ALLOWANCE, Progress, write_manifest
from sdlite_export.fits import check_fits
from sdlite_export.narrow import measured_control
from sdlite_export.ops import Ops
from sdlite_export.recipe import Recipe, weights_only
from sdlite_export.source.adapter import AdapterSource, open_adapter
from sdlite_export.weights import check_weights, write_weights

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,79}")
BASES = ("plain", "fused", "segment")
"""Variants of the U-Net that are extended."""
COMBINED = ((CONTROL,), (IMAGE,), (CONTROL, IMAGE))
"""What a U-Net graph may take beside its own inputs."""
LOOKED = {"image_tokens": 16, "states": 257}
"""Sizes that memory is estimated with: tokens of a few pictures, and what CLIP's larger encoders
say of one."""


@dataclass(frozen=True)
class AdapterReport:
    """What was added and what it cost."""

    path: Path
    """The package."""
    name: str
    """What the adapter is called in it."""
    kind: str
    """What it is."""
    precision: str
    """Precision of its stored weights."""
    size: int
    """Bytes of its files, and of the new graphs of the U-Net."""
    seconds: float
    """Wall-clock time."""
    peak_bytes: int | None
    """Largest resident memory of this process so far; None where the system does not say."""
    licence: str
    """Identifier of its licence; ``unknown`` when the source states none."""
    encoder: str = ""
    """Of an IP-Adapter, the component that looks at pictures for it."""


@dataclass(frozen=True)
class _Part:
    """A component to be written."""

    plan: Plan
    tensors: Tensors


def add_adapter(
    source: Path,
    package: Path,
    dest: Path | None = None,
    *,
    precision: str = "fp16",
    name: str | None = None,
    image_encoder: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    calibration: Path | None = None,
) -> AdapterReport:
    """Add an adapter to a package, or to a copy of it; the package is complete at every moment.

    Args:
        source: a diffusers folder or a single file.
        package: the package it is for.
        dest: folder of a new package that has it too; None changes ``package`` itself.
        precision: precision of its stored weights: ``fp16``, ``fp32``, ``w8`` (weights in 8 bits)
            or ``int8``, which for a ControlNet means what layers take in as well, and for the
            others, which are asked once a picture, weights alone; vectors stay float32.
        name: what it is called in requests; that of ``source`` by default.
        image_encoder: of an IP-Adapter, the folder of the network that looks at pictures for it; by
            default one the package has, or the folder ``image_encoder`` beside ``source``.
        force: whether an adapter of that name, or a package at ``dest``, may be replaced.
        progress: told label, bytes done, bytes in all; may raise to stop.
        calibration: text file of prompts to draw while ranges of a ControlNet are measured.

    Raises:
        UnknownName: there is no such precision.
        RuntimeUnavailable: there is no engine to measure ranges with.
        CalibrationFailed: a layer took in numbers that are not finite while they were measured.
        RequestError: it was made for another family or width; or the name is taken or no name; or
            there is no image encoder that fits.
        SourceError: it cannot be read, or is of a kind or layout that is not known.
        PackageError: the package cannot be read.
        OutputError: the folder cannot be written.
    """
    started = time.monotonic()
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    adapter = open_adapter(Path(source))
    measured = precision == "int8" and adapter.kind == "controlnet"
    if measured:
        find_engine()
    elif calibration is not None:
        raise RequestError(
            f"prompts for calibration are for a ControlNet in int8; {adapter.name} is a "
            f"{adapter.kind} in {precision}"
        )
    prompts = None if calibration is None else read_prompts(calibration)
    opened = Package.open(Path(package))
    name = adapter.name if name is None else name
    _check_name(name, opened.manifest, force)
    places = unet_places(opened.weight_file("unet"))
    check_fits(adapter, places, opened.manifest)
    if dest is not None:
        check_replaceable(Path(dest), force)
    component = f"{adapter.kind}/{name}"
    network = _component(component, adapter, opened, places)
    parts = [_part(network, "fp16" if measured else precision, adapter.tensors)]
    encoder = _encoder(adapter, opened, image_encoder, Path(source))
    if encoder is not None and encoder.source is not None:
        look = encoder_component(encoder.component, encoder.source.config)
        parts.append(_part(look, precision, encoder.source.tensors))
    entry = AdapterEntry(
        name=name,
        kind=adapter.kind,
        component=component,
        source=adapter.name,
        sha256=adapter.sha256(),
        licence=adapter.licence.id,
        pooled=isinstance(adapter.config, ControlNetConfig) and adapter.config.pooled,
        encoder="" if encoder is None else encoder.component,
    )
    target = Path(package) if dest is None else Path(dest)
    needed = sum(part.plan.size for part in parts) + GRAPH_ALLOWANCE
    needed += 0 if dest is None else opened.size()
    kept = _without(opened.manifest, entry)
    gone = _components(opened.manifest) - _components(kept)
    with package_folder(target, needed, force=dest is None or force) as folder:
        copy_package(opened, folder, gone, link=dest is None)
        before = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        _add(entry, parts, places, opened, kept, folder, progress)
        if measured:
            recipe = measured_control(
                name, adapter.tensors, folder, parts[0].plan, prompts, progress
            )
            shutil.rmtree(folder / component)
            parts = [_part(network, precision, adapter.tensors, recipe)]
            _add(entry, parts, places, opened, kept, folder, progress)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) - before
    return AdapterReport(
        path=target,
        name=name,
        kind=adapter.kind,
        precision=parts[0].plan.precision,
        size=size,
        seconds=time.monotonic() - started,
        peak_bytes=memory.high_water(),
        licence=adapter.licence.id,
        encoder=entry.encoder,
    )


def _part(
    component: Component, precision: str, tensors: Tensors, recipe: Recipe | None = None
) -> _Part:
    """A component planned; in 8 bits without a ``recipe`` with weights alone in them."""
    if precision in ("w8", "int8"):
        recipe = weights_only(plain_graph(component)) if recipe is None else recipe
        inputs = any(layer.precision == "w8a8" for layer in recipe.layers.values())
        precision = "int8" if inputs else "w8"
    plan = plan_component(component, precision, recipe)
    check_weights(plan.needs, tensors.infos(), component.name)
    return _Part(plan, tensors)


def _encoder(
    adapter: AdapterSource, package: Package, given: Path | None, near: Path
) -> ChosenEncoder | None:
    """What looks at pictures for an IP-Adapter; None for other kinds."""
    if isinstance(adapter.config, IPAdapterConfig):
        return choose_encoder(adapter.name, adapter.config, package, given, near)
    if given is not None:
        raise RequestError(
            f"an image encoder is for IP-Adapters, {adapter.name} is a {adapter.kind}; leave "
            "--image-encoder out"
        )
    return None


def _add(
    entry: AdapterEntry,
    parts: Sequence[_Part],
    places: UnetPlaces,
    package: Package,
    manifest: Manifest,
    folder: Path,
    progress: Progress | None,
) -> None:
    sizes = _sizes(package, places)
    total = sum(part.plan.size for part in parts)
    done = 0
    artifacts = list(manifest.artifacts)
    weights = dict(manifest.weights)
    for part in parts:
        name = part.plan.component.name
        (folder / name).mkdir(parents=True)

        def report(count: int, name: str = name) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(name, done, total)

        file = write_weights(
            folder / name / WEIGHTS,
            part.plan.needs,
            part.plan.entries,
            part.tensors,
            f"{name}/{WEIGHTS}",
            report,
            part.plan.recipe,
        )
        layers = dict(part.plan.recipe.layers)
        weights[name] = WeightFile(file, part.plan.precision, dict(part.plan.entries), layers)
        artifacts += write_graphs(part.plan, folder, sizes)
    adapters = (*manifest.adapters, entry)
    needed = {EXTENSIONS[item.kind] for item in adapters}
    for extensions in COMBINED:
        if needed.issuperset(extensions):
            artifacts += _extended(package, manifest, places, extensions, folder, sizes)
    new = replace(
        manifest,
        version=VERSION,
        artifacts=tuple(artifacts),
        weights=weights,
        adapters=adapters,
    )
    write_manifest(folder, replace(new, reader=least_reader(new)))


def _extended(
    package: Package,
    manifest: Manifest,
    places: UnetPlaces,
    extensions: Sequence[str],
    folder: Path,
    sizes: dict[str, int],
) -> list[Artifact]:
    """Graphs of the U-Net with extensions, unless they are there."""
    made = []
    there = {a.variant for a in manifest.artifacts if a.component == "unet"}
    for variant in BASES:
        if variant not in there or "+".join((variant, *extensions)) in there:
            continue
        graphs = package.find("unet", variant)
        for artifact, data in extended(package.root, graphs, places, extensions, sizes):
            (folder / artifact.graph).write_bytes(data)
            made.append(artifact)
    return made


def _component(
    component: str, adapter: AdapterSource, package: Package, places: UnetPlaces
) -> Component:
    config = adapter.config
    if isinstance(config, IPAdapterConfig):
        look = partial(ip_adapter, config=config, order=places.file_order())
        return Component(component, component, lambda *_: None, BASES[:1], look=look)
    if isinstance(config, T2IAdapterConfig):

        def build(ops: Ops, _: str) -> None:
            # Packages are written in ONNX, whose emitter has what this network needs.
            t2i_adapter(cast(PoolOps, ops), config)

        # A small network that is asked once a picture: one graph does for all memory modes.
        return Component(component, component, build, BASES[:1])
    pooled = None
    if package.manifest.family.startswith("sdxl"):
        specs = package.find("unet", "plain")[0].inputs
        pooled = next(spec.shape[1] for spec in specs if spec.name == "text_embeds")
    return Component(
        component,
        component,
        lambda ops, _: controlnet(ops, config, int(pooled) if pooled else None),
        BASES,
    )


def _sizes(package: Package, places: UnetPlaces) -> dict[str, int]:
    manifest = package.manifest
    sizes = reference_sizes(
        manifest.defaults.width,
        manifest.defaults.height,
        manifest.latent.factor,
        max(tokenizer.length for tokenizer in manifest.tokenizers),
        1 + max(level for _, level in places.skips),
    )
    return sizes | LOOKED


def _check_name(name: str, manifest: Manifest, force: bool) -> None:
    if not NAME.fullmatch(name) or name.endswith((".", " ")):
        raise RequestError(
            f"{name!r} is no name for an adapter; use letters, digits, dots, dashes and spaces, "
            "with --name"
        )
    for entry in manifest.adapters:
        same = entry.name.casefold() == name.casefold()
        if same and not (force and entry.component == f"{entry.kind}/{name}"):
            raise RequestError(
                f"{manifest.name} has an adapter {entry.name!r} already; --force replaces it, "
                "--name gives another name"
            )


def _without(manifest: Manifest, entry: AdapterEntry) -> Manifest:
    """The manifest without an adapter that ``entry`` replaces, and without what only that used."""
    adapters = tuple(item for item in manifest.adapters if item.component != entry.component)
    used = {item.encoder for item in (*adapters, entry)}
    gone = {entry.component} | {
        name for name in manifest.weights if kind_of(name) == IMAGE_ENCODER and name not in used
    }
    return replace(
        manifest,
        artifacts=tuple(a for a in manifest.artifacts if a.component not in gone),
        weights={name: file for name, file in manifest.weights.items() if name not in gone},
        adapters=adapters,
    )


def _components(manifest: Manifest) -> set[str]:
    return {artifact.component for artifact in manifest.artifacts}


def copy_package(package: Package, folder: Path, without: Collection[str], link: bool) -> None:
    """The package's files in a new folder: linked where it takes the old one's place.

    Those of the components ``without`` are left out.
    """
    for entry in package.files():
        if any(entry.path.startswith(f"{component}/") for component in without):
            continue
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        _take(package.path(entry.path), target, link)


def _take(source: Path, target: Path, link: bool) -> None:
    if link:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # a file system without links, or none across its parts
    shutil.copyfile(source, target)
