"""Positions: where along a sequence or image an intervention acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError

__all__ = ["Positions"]


@dataclass(frozen=True)
class Positions:
    """A choice of positions: a slice, whole numbers, or a mask.

    Slices and numbers count along T of an activation without its neuron axis, ``(batch, T)``, or ``(T, batch)``
    where the sequence comes first; negative numbers count from the end. A mask has the whole shape of the activation
    without its neuron axis: ``(batch, T)``, ``(batch,)`` or ``(batch, height, width)``.
    """

    chosen: slice | tuple[int, ...] | Tensor

    @classmethod
    def of(cls, positions: Any) -> Positions | None:
        """Read an argument: None, a whole number, a sequence of them, a slice or a boolean mask.

        Raises:
            InvalidArgumentError: If it is none of these.
        """
        if positions is None:
            return None
        if isinstance(positions, slice):
            return cls(positions)
        is_data = isinstance(positions, int | np.integer | np.ndarray | Tensor | Sequence)
        if not is_data or isinstance(positions, bool | str):
            raise _unreadable(positions)
        data = torch.as_tensor(np.asarray(positions)) if not isinstance(positions, Tensor) else positions
        if data.dtype == torch.bool:
            return cls(data)
        if data.numel() == 0 or data.is_floating_point() or data.is_complex() or data.dim() > 1:
            raise _unreadable(positions)
        return cls(tuple(data.reshape(-1).tolist()))

    def mask(
        self, shape: torch.Size, device: torch.device, *, site: str, sequence_first: bool = False
    ) -> Tensor:
        """Return a boolean mask that broadcasts to an activation's shape without its neuron axis.

        Raises:
            InvalidArgumentError: If the positions do not fit the shape.
        """
        if isinstance(self.chosen, Tensor):
            if self.chosen.shape != shape:
                raise InvalidArgumentError(
                    f"{site}: the mask of positions has shape {tuple(self.chosen.shape)}, the activation "
                    f"without its neuron axis has {tuple(shape)}. Give a boolean mask of that shape."
                )
            return self.chosen.to(device)
        if len(shape) != 2:
            raise InvalidArgumentError(
                f"{site}: positions {self.chosen} need an activation (batch, position, neuron), but without "
                f"its neuron axis this one has shape {tuple(shape)}. Give a boolean mask of that shape."
            )
        length = shape[0 if sequence_first else 1]
        mask = torch.zeros(length, dtype=torch.bool)
        if isinstance(self.chosen, slice):
            mask[list(range(*self.chosen.indices(length)))] = True
        else:
            outside = [at for at in self.chosen if not -length <= at < length]
            if outside:
                raise InvalidArgumentError(
                    f"{site}: position {outside[0]} is outside the {length} positions of this forward pass. "
                    "(With a key-value cache, each generation step has one position only.) Choose positions "
                    f"below {length}, or a slice, which may reach beyond the end."
                )
            mask[list(self.chosen)] = True
        return mask.unsqueeze(1 if sequence_first else 0).to(device)


def _unreadable(positions: Any) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"positions must be a whole number, a sequence of them, a slice or a boolean mask, not {positions!r}."
    )
