"""The noise levels a discrete diffusion model was trained at.

The model knows timesteps 0 .. T-1; samplers know sigmas, the standard deviation of the noise in
latents whose clean part is unscaled: ``x = x0 + sigma * noise``. The two are tied by
``sigma**2 = (1 - alpha_bar) / alpha_bar``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdlite.manifest import NoiseTable
from sdlite.noise import alpha_bar
from sdlite.types import Float32


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """Noise levels of a model, one a timestep; continuous in between by log-linear interpolation.

    The interpolation is k-diffusion's ``DiscreteSchedule``.
    """

    sigmas: Float32
    """Sigma of each timestep, rising, shape (train_steps,)."""

    @classmethod
    def from_table(cls, table: NoiseTable) -> NoiseLevels:
        """Levels of the forward process of the table, see ``sdlite.noise.alpha_bar``.

        Products are taken in float64 and ``alpha_bar`` is rounded to float32, as in the checkpoints
        A1111 loads; a float32 product (diffusers) differs by up to 1e-5 of sigma.
        """
        shares = alpha_bar(table).astype(np.float32)
        return cls(np.sqrt((np.float32(1.0) - shares) / shares))

    @property
    def train_steps(self) -> int:
        """Number of timesteps."""
        return len(self.sigmas)

    @property
    def sigma_min(self) -> float:
        """Sigma of timestep 0."""
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """Sigma of the last timestep."""
        return float(self.sigmas[-1])

    def sigma_to_timestep(self, sigma: float) -> float:
        """Timestep of a sigma; between two levels linear in log sigma, outside the nearest end.

        A sigma that is a level gives its timestep exactly.
        """
        if sigma <= self.sigma_min:
            return 0.0
        if sigma >= self.sigma_max:
            return float(self.train_steps - 1)
        low = int(np.searchsorted(self.sigmas, sigma, side="right")) - 1
        log_low, log_high = np.log(self.sigmas[low : low + 2].astype(np.float64))
        return float(low + (np.log(sigma) - log_low) / (log_high - log_low))

    def timestep_to_sigma(self, timestep: float) -> float:
        """Sigma of a timestep, which need not be whole; outside the nearest end."""
        place = min(max(timestep, 0.0), self.train_steps - 1.0)
        low = min(int(place), self.train_steps - 2) if self.train_steps > 1 else 0
        weight = place - low
        if weight == 0.0:
            return float(self.sigmas[low])
        log_low, log_high = np.log(self.sigmas[low : low + 2].astype(np.float64))
        return float(np.exp(log_low + weight * (log_high - log_low)))
