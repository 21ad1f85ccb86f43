"""What to give up when memory runs out, or a component gives no numbers, in the middle of a run.

Each rung is tried once, in this order, when it can help the component that failed and goes against
nothing that was asked for by name: the autoencoder in tiles, one item a U-Net call, components
closed after use, a narrower precision, weights left in their file, another device. For values that
are not finite: a wider precision for that component, another device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from sdlite.errors import EngineError, NotFinite, OutOfMemory, RequestError
from sdlite.plans import Plan, Preferences, Relief
from sdlite.tiles import AUTOENCODER

log = logging.getLogger("sdlite.ladder")

Failure = OutOfMemory | NotFinite | MemoryError
FAILURES = (OutOfMemory, NotFinite, MemoryError)
"""What a rung may help against."""
TILES = 16
"""Least tiles of an autoencoder that did not fit whole."""
WIDTHS = ("fp16", "bf16", "fp32")
"""Precisions by range and size, narrowest first. bf16 has the range of fp32."""


class Ladder:
    """The rungs of one run.

    Args:
        replan: makes the plans of all stages anew with a relief.
        preferences: what the user asked for.
    """

    def __init__(
        self, replan: Callable[[Relief], tuple[Plan, ...]], preferences: Preferences
    ) -> None:
        self.relief = preferences.relief
        self.steps: list[str] = []
        """What was done, one sentence each."""
        self.wider: tuple[tuple[str, str], ...] = self.relief.precisions
        """Components computed in a wider precision, because they gave no numbers in theirs."""
        self._replan = replan
        self._preferences = preferences
        self._tried: set[str] = set()

    def down(
        self, plans: Sequence[Plan], stage: int, error: Failure, component: str
    ) -> tuple[Plan, ...] | None:
        """Plans to go on with, or None when no rung is left.

        Args:
            plans: of all stages, as they were.
            stage: the one that failed.
            error: how.
            component: what ran, where the error does not say.
        """
        failed = plans[stage]
        component = error.component if isinstance(error, EngineError) else component
        if all(item.component != component for item in failed.placements):
            return None
        for name, relief, said in self._rungs(failed, component, isinstance(error, NotFinite)):
            if name in self._tried:
                continue
            self._tried.add(name)
            try:
                made = self._replan(relief)
            except RequestError as refused:
                log.info("%s would help, but: %s", name, refused)
                continue
            if _runs(made[stage], component) == _runs(failed, component):
                continue
            self.relief = relief
            if isinstance(error, NotFinite):
                self.wider = relief.precisions
            device = failed.placement(component).device
            how = "gave values that are not finite"
            if not isinstance(error, NotFinite):
                how = "ran out of memory"
            step = f"{component} on {device.runtime} {device.name} {how}; went on with {said}"
            log.warning("%s", step)
            self.steps.append(step)
            return made
        return None

    def _rungs(
        self, failed: Plan, component: str, not_finite: bool
    ) -> Iterator[tuple[str, Relief, str]]:
        """Name, what it changes, and how it is told."""
        wishes, relief = self._preferences, self.relief
        if not not_finite:
            if component in AUTOENCODER and wishes.vae_tiles is None:
                yield "tiles", replace(relief, tiles=TILES), "the autoencoder in tiles"
            if component == "unet" and failed.call_batch > 1:
                told = "one item a call"
                if failed.call_batch == 2 and failed.shape.guided:
                    told = "prompt and negative prompt in two calls"
                yield "calls", replace(relief, items=1), told
            if failed.resident:
                yield "close", replace(relief, closed=True), "components closed after use"
        precision = self._precision(failed, component, not_finite)
        if precision is not None:
            others = tuple(item for item in relief.precisions if item[0] != component)
            precisions = (*others, (component, precision))
            told = f"{component} computed in {precision}"
            yield f"{component} {precision}", replace(relief, precisions=precisions), told
        if not not_finite and failed.memory_mode == "normal" and wishes.memory_mode == "auto":
            yield "mapped", replace(relief, mapped=True), "weights left in their file"
        if wishes.runtime is None and wishes.device is None:
            device = failed.placement("unet").device
            without = (*relief.without, (device.runtime, device.name))
            yield f"not {without[-1]}", replace(relief, without=without), "another device"

    def _precision(self, failed: Plan, component: str, wider: bool) -> str | None:
        """The next precision of the device that is wider, or narrower; None when there is none."""
        placement = failed.placement(component)
        there = placement.device.precisions
        if self._preferences.precision is not None:
            return None
        now = WIDTHS.index(placement.options.precision or there[0])
        if wider:
            # Straight to the widest: what overflows once may do so again.
            widest = max(WIDTHS.index(name) for name in there)
            return WIDTHS[widest] if widest > now else None
        narrower = [name for name in WIDTHS[:now] if name in there]
        return narrower[-1] if narrower else None


def _runs(plan: Plan, component: str) -> object:
    """What of a plan decides whether a component fits."""
    placement = plan.placement(component)
    return (
        placement.artifacts,
        placement.device,
        placement.options,
        placement.tiles,
        plan.call_batch,
        plan.resident,
    )
