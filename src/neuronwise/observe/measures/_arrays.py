"""What the measures share: checked matrices in float64, class numbers, and work in pieces of some units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neuronwise.errors import DataError, InvalidArgumentError

__all__ = ["by_units", "classes_of", "finite_rows", "matrix", "onehot", "reduced_rows"]

_PIECE = 1 << 22  # entries in float64 that are worked on together: a few such arrays stay below a gigabyte


def matrix(activations: Any) -> Tensor:
    """Return activations as a tensor ``(n, unit)`` of whatever floating type they have.

    Raises:
        DataError: If there is no sample or no unit.
        InvalidArgumentError: If it is no matrix.
    """
    tensor = torch.as_tensor(activations)
    if tensor.dim() != 2:
        raise InvalidArgumentError(
            f"Activations must be a matrix (sample, unit), not of shape {tuple(tensor.shape)}. Positions "
            "are samples of their own, or are averaged first."
        )
    if 0 in tensor.shape:
        raise DataError(f"There is nothing to measure: the activations have shape {tuple(tensor.shape)}.")
    return tensor if tensor.is_floating_point() else tensor.double()


def by_units(function: Callable[[Tensor], Tensor], activations: Any) -> Tensor:
    """Apply a function of ``(n, some units)`` in float64 to a few units at a time, and join the last axes.

    Raises:
        DataError: If an activation is NaN or infinite.
    """
    tensor = matrix(activations)
    step = max(1, _PIECE // tensor.shape[0])
    parts = []
    for piece in torch.split(tensor, step, 1):
        double = piece.double()
        if not torch.isfinite(double).all():
            raise DataError(
                "The activations have values that are NaN or infinite. Drop those samples first: "
                "activations[finite_rows(activations)]."
            )
        parts.append(function(double))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def finite_rows(activations: Any) -> Tensor:
    """Return which samples have no value that is NaN or infinite, bool ``(n,)``."""
    return torch.isfinite(matrix(activations)).all(1)


def reduced_rows(function: Callable[[Tensor], Tensor], activations: Any) -> Tensor:
    """Apply a function of ``(some samples, unit)`` in float64 to a few samples at a time and join what it returns."""
    tensor = matrix(activations)
    step = max(1, _PIECE // tensor.shape[1])
    return torch.cat([function(piece.double()) for piece in torch.split(tensor, step)])


def classes_of(activations: Any, labels: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the labelled samples, their class as a number from 0, and the label of each number.

    Args:
        activations: ``(n, unit)``.
        labels: A whole number for every sample, ``(n,)``; below 0 where there is none.

    Raises:
        InvalidArgumentError: If the labels do not fit, or there are fewer than two classes.
    """
    tensor = matrix(activations)
    numbers = torch.as_tensor(labels, device=tensor.device)
    if numbers.shape != tensor.shape[:1] or numbers.is_floating_point():
        raise InvalidArgumentError(
            f"labels must be {tensor.shape[0]} whole numbers, one for each sample, not {numbers.dtype} of shape "
            f"{tuple(numbers.shape)}."
        )
    known = numbers >= 0
    if not known.all():
        tensor, numbers = tensor[known], numbers[known]
    names, codes = torch.unique(numbers, return_inverse=True)
    if len(names) < 2:
        raise InvalidArgumentError(
            f"The labels have {len(names)} class; what tells classes apart needs at least two."
        )
    return tensor, codes, names


def onehot(codes: Tensor) -> Tensor:
    """Return ``(class, n)``, 1.0 where a sample is of the class."""
    return torch.nn.functional.one_hot(codes).double().T.contiguous()
