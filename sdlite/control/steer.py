"""Control networks opened beside a U-Net for one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

from sdlite.adapterentry import CONTROL, extension_of, find_adapter
from sdlite.calls import Predictor
from sdlite.control.hints import hint_of
from sdlite.control.network import (
    ControlledUnet,
    Network,
    Speaker,
    features_of,
    residual_names,
    residual_specs,
)
from sdlite.control.scales import layer_scales, with_scales
from sdlite.controls import Control
from sdlite.engine import Session
from sdlite.manifest import Manifest
from sdlite.plans import Plan
from sdlite.ports import ControlNetPort, UnetPort
from sdlite.types import Conditions, Float32, Request


def components_of(controls: Sequence[Control], manifest: Manifest) -> tuple[str, ...]:
    """Components of the networks that completed controls need, each once."""
    entries = [find_adapter(manifest.adapters, c.name) for c in controls if c.weight != 0]
    names = (name for entry in entries for name in (entry.encoder, entry.component) if name)
    return tuple(dict.fromkeys(names))


def is_steered(components: Sequence[str]) -> bool:
    """Whether control networks are asked beside the U-Net."""
    return CONTROL in extension_of(components)


def steer(
    session: Session,
    conditions: Conditions,
    sigmas: Float32,
    request: Request,
    manifest: Manifest,
    chosen: Plan,
    use: Callable[[str], AbstractContextManager[Session]],
    opened: ExitStack,
) -> tuple[Predictor, Conditions]:
    """A U-Net that follows pictures, and what it is told.

    Args:
        session: a graph of the U-Net that takes what control networks say.
        conditions: what is drawn at a noise level.
        sigmas: levels of the run, n+1 entries.
        request: completed.
        manifest: of the package.
        chosen: the plan of the run.
        use: opens a component.
        opened: closes what was opened when the run is over.
    """
    unet, shape = chosen.placement("unet"), chosen.shape
    # The package's own description: a session may have fixed its sizes.
    specs = residual_specs([spec for artifact in unet.artifacts for spec in artifact.inputs])
    names = residual_names(specs)
    # Those that are no image prompts and not turned off by a weight of 0.
    controls = [
        control for control in request.controls if is_steered(components_of([control], manifest))
    ]
    speakers: list[Speaker] = []
    scales = []
    for control in controls:
        entry = find_adapter(manifest.adapters, control.name)
        hint = hint_of(control, (shape.width, shape.height), unet.device)
        adapter = entry.kind == "t2i-adapter"
        if adapter:
            with use(entry.component) as open_adapter:
                speakers.append(features_of(open_adapter, hint))
        else:
            port = ControlNetPort(opened.enter_context(use(entry.component)))
            speakers.append(Network(names, port, hint, entry.pooled))
        scales.append(layer_scales(control, len(speakers[-1].names), entry.pooled, adapter))
    return (
        ControlledUnet(UnetPort(session), speakers, specs),
        with_scales(conditions, sigmas, controls, scales),
    )
