"""How different samples look to a site, and how different its units are."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.measures._arrays import by_units, matrix

__all__ = ["Gram", "decorrelation"]

#: Which products are looked at: those of *samples* (rows) or of *features* (units).
Gram = Literal["sample", "feature"]


def decorrelation(activations: Any, *, gram: Gram = "sample") -> Tensor:
    """Return how little samples, or units, have in common, ``()``.

    * ``gram="sample"``: 1 less the mean cosine between two samples, 0 to about 1 (to 2 in theory). What DecPO rewards
      and calls decorrelation of features. Blind to the units: a rotation of them changes nothing, so it says nothing of
      any basis; a common offset brings it to 0.
    * ``gram="feature"``: 1 less the root mean square correlation between two units, 0 to 1. Constant units are left
      out. Blind to dependence that is not linear.

    Needs no labels.

    Args:
        activations: ``(n, unit)``.
        gram: Which products.

    Raises:
        InvalidArgumentError: If ``gram`` is neither.

    Source: arXiv 2406.17969 (DecPO).
    """
    tensor = matrix(activations)
    if gram == "sample":
        # The sum of all cosines is the squared length of the sum of unit vectors: linear in the samples.
        length = tensor.double().norm(dim=1, keepdim=True)
        some = length[:, 0] > 0
        n = int(some.sum())
        together = (tensor[some].double() / length[some]).sum(0).square().sum()
        return 1.0 - (together - n) / (n * (n - 1)) if n > 1 else torch.tensor(torch.nan, dtype=torch.float64)
    if gram != "feature":
        raise InvalidArgumentError(f"gram must be 'sample' or 'feature', not {gram!r}.")
    scaled = by_units(_standardised, tensor)
    scaled = scaled[:, torch.isfinite(scaled[0])]
    width = scaled.shape[1]
    if width < 2:
        return torch.tensor(torch.nan, dtype=torch.float64)
    # The squared entries of Z'Z and of ZZ' have the same sum; take the smaller.
    gram_matrix = scaled.T @ scaled if width <= scaled.shape[0] else scaled @ scaled.T
    squares = (gram_matrix.square().sum() - width).clamp(min=0.0)
    return 1.0 - (squares / (width * (width - 1))).sqrt()


def _standardised(a: Tensor) -> Tensor:
    away = a - a.mean(0)
    length = away.norm(dim=0)
    noise = a.abs().amax(0) * 1e-12 * a.shape[0] ** 0.5
    return away / torch.where(length > noise, length, torch.nan)
