"""Gradient times activation, which is attribution patching where the reference is another run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.problem import Problem
from neuronwise.sites import Site

__all__ = ["GradientTimesActivation"]


@dataclass(frozen=True)
class GradientTimesActivation(Method):
    """First order: ``(w_i - r_i) * dF/dw_i`` at what the neurons are; one forward and one backward pass for all layers.

    With the activations of a counterfactual prompt as reference it is attribution patching (Nanda 2023), the linear
    estimate of what patching each neuron would do. It vanishes where the target saturates: take a log probability or a
    difference of logits.
    """

    name: ClassVar[str] = "gradient_x_activation"

    def scores(self, problem: Problem, reference: Mapping[Site, Tensor]) -> Scores:
        """Return the scores of every neuron."""
        slopes = {site: slope[:, 0] for site, slope in problem.along_input().gradients.items()}
        return Scores.plain(
            {
                site: (w.double() - reference[site].double()) * slopes[site].double()
                for site, w in problem.activations.items()
            }
        )
