"""MonoScore: whether the samples that a unit fires for look alike to another encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.measures._arrays import by_units, matrix

__all__ = ["linear_monoscore", "monoscore"]


def monoscore(activations: Any, embeddings: Any) -> Tensor:
    r"""Return the similarity of the samples a unit fires for, weighted by how much it does, ``(unit,)``, -1 to 1.

    :math:`\sum_{i<j} \tilde a_i\tilde a_j \cos(E_i, E_j) / \sum_{i<j} \tilde a_i\tilde a_j`, where :math:`\tilde a`
    is a unit's activation scaled to 0 to 1 over the samples; computed in the exact linear form of
    :func:`linear_monoscore`. NaN for a unit that does not change, or fires for one sample only.

    Needs embeddings of the samples, and by a *different* encoder: with the model's own it measures the model by itself.
    No labels. Blind to what the encoder does not tell apart; a unit that fires for everything scores the mean
    similarity of all samples, which is seldom 0, so compare with that.

    Args:
        activations: ``(n, unit)``.
        embeddings: ``(n, dimension)``, none of them 0.

    Raises:
        InvalidArgumentError: If the embeddings do not fit or one is 0.

    Source: arXiv 2504.02821, Eqs. 5-9.
    """
    tensor = matrix(activations)
    directions = torch.as_tensor(embeddings, device=tensor.device).double()
    if directions.dim() != 2 or len(directions) != len(tensor):
        raise InvalidArgumentError(
            f"embeddings must be a matrix with {len(tensor)} rows, one for each sample, not of shape "
            f"{tuple(directions.shape)}."
        )
    length = directions.norm(dim=1, keepdim=True)
    if not bool((length > 0).all()) or not bool(torch.isfinite(length).all()):
        raise InvalidArgumentError(
            "An embedding is 0 or not finite, so it has no direction. Leave its sample out."
        )
    directions = directions / length

    def measure(a: Tensor) -> Tensor:
        low, high = a.amin(0), a.amax(0)
        scaled = (a - low) / torch.where(high > low, high - low, torch.nan)
        return linear_monoscore(scaled, directions)

    return by_units(measure, tensor)


def linear_monoscore(scaled: Tensor, directions: Tensor) -> Tensor:
    r"""Return the score of weights that are not negative and directions of length 1, ``(unit,)``; differentiable.

    :math:`(\|\sum_i \tilde a_i E_i\|^2 - \sum_i \tilde a_i^2) / ((\sum_i \tilde a_i)^2 - \sum_i \tilde a_i^2)`: one
    product of matrices where the sum over pairs is quadratic in the samples.

    Args:
        scaled: ``(n, unit)``.
        directions: ``(n, dimension)``.
    """
    own = scaled.square().sum(0)
    pairs = scaled.sum(0).square() - own
    alike = (scaled.T @ directions).square().sum(1) - own
    # One active sample has no pair: what rounding leaves of 1 - 1 is no score.
    return alike / torch.where(pairs > 1e-12 * own, pairs, torch.nan)
