"""Mean, standard deviation, skewness and kurtosis, to float64 accuracy in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe import _kernels
from neuronwise.observe._groups import GROUPS, Floats, jackknife, pool
from neuronwise.observe.activations import Activations
from neuronwise.observe.reducer import Reducer

__all__ = ["Moments"]


class Moments(Reducer):
    r"""Moments of every neuron's activation, with standard errors.

    Columns: ``mean``, ``std`` (divisor n - 1) and, from order 3 and 4, ``skewness`` :math:`m_3/m_2^{3/2}` and
    ``kurtosis`` :math:`m_4/m_2^2 - 3` (the excess over a normal distribution; divisor n), each with ``_se``.

    Every batch is shifted by its own first row and summed in float64, turned into central sums, and merged by the
    formulas of Chan et al. and Pebay, so nothing cancels however far the mean is from zero and however it drifts.
    A constant neuron has no skewness and no kurtosis: NaN.

    Args:
        order: Highest moment, 2, 3 or 4.

    Raises:
        InvalidArgumentError: If ``order`` is not 2, 3 or 4.

    Source: T. Chan, G. Golub, R. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979); P. Pebay, SAND2008-6212 (2008). Standard errors: see :mod:`neuronwise.observe._groups`.
    """

    name: ClassVar[str] = "moments"

    def __init__(self, order: int = 4) -> None:
        if order not in (2, 3, 4):
            raise InvalidArgumentError(f"order must be 2, 3 or 4, not {order}.")
        self.order = order
        self._n: Tensor | None = None  # (group, neuron)
        self._mean = torch.empty(0)
        self._central: list[Tensor] = []  # sums of (x - mean)^p for p = 2..order, each (group, neuron)

    @property
    def started(self) -> bool:
        """Whether it has seen any activations."""
        return self._n is not None

    def update(self, activations: Activations) -> None:
        """Take in one batch."""
        rows = activations.rows
        if not len(rows):
            return
        n, mean, central = self._batch(activations)
        self._allocate(rows.shape[1], n.device)
        group = (activations.batch.block + (activations.batch.number or 0)) % GROUPS
        self._absorb(slice(group, group + 1), n[None], mean[None], [part[None] for part in central])

    def merge(self, other: Self) -> None:
        """Take in what another has seen."""
        if other._n is None:
            return
        self._allocate(other._n.shape[1], other._n.device)
        self._absorb(slice(None), other._n, other._mean, other._central)

    def result(self) -> Mapping[str, pd.DataFrame]:
        """Return one row a neuron."""
        if self._n is None:
            return {}
        parts = [part.cpu().numpy() for part in (self._n, self._mean, *self._central)]
        values, errors = jackknife(self._statistics, *parts)
        columns: dict[str, Floats] = {}
        for name, value in values.items():
            columns[name], columns[f"{name}_se"] = value, errors[name]
        return {"neurons": pd.DataFrame(columns)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        if self._n is None:
            return {}
        central = {f"central{power}": part for power, part in enumerate(self._central, 2)}
        return {"n": self._n, "mean": self._mean, **central}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        if state:
            self._n, self._mean = state["n"], state["mean"]
            self._central = [state[f"central{power}"] for power in range(2, self.order + 1)]

    def _batch(self, activations: Activations) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the batch's count, mean and central sums, each ``(neuron,)``."""
        rows = activations.rows
        if activations.valid is None and _kernels.usable(rows):
            shift = activations.shift
            count = torch.full_like(shift, float(len(rows)))
            return _centre(count, shift, _kernels.power_sums(rows, shift, self.order))
        return _centre(*self._batch_in_torch(activations))

    def _batch_in_torch(self, activations: Activations) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the batch's count, the shift, and the sums of powers of the distance to the shift."""
        shift = activations.shift
        sums = [torch.zeros_like(shift) for _ in range(self.order)]
        count = torch.zeros_like(shift)
        for chunk, valid in activations.double_chunks():
            chunk -= shift
            if valid is None:
                count += len(chunk)
            else:
                chunk.masked_fill_(~valid, 0.0)
                count += valid.sum(0)
            sums[0] += chunk.sum(0)
            if self.order == 2:
                chunk *= chunk
                sums[1] += chunk.sum(0)
            else:
                self._higher_sums(chunk, sums)
        return count, shift, sums

    def _higher_sums(self, chunk: Tensor, sums: list[Tensor]) -> None:
        square = chunk * chunk
        sums[1] += square.sum(0)
        chunk *= square
        sums[2] += chunk.sum(0)
        if self.order == 4:
            square *= square
            sums[3] += square.sum(0)

    def _allocate(self, width: int, device: torch.device) -> None:
        if self._n is None:
            zeros = torch.zeros((GROUPS, width), dtype=torch.float64, device=device)
            self._n, self._mean = zeros, zeros.clone()
            self._central = [zeros.clone() for _ in range(self.order - 1)]

    def _absorb(self, where: slice, n: Tensor, mean: Tensor, central: list[Tensor]) -> None:
        """Merge counts, means and central sums into the groups ``where`` (Pebay 2008, pairwise form)."""
        assert self._n is not None
        n_old = self._n[where]
        total = n_old + n
        safe = total.clamp(min=1.0)
        delta = torch.where((n > 0) & (n_old > 0), mean - self._mean[where], torch.zeros_like(mean))
        old = [part[where] for part in self._central]
        product = n_old * n / safe
        new = [old[0] + central[0] + delta**2 * product]
        if self.order >= 3:
            new.append(
                old[1]
                + central[1]
                + delta**3 * product * (n_old - n) / safe
                + 3 * delta * (n_old * central[0] - n * old[0]) / safe
            )
        if self.order == 4:
            new.append(
                old[2]
                + central[2]
                + delta**4 * product * (n_old**2 - n_old * n + n**2) / safe**2
                + 6 * delta**2 * (n_old**2 * central[0] + n**2 * old[0]) / safe**2
                + 4 * delta * (n_old * central[1] - n * old[1]) / safe
            )
        first = n_old == 0
        self._mean[where] = torch.where(first, mean, self._mean[where] + delta * n / safe)
        self._n[where] = total
        for part, value in zip(self._central, new, strict=True):
            part[where] = value

    def _statistics(self, n: Floats, mean: Floats, *central: Floats) -> dict[str, Floats]:
        total, pooled, *sums = pool(n, mean, *central)
        with np.errstate(divide="ignore", invalid="ignore"):
            second = np.maximum(sums[0], 0.0)
            out = {"mean": pooled, "std": np.where(total > 1, np.sqrt(second / (total - 1)), np.nan)}
            # Below this the spread is rounding of the mean, and ratios of it mean nothing.
            noise = total * (np.finfo(np.float64).eps * np.abs(pooled)) ** 2
            variance = np.where(second > noise, second / total, np.nan)
            if self.order >= 3:
                out["skewness"] = (sums[1] / total) / variance**1.5
            if self.order == 4:
                out["kurtosis"] = (sums[2] / total) / variance**2 - 3.0
        return out


def _centre(count: Tensor, shift: Tensor, sums: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Turn sums of powers about ``shift`` into the mean and central sums."""
    safe = count.clamp(min=1.0)
    d = sums[0] / safe  # mean - shift
    central = [sums[1] - count * d**2]
    central[0].clamp_(min=0.0)
    if len(sums) >= 3:
        central.append(sums[2] - 3 * d * sums[1] + 2 * count * d**3)
    if len(sums) == 4:
        central.append(sums[3] - 4 * d * sums[2] + 6 * d**2 * sums[1] - 3 * count * d**4)
    return count, torch.where(count > 0, shift + d, torch.zeros_like(shift)), central
