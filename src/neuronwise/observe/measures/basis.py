"""The same activations in another basis: is it the neurons that are special, or any direction?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.measures._arrays import matrix

__all__ = ["principal_directions", "random_directions", "turned"]


def random_directions(width: int, count: int | None = None, *, seed: int = 0) -> Tensor:
    """Return orthonormal directions drawn evenly from all, float64 ``(width, direction)``.

    Args:
        width: Number of units.
        count: Number of directions; default: as many as units, which is a rotation (or a reflection).
        seed: Seed of the draw.

    Raises:
        InvalidArgumentError: If there cannot be so many.
    """
    number = width if count is None else count
    if not 1 <= number <= width:
        raise InvalidArgumentError(f"count must be from 1 to the {width} units, not {number}.")
    draw = np.random.default_rng(seed).standard_normal((width, number))
    q, r = torch.linalg.qr(torch.from_numpy(draw))
    directions: Tensor = q * torch.sign(torch.diagonal(r))  # without the signs, QR does not draw evenly
    return directions


def principal_directions(activations: Any, count: int | None = None, *, seed: int = 0) -> Tensor:
    """Return the directions of largest variance, largest first, float64 ``(unit, direction)``.

    Args:
        activations: ``(n, unit)``; not used further than for the directions, so give samples of their own.
        count: Number of directions; default: as many as there can be.
        seed: Seed of the approximate decomposition that scikit-learn chooses for large matrices.

    Raises:
        InvalidArgumentError: If there cannot be so many.
    """
    from sklearn.decomposition import PCA

    tensor = matrix(activations)
    most = min(tensor.shape)
    number = most if count is None else count
    if not 1 <= number <= most:
        raise InvalidArgumentError(f"count must be from 1 to {most}, not {number}.")
    fitted = PCA(number, random_state=seed).fit(tensor.detach().cpu().numpy())
    return torch.from_numpy(np.ascontiguousarray(fitted.components_.T)).to(tensor.device, torch.float64)


def turned(activations: Any, directions: Tensor) -> Tensor:
    """Return the activations along some directions, ``(n, direction)``, each signed so that its long tail is positive.

    A direction has no sign of its own. Without this rule, measures that look at large values only (detection,
    selectivity) would see half of the directions upside down, and the neurons would win for that reason alone.
    """
    tensor = matrix(activations)
    values = tensor.to(directions.dtype) @ directions.to(tensor.device)
    away = values - values.mean(0)
    return values * torch.where(away.pow(3).sum(0) < 0, -1.0, 1.0)
