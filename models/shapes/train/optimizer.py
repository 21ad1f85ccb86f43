"""Muon for matrices, AdamW for the rest.

Muon (Jordan et al. 2024) takes the momentum of a weight matrix to the nearest matrix with all
singular values alike before it steps, so that directions which matter rarely are learned as fast
as the others. A convolution is a matrix of output channels by everything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from parallel import Team

MOMENTUM = 0.95
SCALE = 0.2
"""Root mean square of an update, as AdamW's is, so that rates are of one kind (Liu et al. 2025)."""
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """The matrix with its singular values brought near one, by Newton and Schulz's iteration.

    All rounds are done on the small square of the matrix: a polynomial of it is the factor.
    """
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    square = x @ x.T
    one = torch.eye(len(square), dtype=x.dtype, device=x.device)
    factor = one
    for _ in range(rounds):
        step = a * one + b * square + c * square @ square
        factor = step @ factor
        square = step @ square @ step
    x = factor @ x
    return x.T if tall else x


class Optimizer:
    """Both of them over one network.

    Args:
        named: names and parameters, float32.
        rate: peak learning rate of the matrices.
        other: peak learning rate of the rest.
        decay: weight decay of the matrices.
        apart: parts of names whose matrices go to AdamW: the first and last layers.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, torch.nn.Parameter]],
        rate: float,
        other: float,
        decay: float,
        apart: tuple[str, ...],
    ) -> None:
        pairs = list(named)
        self._rate, self._other, self._decay = rate, other, decay
        self._matrices = [
            p for name, p in pairs if p.ndim > 1 and not any(part in name for part in apart)
        ]
        mine = {id(p) for p in self._matrices}
        rest = [p for _, p in pairs if id(p) not in mine]
        self._momenta = [torch.zeros_like(p) for p in self._matrices]
        self._adam = torch.optim.AdamW(
            rest, lr=other, betas=(0.9, 0.99), weight_decay=0, fused=True
        )

    @torch.no_grad()
    def step(self, factor: float, team: Team | None = None) -> None:
        """Step with the peak rates times `factor`, and drop the gradients.

        The processes of a team, whose gradients are alike, share the work.
        """
        for group in self._adam.param_groups:
            group["lr"] = self._other * factor
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        rank, count = (team.rank, team.count) if team else (0, 1)
        updates = []
        for index, (p, momentum) in enumerate(zip(self._matrices, self._momenta, strict=True)):
            assert p.grad is not None
            momentum.lerp_(p.grad, 1 - MOMENTUM)
            if index % count == rank:
                ahead = p.grad.lerp(momentum, MOMENTUM).flatten(1)
                updates.append(orthogonal(ahead) * (count * SCALE * max(ahead.shape) ** 0.5))
            else:
                updates.append(torch.zeros_like(p))
            p.grad = None
        if team:
            team.mean(updates)
        rate = self._rate * factor
        for p, update in zip(self._matrices, updates, strict=True):
            p.mul_(1 - rate * self._decay)
            p.add_(update.view_as(p), alpha=-rate)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"momenta": self._momenta, "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for mine, kept in zip(self._momenta, state["momenta"], strict=True):
            mine.copy_(kept)
        self._adam.load_state_dict(state["adam"])
