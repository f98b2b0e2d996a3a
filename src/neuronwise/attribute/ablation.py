"""Exact ablation: what is lost when one neuron alone is at its reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.problem import Group, Problem
from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import NeuronSet, Site

__all__ = ["Ablation"]

# Of the memory, how much the values of one block of rows may take: they are copied when they are put in place.
_SHARE = 4


@dataclass(frozen=True)
class Ablation(Method):
    """``F(w) - F(w with w_i <- r_i)``: the change by each neuron at each position alone.

    With r = 0 it is single-neuron ablation, with the activations of another prompt activation patching. It is also what
    the formula printed in Dai et al. (2022, equation 3) says, where the integral telescopes, and the measure that the
    estimates can be compared with. No gradients; one row a neuron and position through the layers above it, so it is
    for small models or few neurons. Two neurons that can stand in for each other both get little: see the joint path.

    Args:
        among: Score these neurons only; the others get NaN.

    Raises:
        InvalidArgumentError: If ``among`` is empty.
    """

    name: ClassVar[str] = "ablation"

    among: NeuronSet | None = None

    def __post_init__(self) -> None:
        if self.among is not None and not len(self.among):
            raise InvalidArgumentError("among holds no neuron, so there is nothing to ablate.")

    def scores(self, problem: Problem, reference: Mapping[Site, Tensor]) -> Scores:
        """Return the scores of every neuron."""
        return Scores.plain({site: self._of_site(problem, reference[site], site) for site in problem.sites})

    def _of_site(self, problem: Problem, reference: Tensor, site: Site) -> Tensor:
        """Return the scores at one site, ``(example, position, neuron)``, float64."""
        actual = problem.activations[site]
        wanted = wanted_neurons(self.among, site)
        scores = torch.zeros(actual.shape, dtype=torch.float64)
        scores[:, :, ~wanted] = torch.nan
        scores[~problem.valid(site)] = 0.0
        spots = (problem.valid(site).unsqueeze(-1) & wanted).nonzero()  # (row, 3): example, position, neuron
        per_row = actual[0].numel() * actual.element_size() * _SHARE
        for part in torch.split(spots, max(1, problem.memory // per_row)):
            examples, positions, neurons = part.unbind(1)
            rows = torch.arange(len(part))
            values = actual[examples].clone()
            values[rows, positions, neurons] = reference[examples, positions, neurons]
            (found,) = problem.evaluate([Group(examples, {site: values})], gradients=False)
            lost = problem.value[examples].double() - found.value.double()
            scores[examples, positions, neurons] = lost.cpu()
        return scores


def wanted_neurons(among: NeuronSet | None, site: Site) -> Tensor:
    """Return which neurons of a site are among some, bool ``(neuron,)``; all of them for None."""
    if among is None:
        return torch.ones(site.width, dtype=torch.bool)
    chosen = torch.zeros(site.width, dtype=torch.bool)
    chosen[torch.from_numpy(among.indices(site))] = True
    return chosen
