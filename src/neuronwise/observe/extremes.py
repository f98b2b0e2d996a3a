"""The lowest and the highest activation of every neuron."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import pandas as pd
import torch
from torch import Tensor

from neuronwise.observe.activations import Activations
from neuronwise.observe.reducer import Reducer

__all__ = ["Extremes"]


class Extremes(Reducer):
    """Minimum and maximum over all finite activations; columns ``min`` and ``max``, exact under any split."""

    name: ClassVar[str] = "extremes"

    def __init__(self) -> None:
        self._min: Tensor | None = None
        self._max: Tensor | None = None

    @property
    def started(self) -> bool:
        """Whether it has seen any activations."""
        return self._min is not None

    def update(self, activations: Activations) -> None:
        """Take in one batch."""
        self._absorb(activations.lowest.amin(0), activations.highest.amax(0))

    def merge(self, other: Self) -> None:
        """Take in what another has seen."""
        if other._min is not None and other._max is not None:
            self._absorb(other._min, other._max)

    def result(self) -> Mapping[str, pd.DataFrame]:
        """Return one row a neuron."""
        if self._min is None or self._max is None:
            return {}
        # A neuron that never had a finite value has neither minimum nor maximum.
        seen = self._min <= self._max
        low, high = (torch.where(seen, t.double(), torch.nan).cpu().numpy() for t in (self._min, self._max))
        return {"neurons": pd.DataFrame({"min": low, "max": high})}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        return {} if self._min is None or self._max is None else {"min": self._min, "max": self._max}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        self._min, self._max = state.get("min"), state.get("max")

    def _absorb(self, low: Tensor, high: Tensor) -> None:
        self._min = low if self._min is None else torch.minimum(self._min, low)
        self._max = high if self._max is None else torch.maximum(self._max, high)
