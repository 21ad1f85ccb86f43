"""``sdlite.load``: from a model's name to a pipeline on this machine."""

from __future__ import annotations

from pathlib import Path

from sdlite import registry, trial
from sdlite.choices import CACHE_LIMIT
from sdlite.engines import formats_of, takes_openvino
from sdlite.foreign import is_foreign, open_foreign
from sdlite.hardware import describe
from sdlite.home import compiled_folder, find_model, folders
from sdlite.package import Package
from sdlite.pipeline import Pipeline
from sdlite.planner import Budget, Preferences
from sdlite.weights.vae import COMPONENTS as VAE
from sdlite.weights.vae import open_vae


def load(
    model: str | Path = "shapes",
    *,
    threads: int | None = None,
    precision: str | None = None,
    max_memory: int | None = None,
    max_vram: int | None = None,
    memory_mode: str = "auto",
    runtime: str | None = None,
    device: str | None = None,
    vae_tiles: int | None = None,
    cache_limit: int | None = CACHE_LIMIT,
    vae: str | Path | None = None,
) -> Pipeline:
    """Open a model; close it with ``with`` or ``Pipeline.close``.

    Args:
        model: name of a model in the model folders, or the path of a package, of an ONNX folder
            made by optimum or diffusers, of an OpenVINO folder made by optimum-intel, or of Core ML
            resources made by Apple's tools.
        threads: compute threads; None is the number of physical cores.
        precision: what to compute in, ``fp32``, ``bf16`` or ``fp16``; None takes what is fastest on
            the device without visible cost.
        max_memory: bytes of main memory the run may take; None leaves it to the machine.
        max_vram: bytes of a GPU's own memory it may take; None leaves it to the device.
        memory_mode: ``auto``, ``normal`` (fastest) or ``mapped`` (weights stay in their file).
        runtime: engine, e.g. ``"onnxruntime"``; None takes the fastest known for the model.
        device: device within the engine, e.g. ``"cpu"``.
        vae_tiles: tiles the autoencoder works in, which needs less memory and gives the same
            pictures; 1 is the whole picture, None as memory allows.
        cache_limit: bytes that graphs compiled for this machine may take in the cache folder, least
            recently used ones go first; 0 keeps none, None does not limit them.
        vae: file or diffusers folder of an autoencoder to use instead of the model's own.

    Raises:
        UnknownName: no such model, engine or device.
        PackageError: the package is damaged.
        RuntimeUnavailable: no engine can be used here; says what to install.
        SourceError: the VAE cannot be read.
        RequestError: the VAE is not like the model's.
    """
    path = find_model(model)
    package = open_foreign(path) if is_foreign(path) else Package.open(path)
    trial.keep_in(folders().cache)
    if device is not None:
        registry.check_device(device, runtime)
    other = None if vae is None else open_vae(Path(vae), package)
    return Pipeline(
        package,
        registry.devices(
            runtime,
            formats_of(package),
            first=not (takes_openvino(package) or device or precision),
        ),
        Budget(max_memory=max_memory, max_vram=max_vram),
        Preferences(
            runtime=runtime,
            device=device,
            precision=precision,
            memory_mode=memory_mode,
            vae_tiles=vae_tiles,
            threads=describe().physical_cores if threads is None else threads,
            cache=None if cache_limit == 0 else compiled_folder(),
            cache_limit=cache_limit,
            replaced=frozenset() if other is None else frozenset(VAE),
        ),
        other,
    )
