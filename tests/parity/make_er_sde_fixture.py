"""Make tests/null/fixtures/er_sde.npz: trajectories of ER-SDE-Solver-3 (Cui et al. 2023).

    python tests/parity/make_er_sde_fixture.py PATH/TO/ER-SDE-Solver

Two references that share nothing with sdlite but the model, the noise and the levels:

``exact``    the solution of the paper's linear equation over an interval, written down here: with
             its noise scale phi, x(t) = phi(t)/phi(s) x(s) + phi(t) int_t^s phi'/phi^2 x0 dsigma
             plus noise of variance t^2 - s^2 (phi(t)/phi(s))^2, where x0 is the Taylor polynomial
             of up to three estimates. The integral is taken by Gauss' rule.
``authors``  ``ve_3_order_taylor`` of the authors' program, which integrates by parts and sums the
             lower ends of 100 pieces: the same up to that rule.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

FIXTURES = Path(__file__).parents[1] / "null" / "fixtures"
OUT = FIXTURES / "er_sde.npz"
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)


def denoised(x: np.ndarray, sigma: float) -> np.ndarray:
    """The model of make_sampler_fixtures.py, in float64."""
    return 0.9 * np.tanh(x * 0.81 / (0.81 + sigma * sigma)) + 0.1 * np.sin(x / (1 + sigma))


def phi(sigma):
    """Noise scale 5 of the paper."""
    return sigma * (np.exp(sigma**0.3) + 10)


def integral(power: int, end: float, start: float) -> float:
    """Of ``(s - start)**power phi'/phi^2`` from ``end`` to ``start``, in log s."""
    low, high = np.log(end), np.log(start)
    s = np.exp(low + (NODES + 1) * (high - low) / 2)
    slope = phi(s) / s + 0.3 * s**0.3 * np.exp(s**0.3)
    values = (s - start) ** power * slope / phi(s) ** 2 * s
    return float(values @ WEIGHTS * (high - low) / 2)


def exact(start: np.ndarray, sigmas: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """x after each interval."""
    x, path, seen = start * sigmas[0], [], []
    for i, (s, t) in enumerate(pairwise(sigmas)):
        seen.append((s, denoised(x, s)))
        if t == 0:
            x = seen[-1][1]
        else:
            taylor = [seen[-1][1]]
            if i:
                taylor.append((seen[-1][1] - seen[-2][1]) / (s - seen[-2][0]))
            if i > 1:
                before = (seen[-2][1] - seen[-3][1]) / (seen[-2][0] - seen[-3][0])
                taylor.append((taylor[1] - before) / (s - seen[-3][0]))
            ratio = phi(t) / phi(s)
            x = ratio * x + phi(t) * sum(c * integral(k, t, s) for k, c in enumerate(taylor))
            x = x + noise[i] * np.sqrt(t * t - s * s * ratio * ratio)
        path.append(x)
    return np.stack(path)


def authors(folder: Path, start: np.ndarray, sigmas: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """x at the end."""
    sys.path.insert(0, str(folder))
    import er_sde_solver

    draws = iter(torch.from_numpy(noise))
    times = torch.from_numpy(sigmas)

    def scale(x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(phi(np.asarray(x)))

    er_sde_solver.torch.randn_like = lambda x: next(draws)
    solver = er_sde_solver.ER_SDE_Solver("ve", "x_start")
    x = solver.ve_3_order_taylor(
        lambda x, sigma: torch.from_numpy(denoised(x.numpy(), float(sigma))),
        torch.from_numpy(start * sigmas[0]),
        times,
        times,
        scale,
    )
    return x.numpy()


def main(folder: Path) -> None:
    with np.load(FIXTURES / "samplers.npz") as stored:
        start, noise = stored["start"].astype(float), stored["noise"].astype(float)
        schedules = {name: stored[f"sigmas_{name}"].astype(float) for name in ("karras", "uniform")}
    arrays = {}
    for name, sigmas in schedules.items():
        arrays[f"exact_{name}"] = exact(start, sigmas, noise).astype(np.float32)
        arrays[f"authors_{name}"] = authors(folder, start, sigmas, noise).astype(np.float32)
        apart = np.abs(arrays[f"exact_{name}"][-1] - arrays[f"authors_{name}"]).max()
        print(f"{name}: the authors' rule is off by {apart:.1e}")
    np.savez_compressed(OUT, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
