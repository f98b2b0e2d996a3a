"""Conductance: what flows through a neuron on the way from a start input to the input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.problem import AlongInput, Problem
from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import Site

__all__ = ["Conductance"]


@dataclass(frozen=True, eq=False)
class Conductance(Method):
    """``integral of dF/dy_i * dy_i/da da`` along the path x' + a (x - x') of the *input* (Dhamdhere et al. 2018).

    https://arxiv.org/abs/1805.12233. Over steps of the path it is the sum of the mean of the gradient at both ends,
    times what the activation changes by (the trapezoid rule: the error falls as 1 / steps**2). One forward and one
    backward pass a step for all sites together. The neurons' reference is not zero, but what they are at the start
    input.

    The gap is the sum of a site's scores less F(x) - F(x'). It must vanish (as the steps grow) where everything that
    the input does to the target passes through the site at the positions scored: a whole layer of a plain network. It
    need not where something passes beside it: the residual stream passes by every feed-forward layer of a transformer.

    Where a norm follows the input at once (the RMSNorm of Llama and T5), the network turns within a hair's breadth of a
    start at zero, which no number of steps resolves: give another start, such as the mean embedding, for such models.

    Args:
        steps: Number of steps.
        start: The start input, a number or a tensor that broadcasts: of the floating-point inputs or, where there are
            none (token ids), of the output of the input embedding.

    Raises:
        InvalidArgumentError: If ``steps`` is less than 1.
    """

    name: ClassVar[str] = "conductance"
    takes_reference: ClassVar[bool] = False

    steps: int = 32
    start: float | Tensor = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InvalidArgumentError(f"steps must be at least 1, not {self.steps}.")

    def scores(self, problem: Problem, reference: Mapping[Site, Tensor]) -> Scores:
        """Return the scores of every neuron, with the gap of every site."""
        points = np.linspace(0, 1, self.steps + 1)
        totals = {site: torch.zeros_like(w, dtype=torch.float64) for site, w in problem.activations.items()}
        first = torch.zeros(problem.count, dtype=torch.float64)
        last: AlongInput | None = None
        for number, chunk in enumerate(parts(problem, points)):
            found = problem.along_input(chunk, self.start)
            if number == 0:
                first = found.value[:, 0].double().cpu()
            for site, total in totals.items():
                values, slopes = found.activations[site].double(), found.gradients[site].double()
                if last is not None:
                    values = torch.cat([last.activations[site][:, -1:].double(), values], 1)
                    slopes = torch.cat([last.gradients[site][:, -1:].double(), slopes], 1)
                total += ((slopes[:, 1:] + slopes[:, :-1]) / 2 * values.diff(dim=1)).sum(1)
            last = found
        change = problem.value.double().cpu() - first
        sums = torch.stack([total.sum((1, 2)).cpu() for total in totals.values()])
        return Scores(
            totals,
            paths=[(site,) for site in problem.sites],
            start=first.expand(len(totals), -1).clone(),
            gap=sums - change,
            nodes=torch.full(sums.shape, self.steps + 1),
            converged=torch.ones(sums.shape, dtype=torch.bool),
        )


def parts(problem: Problem, points: np.ndarray) -> Iterator[list[float]]:
    """Yield the points in pieces whose activations and gradients fit into the problem's memory."""
    held = 2 * sum(w.numel() * w.element_size() for w in problem.activations.values())
    size = max(1, problem.memory // max(held, 1))
    for at in range(0, len(points), size):
        yield points[at : at + size].tolist()
