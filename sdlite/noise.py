"""The forward process: how much of the picture is left at each timestep."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sdlite.manifest import NoiseTable

LEAST_ALPHA_BAR = 2.0**-24
"""What zero terminal SNR leaves of the signal's power, so that sigma stays finite (4096), as in
diffusers."""


def alpha_bar(table: NoiseTable) -> npt.NDArray[np.float64]:
    """Share of the signal's power at each timestep, float64 ``(train_steps,)``, falling.

    The products of ``1 - beta`` of Ho et al. 2020; ``scaled_linear`` betas run linearly in their
    square roots. With ``zero_terminal_snr`` the roots are shifted and scaled so that the last one
    vanishes and the first one stays (algorithm 1 of Lin et al. 2024).
    """
    steps = table.train_steps
    if table.kind == "scaled_linear":
        betas = np.linspace(table.beta_start**0.5, table.beta_end**0.5, steps) ** 2
    else:
        betas = np.linspace(table.beta_start, table.beta_end, steps)
    shares: npt.NDArray[np.float64] = np.cumprod(1.0 - betas, dtype=np.float64)
    if table.zero_terminal_snr and steps > 1:
        roots = np.sqrt(shares)
        roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
        shares = np.maximum(roots * roots, LEAST_ALPHA_BAR)
    return shares
