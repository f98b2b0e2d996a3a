"""What the weights alone say: how much of a dimension a direction has for itself, and the bias proxy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.measures._arrays import matrix

__all__ = ["capacity", "weight_proxy"]


def capacity(directions: Any) -> Tensor:
    r"""Return :math:`D_i = \|w_i\|^2 / \sum_j (\hat w_i \cdot w_j)^2` of every direction, ``(direction,)``, 0 to 1.

    The share of a dimension that a feature has for itself (*dimensionality*; *capacity* is the same number). The sum
    over all directions is at most their rank. NaN for a direction that is 0. Needs no labels, but the directions of
    features; with the weights that read into neurons it says how much *neurons* overlap. Blind to whether features
    occur together: overlap is harmless between features that never do.

    Args:
        directions: ``(direction, dimension)``.

    Source: Elhage et al., "Toy models of superposition" (2022); Scherlis et al. (arXiv 2210.01892).
    """
    weights = matrix(directions).double()
    # The Gram matrix of the fewer of rows and columns is enough: (w_i . w_j)^2 summed over j is w_i' (W'W) w_i.
    norm = weights.square().sum(1)
    if weights.shape[1] <= weights.shape[0]:
        overlap = ((weights @ (weights.T @ weights)) * weights).sum(1)
    else:
        overlap = (weights @ weights.T).square().sum(1)
    return norm.square() / torch.where(overlap > 0, overlap, torch.nan)


def weight_proxy(weights: Any, bias: Any) -> Tensor:
    r"""Return :math:`b_i \|w_i\|` of every neuron, ``(neuron,)``.

    In the toy model, with weights of length 1, n features on a unit give
    :math:`\cos(2\pi/n)/(\cos(2\pi/n) - 1)`: 1/3 for three, 0 for four, below -6 for twelve, so *lower means more
    features*. Needs biases and no labels. Blind to what the unit sees: it is not free of scale, and where inputs have
    another scale, or a normalisation comes before, the comparison between models says nothing.

    Args:
        weights: What reads into every neuron, ``(neuron, dimension)``.
        bias: ``(neuron,)``.

    Raises:
        InvalidArgumentError: If there is not one bias a neuron.
    """
    rows = matrix(weights).double()
    offsets = torch.as_tensor(bias, dtype=torch.float64, device=rows.device)
    if offsets.shape != rows.shape[:1]:
        raise InvalidArgumentError(
            f"bias must have one number for each of {len(rows)} neurons, not shape {tuple(offsets.shape)}."
        )
    return offsets * rows.square().sum(1).sqrt()
