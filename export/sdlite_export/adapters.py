"""Add a ControlNet or T2I-Adapter to a package: its own graphs and weights, and graphs of the U-Net
that take what it says."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from sdlite import memory
from sdlite.adapterentry import CONTROL, AdapterEntry
from sdlite.choices import WHOLE_PRECISIONS
from sdlite.destination import check_replaceable, package_folder
from sdlite.engine import Artifact
from sdlite.errors import RequestError, UnknownName
from sdlite.manifest import (
    VERSION,
    Manifest,
    WeightFile,
    least_reader,
)
from sdlite.package import Package
from sdlite_export.architectures.controlnet import controlnet
from sdlite_export.architectures.t2i_adapter import PoolOps, t2i_adapter
from sdlite_export.configs import ControlNetConfig, T2IAdapterConfig
from sdlite_export.emit.components import (
    WEIGHTS,
    Component,
    Plan,
    plan_component,
    reference_sizes,
    write_graphs,
)
from sdlite_export.emit.extend import UnetPlaces, extended, unet_places
from sdlite_export.export import (
    GRAPH_ALLOWANCE,
    Progress,
    write_manifest,
)
from sdlite_export.ops import Ops
from sdlite_export.source.adapter import AdapterSource, open_adapter
from sdlite_export.source.layout import skip_widths
from sdlite_export.weights import check_weights, write_weights

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,79}")
EXTENSIONS = {"controlnet": CONTROL, "t2i-adapter": CONTROL}
"""What kinds of adapter need of the U-Net."""
BASES = ("plain", "fused", "segment")
"""Variants of the U-Net that are extended."""


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


def add_adapter(
    source: Path,
    package: Path,
    dest: Path | None = None,
    *,
    precision: str = "fp16",
    name: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> AdapterReport:
    """Add an adapter to a package, or to a copy of it; the package is complete at every moment.

    Args:
        source: a diffusers folder or a single file.
        package: the package it is for.
        dest: folder of a new package that has it too; None changes ``package`` itself.
        precision: precision of its stored weights, ``fp16`` or ``fp32``; vectors stay float32.
        name: what it is called in requests; that of ``source`` by default.
        force: whether an adapter of that name, or a package at ``dest``, may be replaced.
        progress: told label, bytes done, bytes in all; may raise to stop.

    Raises:
        UnknownName: there is no such precision.
        RequestError: it was made for another family or width; or the name is taken or no name.
        SourceError: it cannot be read, or is of a kind or layout that is not known.
        PackageError: the package cannot be read.
        OutputError: the folder cannot be written.
    """
    started = time.monotonic()
    if precision not in WHOLE_PRECISIONS:
        raise UnknownName("precision", precision, WHOLE_PRECISIONS)
    adapter = open_adapter(Path(source))
    opened = Package.open(Path(package))
    name = adapter.name if name is None else name
    _check_name(name, opened.manifest, force)
    places = unet_places(opened.weight_file("unet"))
    _check_fits(adapter, places, opened.manifest)
    if dest is not None:
        check_replaceable(Path(dest), force)
    component = f"{adapter.kind}/{name}"
    plan = plan_component(_component(component, adapter, opened), precision)
    check_weights(plan.needs, adapter.tensors.infos(), adapter.name)
    target = Path(package) if dest is None else Path(dest)
    needed = plan.size + GRAPH_ALLOWANCE + (0 if dest is None else opened.size())
    with package_folder(target, needed, force=dest is None or force) as folder:
        copy_package(opened, folder, (component,), link=dest is None)
        manifest = _without(opened.manifest, component)
        before = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        _add(adapter, name, component, plan, places, opened, manifest, folder, precision, progress)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) - before
    return AdapterReport(
        path=target,
        name=name,
        kind=adapter.kind,
        precision=precision,
        size=size,
        seconds=time.monotonic() - started,
        peak_bytes=memory.high_water(),
        licence=adapter.licence.id,
    )


def _add(
    adapter: AdapterSource,
    name: str,
    component: str,
    plan: Plan,
    places: UnetPlaces,
    package: Package,
    manifest: Manifest,
    folder: Path,
    precision: str,
    progress: Progress | None,
) -> None:
    sizes = _sizes(package, places)
    (folder / component).mkdir(parents=True)
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(component, done, plan.size)

    entry = write_weights(
        folder / component / WEIGHTS,
        plan.needs,
        plan.entries,
        adapter.tensors,
        f"{component}/{WEIGHTS}",
        report,
    )
    artifacts = [*manifest.artifacts, *write_graphs(plan, folder, sizes)]
    artifacts += _extended(package, manifest, places, EXTENSIONS[adapter.kind], folder, sizes)
    added = AdapterEntry(
        name=name,
        kind=adapter.kind,
        component=component,
        source=adapter.name,
        sha256=adapter.sha256(),
        licence=adapter.licence.id,
        pooled=isinstance(adapter.config, ControlNetConfig) and adapter.config.pooled,
    )
    new = replace(
        manifest,
        version=VERSION,
        artifacts=tuple(artifacts),
        weights={**manifest.weights, component: WeightFile(entry, precision, dict(plan.entries))},
        adapters=(*manifest.adapters, added),
    )
    write_manifest(folder, replace(new, reader=least_reader(new)))


def _extended(
    package: Package,
    manifest: Manifest,
    places: UnetPlaces,
    extension: str,
    folder: Path,
    sizes: dict[str, int],
) -> list[Artifact]:
    """Graphs of the U-Net with an extension, unless they are there."""
    made = []
    there = {a.variant for a in manifest.artifacts if a.component == "unet"}
    for variant in BASES:
        if variant not in there or f"{variant}+{extension}" in there:
            continue
        graphs = package.find("unet", variant)
        for artifact, data in extended(package.root, graphs, places, (extension,), sizes):
            (folder / artifact.graph).write_bytes(data)
            made.append(artifact)
    return made


def _component(component: str, adapter: AdapterSource, package: Package) -> Component:
    config = adapter.config
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
    return reference_sizes(
        manifest.defaults.width,
        manifest.defaults.height,
        manifest.latent.factor,
        max(tokenizer.length for tokenizer in manifest.tokenizers),
        1 + max(level for _, level in places.skips),
    )


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


def _check_fits(adapter: AdapterSource, places: UnetPlaces, manifest: Manifest) -> None:
    """Compare the adapter's numbers with the model's."""
    facts: tuple[tuple[str, object, object], ...]
    if isinstance(adapter.config, T2IAdapterConfig):
        made = tuple(zip(adapter.config.channels, adapter.config.levels, strict=True))
        *levels, middle = (*(places.skips[end] for end in places.ends), places.skips[-1])
        # Those for SDXL give one for the middle too.
        whole = (*levels, middle) if len(made) > len(levels) else tuple(levels)
        facts = (("features of {} channels (and halvings)", _pairs(made), _pairs(whole)),)
    else:
        config = adapter.config.unet
        ours = [channels for channels, _ in places.skips]
        facts = (
            ("text features {} wide", config.cross_dim, places.cross_dim),
            ("skips of {} channels", _brief(skip_widths(config)), _brief(ours)),
            ("pooled text and sizes {} wide", config.label_dim or 0, places.label_dim or 0),
            ("latents of {} channels", config.in_channels, manifest.latent.channels),
        )
    for words, theirs_, ours_ in facts:
        if theirs_ != ours_:
            raise RequestError(
                f"{adapter.name} was made for {words.format(theirs_)}, {manifest.name} "
                f"({manifest.family}) has {ours_}: it is for another model family; "
                "give one made for this family"
            )


def _pairs(places: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{channels} ({level})" for channels, level in places)


def _brief(widths: Sequence[int]) -> str:
    return ", ".join(map(str, widths))


def _without(manifest: Manifest, component: str) -> Manifest:
    """The manifest without an adapter that is replaced."""
    return replace(
        manifest,
        artifacts=tuple(a for a in manifest.artifacts if a.component != component),
        weights={name: file for name, file in manifest.weights.items() if name != component},
        adapters=tuple(entry for entry in manifest.adapters if entry.component != component),
    )


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
