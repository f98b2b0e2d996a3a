"""How often a neuron is active."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuronwise.observe import _kernels
from neuronwise.observe._groups import GROUPS, Floats, jackknife
from neuronwise.observe.activations import Activations, rows_in_cache
from neuronwise.observe.reducer import Reducer

__all__ = ["ActiveFraction"]


class ActiveFraction(Reducer):
    """Fraction of positions where the activation exceeds a threshold; columns ``active`` and ``active_se``.

    Args:
        threshold: A neuron is active where its activation is greater than this.
        absolute: Compare the magnitude instead, for neurons whose activations have both signs, such as gated ones.
    """

    name: ClassVar[str] = "active"

    def __init__(self, threshold: float = 0.0, *, absolute: bool = False) -> None:
        self.threshold = threshold
        self.absolute = absolute
        self._n: Tensor | None = None  # (group, neuron)
        self._active = torch.empty(0)

    @property
    def started(self) -> bool:
        """Whether it has seen any activations."""
        return self._n is not None

    def update(self, activations: Activations) -> None:
        """Take in one batch."""
        rows = activations.rows
        if activations.valid is None and _kernels.usable(rows):
            active = _kernels.count_above(rows, self.threshold, absolute=self.absolute)
        else:
            active = self._count_in_torch(rows, activations.valid)
        if activations.valid is not None:
            n = activations.valid.sum(0).double()
        else:
            n = torch.full((rows.shape[1],), float(len(rows)), dtype=torch.float64, device=rows.device)
        self._allocate(n)
        assert self._n is not None
        group = (activations.batch.block + (activations.batch.number or 0)) % GROUPS
        self._n[group] += n
        self._active[group] += active

    def merge(self, other: Self) -> None:
        """Take in what another has seen."""
        if other._n is not None:
            self._allocate(other._n[0])
            assert self._n is not None
            self._n += other._n
            self._active += other._active

    def result(self) -> Mapping[str, pd.DataFrame]:
        """Return one row a neuron."""
        if self._n is None:
            return {}

        def fraction(n: Floats, active: Floats) -> dict[str, Floats]:
            with np.errstate(invalid="ignore"):
                return {"active": active.sum(-2) / n.sum(-2)}

        values, errors = jackknife(fraction, self._n.cpu().numpy(), self._active.cpu().numpy())
        return {"neurons": pd.DataFrame({"active": values["active"], "active_se": errors["active"]})}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        return {} if self._n is None else {"n": self._n, "active": self._active}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        if state:
            self._n, self._active = state["n"], state["active"]

    def _count_in_torch(self, rows: Tensor, valid: Tensor | None) -> Tensor:
        width = rows.shape[1]
        # Written as 0.0 and 1.0 into a small buffer that is reused, then summed: several times faster than
        # summing bools.
        step = rows_in_cache(rows, 8)  # float32, twice
        buffer = torch.empty((min(step, len(rows)), width), dtype=torch.float32, device=rows.device)
        active = torch.zeros(width, dtype=torch.float64, device=rows.device)
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            flags = torch.gt(
                piece.abs() if self.absolute else piece, self.threshold, out=buffer[: len(piece)]
            )
            if valid is not None:
                flags *= valid[start : start + step]
            active += flags.sum(0)
        return active

    def _allocate(self, like: Tensor) -> None:
        if self._n is None:
            self._n = torch.zeros((GROUPS, len(like)), dtype=torch.float64, device=like.device)
            self._active = torch.zeros_like(self._n)
