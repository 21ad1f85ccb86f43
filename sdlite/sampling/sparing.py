"""Asking the model less often: its answers in between are forecast from the ones before.

Step caching of whole calls. What is forecast is the estimate of the clean latents, guidance
included, and the forecast is its last value: on the model that ships, extrapolating it with
polynomials of first and second order (Taylor and Lagrange, over log sigma, sigma or the timestep)
was worse at every budget, and so was computing a shallow part of the U-Net in between (DeepCache,
Ma et al. 2023), which costs more; docs/speed.md has the figures.

Two rules decide when to ask. The distance between two answers is at most a number of steps that
grows along the run, because a picture is composed early. And an error estimate asks sooner: from
how fast the estimate of the clean latents moved between the last two answers follows how far off
the forecast may be, and with the length of the interval how far it moves the latents.

Every picture of a batch is decided on alone, so that it is the same as without the others.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from sdlite.errors import RequestError
from sdlite.profiles import Profile
from sdlite.types import Array, Denoise, Estimate, Float32

_X0, _UNCOND, _METER = "x0", "x0_uncond", "meter"
_RATE, _ERROR, _LEVEL, _PLACE = range(4)


class Sparing:
    """A denoiser that asks another one only where a profile says so.

    Args:
        denoise: what is asked. Each of its conds has one item.
        sigmas: levels of the run, n+1 of them, falling.
        profile: how often to ask.
        changes: steps, counted from 0, in which something else is drawn than before: there it is
            asked anew.
        cache: ``cache`` of a run that is gone on with.
        shape: of the latents, ``(images, channels, height, width)``, which a cache must fit.

    Raises:
        RequestError: the cache is not of this run.
    """

    def __init__(
        self,
        denoise: Denoise,
        sigmas: Float32,
        profile: Profile,
        shape: tuple[int, ...],
        changes: Collection[int] = (),
        cache: Mapping[str, Array] | None = None,
    ) -> None:
        self._denoise = denoise
        self._levels = [float(sigma) for sigma in sigmas]
        self._starts = -np.asarray(self._levels[:-1])
        self._profile = profile
        self._changes = sorted(changes)
        self.computed = 0
        """Answers of the model so far, each picture's counted alone."""
        self.forecast = 0
        """Answers that were forecast instead."""
        self._x0: Float32 | None = None
        self._uncond: Float32 | None = None
        self._meter = np.zeros((4, shape[0]))
        if cache is not None and profile.forecasts:
            self._restore(cache, shape)

    def _restore(self, cache: Mapping[str, Array], shape: tuple[int, ...]) -> None:
        wanted = {_X0: shape, _UNCOND: shape, _METER: self._meter.shape}
        if not {_X0, _METER} <= cache.keys() <= wanted.keys():
            raise RequestError(
                "cannot resume: the state holds no answer of the model to forecast from; "
                "it was not saved with this profile"
            )
        for name, value in cache.items():
            if value.shape != wanted[name]:
                raise RequestError(
                    f"cannot resume: the model's last answer in the state has shape {value.shape}, "
                    f"this run needs {wanted[name]}"
                )
        self._x0, self._meter = cache[_X0], np.asarray(cache[_METER], np.float64)
        self._uncond = cache.get(_UNCOND)

    @property
    def cache(self) -> dict[str, Array]:
        """What going on from here needs: the last answers and what is known of their error."""
        if self._x0 is None:
            return {}
        cache: dict[str, Array] = {_X0: self._x0, _METER: self._meter}
        return cache if self._uncond is None else {**cache, _UNCOND: self._uncond}

    def __call__(self, x: Float32, sigma: float) -> Estimate:
        """The estimate at a level: a new one, or that from before, picture by picture."""
        if not self._profile.forecasts:
            self.computed += len(x)
            return self._denoise(x, sigma)
        place = max(int(np.searchsorted(self._starts, -sigma, side="right")) - 1, 0)
        level = -math.log(sigma)
        if self._x0 is None:
            return self._first(x, sigma, place, level)
        meter = self._meter.copy()
        share = 1.0 - self._levels[place + 1] / self._levels[place]
        error = meter[_RATE] * np.maximum(level - meter[_LEVEL], 0.0) * share
        asked = self._due(place, meter[_PLACE])
        asked |= meter[_ERROR] + error > self._profile.tolerance
        meter[_ERROR] += error
        found = np.flatnonzero(asked)
        if len(found):
            self._ask(x, sigma, found, meter)
            meter[_ERROR, found] = 0.0
            meter[_LEVEL, found] = level
            meter[_PLACE, found] = place
        self._meter = meter
        self.computed += len(found)
        self.forecast += len(x) - len(found)
        return Estimate(self._x0, self._uncond)

    def _first(self, x: Float32, sigma: float, place: int, level: float) -> Estimate:
        found = self._denoise(x, sigma)
        self._x0, self._uncond = found.x0, found.x0_uncond
        self._meter = np.zeros((4, len(x)))
        self._meter[_LEVEL], self._meter[_PLACE] = level, place
        self.computed += len(x)
        return found

    def _due(self, place: int, last: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Whether so many steps have passed, or something else is drawn by now."""
        count = len(self._levels) - 1
        gap = np.array([self._profile.gap(place, count) for place in last])
        # Samplers that ask twice a step are not to take the first answer for the second.
        due: npt.NDArray[np.bool_] = (gap <= 1) | (place - last >= gap) | (place < last)
        for step in self._changes:
            due |= (last < step) & (step <= place)
        return due

    def _ask(
        self,
        x: Float32,
        sigma: float,
        found: npt.NDArray[np.intp],
        meter: npt.NDArray[np.float64],
    ) -> None:
        assert self._x0 is not None
        whole = len(found) == len(x)
        new = self._denoise(x if whole else x[found], sigma)
        moved = (new.x0 - self._x0[found]).reshape(len(found), -1).astype(np.float64)
        distance = -math.log(sigma) - meter[_LEVEL, found]
        speed = np.sqrt((moved**2).mean(1)) / np.where(distance > 0.0, distance, np.inf)
        meter[_RATE, found] = np.where(distance > 0.0, speed, meter[_RATE, found])
        without = self._uncond if new.x0_uncond is None else new.x0_uncond
        if without is None or (whole and new.x0_uncond is None):
            self._uncond = None
        else:
            # Where guidance does nothing, the answer without the prompt is the answer.
            base = self._x0 if self._uncond is None else self._uncond
            self._uncond = _put(base, found, new.x0 if new.x0_uncond is None else new.x0_uncond)
        self._x0 = _put(self._x0, found, new.x0)


def _put(old: Float32, places: npt.NDArray[np.intp], new: Float32) -> Float32:
    """A copy with some items replaced; earlier answers stay as they were handed out."""
    if len(places) == len(old):
        return new
    whole = old.copy()
    whole[places] = new
    return whole
