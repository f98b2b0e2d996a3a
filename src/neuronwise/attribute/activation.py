"""The activation itself: the baseline that every other score must beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.problem import Problem
from neuronwise.sites import Site

__all__ = ["Activation"]


@dataclass(frozen=True)
class Activation(Method):
    """What the neuron is, less its reference: ``w_i - r_i``. It knows nothing of the target; one forward pass."""

    name: ClassVar[str] = "activation"

    def scores(self, problem: Problem, reference: Mapping[Site, Tensor]) -> Scores:
        """Return the activations."""
        return Scores.plain(
            {site: w.double() - reference[site].double() for site, w in problem.activations.items()}
        )
