"""Internal influence: how strongly a neuron acts on the target on the way from a start input to the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuronwise.attribute.conductance import parts
from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.problem import Problem
from neuronwise.attribute.quadrature import quadrature
from neuronwise.sites import Site

__all__ = ["InternalInfluence"]


@dataclass(frozen=True, eq=False)
class InternalInfluence(Method):
    """``integral of dF/dy_i da`` along the path x' + a (x - x') of the *input* (Leino et al. 2018).

    https://arxiv.org/abs/1802.03788. The mean gradient: how the target would answer to the neuron, whatever the neuron
    does. There is no factor of the activation, so the scores add up to nothing in particular.

    Args:
        rule: The quadrature, a name in ``neuronwise.attribute.RULES``.
        nodes: Its number of nodes.
        start: The start input, a number or a tensor that broadcasts; see :class:`Conductance`.

    Raises:
        InvalidArgumentError: If there is no such rule, or too few nodes for it.
    """

    name: ClassVar[str] = "internal_influence"
    takes_reference: ClassVar[bool] = False

    rule: str = "gauss_legendre"
    nodes: int = 16
    start: float | Tensor = 0.0

    def __post_init__(self) -> None:
        quadrature(self.rule, self.nodes)

    def scores(self, problem: Problem, reference: Mapping[Site, Tensor]) -> Scores:
        """Return the scores of every neuron."""
        points, weights = quadrature(self.rule, self.nodes)
        totals = {site: torch.zeros_like(w, dtype=torch.float64) for site, w in problem.activations.items()}
        done = 0
        for chunk in parts(problem, points):
            found = problem.along_input(chunk, self.start)
            share = torch.from_numpy(weights[done : done + len(chunk)])
            for site, total in totals.items():
                slopes = found.gradients[site].double()
                total += torch.einsum("ekpn,k->epn", slopes, share.to(slopes.device))
            done += len(chunk)
        return Scores.plain(totals, nodes=self.nodes)
