"""What comparisons with whole pipelines put into diffusers'."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float32]


def inject_schedule(scheduler: Any, sigmas: Floats, times: Floats) -> None:
    """Have a scheduler use these noise levels and timesteps, however many steps it is told."""
    usual = scheduler.set_timesteps

    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        usual(*args, **kwargs)
        scheduler.sigmas = torch.from_numpy(sigmas.copy())
        scheduler.timesteps = torch.from_numpy(times.copy())

    scheduler.set_timesteps = set_timesteps
