"""A histogram of every neuron's activation whose range need not be known before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.activations import Activations, rows_in_cache
from neuronwise.observe.reducer import Reducer

__all__ = ["Histogram"]

_FINEST = -40  # bins are at least 2**-40 wide: below that, activations count as equal


class Histogram(Reducer):
    """Counts of activations in bins of equal width, exact, and the same however the stream is split.

    A neuron's bins are ``[i w, (i + 1) w)`` with ``w`` a power of two. When an activation falls outside the ``bins``
    bins there are, neighbours are joined, which doubles ``w``; because all bins lie on one grid, the outcome depends
    only on the smallest and largest activation seen. Table ``histogram``: ``neuron``, ``left``, ``right``, ``count``,
    bins that hold something only.

    Args:
        bins: Greatest number of bins a neuron. The range seen takes about half of them or more, unless that would need
            bins finer than float32 tells activations of that size apart: a constant neuron has one bin, and one whose
            mean is large against its spread has few.

    Raises:
        InvalidArgumentError: If ``bins`` is less than 2.
    """

    name: ClassVar[str] = "histogram"

    def __init__(self, bins: int = 64) -> None:
        if bins < 2:
            raise InvalidArgumentError(f"A histogram needs at least 2 bins, not {bins}.")
        self.bins = bins
        self._counts: Tensor | None = None  # (neuron, bin), int64
        self._exponent = torch.empty(0)  # (neuron,) int64: the width is 2**exponent
        self._first = torch.empty(0)  # (neuron,) int64: number of the lowest bin on the grid

    @property
    def started(self) -> bool:
        """Whether it has seen any activations."""
        return self._counts is not None

    def update(self, activations: Activations) -> None:
        """Take in one batch."""
        low, high = activations.lowest.amin(0).double(), activations.highest.amax(0).double()
        if self._counts is None:
            self._counts = torch.zeros((len(low), self.bins), dtype=torch.int64, device=low.device)
            self._exponent = torch.full((len(low),), _FINEST, device=low.device)
            self._first = torch.zeros_like(self._exponent)
        self._cover(low, high, self._exponent)
        self._count(activations)

    def merge(self, other: Self) -> None:
        """Take in what another has seen."""
        if other._counts is None:
            return
        if self._counts is None:
            self._counts, self._exponent, self._first = other._counts, other._exponent, other._first
            return
        self._cover(*other._edges(), other._exponent)
        other._rebin(self._exponent, self._first)
        self._counts += other._counts

    def result(self) -> Mapping[str, pd.DataFrame]:
        """Return one row for every bin that holds something."""
        if self._counts is None:
            return {}
        neuron, place = np.nonzero(self._counts.cpu().numpy())
        width = np.ldexp(1.0, self._exponent.cpu().numpy()[neuron].astype(np.int64))
        left = (self._first.cpu().numpy()[neuron] + place) * width
        count = self._counts.cpu().numpy()[neuron, place]
        return {
            "histogram": pd.DataFrame({"neuron": neuron, "left": left, "right": left + width, "count": count})
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        if self._counts is None:
            return {}
        return {"counts": self._counts, "exponent": self._exponent, "first": self._first}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        if state:
            self._counts, self._exponent, self._first = state["counts"], state["exponent"], state["first"]

    def _count(self, activations: Activations) -> None:
        assert self._counts is not None
        rows, valid = activations.rows, activations.valid
        width = rows.shape[1]
        scale = torch.ldexp(torch.ones_like(self._exponent, dtype=rows.dtype), -self._exponent)
        offset = torch.arange(width, device=rows.device) * self.bins - self._first
        flat = self._counts.view(-1)
        # In pieces that stay in a core's cache: several times faster than whole arrays of bin numbers.
        step = rows_in_cache(rows, 16)  # float32 twice, int64
        ones = torch.ones(min(step, len(rows)) * width, dtype=torch.int64, device=rows.device)
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            # A product with a power of two is exact, so no activation lands in the wrong bin; only a tiny negative one
            # can vanish, and must not count as 0.
            index = (piece * scale).floor_()
            index -= ((piece < 0) & (index == 0)).to(index.dtype)
            if valid is None:
                places = (index.long() + offset).view(-1)
            else:
                keep = valid[start : start + step]
                places = (torch.where(keep, index, 0.0).long() + offset)[keep]
            flat.scatter_add_(0, places, ones[: len(places)])

    def _fit(self, low: Tensor, high: Tensor) -> Tensor:
        """Return the least exponent with which ``low`` and ``high`` lie within ``bins`` bins of the grid."""
        span = (high - low).clamp(min=2.0**_FINEST)
        exponent = torch.floor(torch.log2(span / self.bins)).clamp(min=_FINEST).long()
        # bin numbers must stay exact integers in the activations' float32
        magnitude = torch.maximum(low.abs(), high.abs()).clamp(min=2.0**_FINEST)
        exponent = torch.maximum(exponent, torch.ceil(torch.log2(magnitude)).long() - 23)
        for _ in range(3):
            first, last = (torch.floor(torch.ldexp(t, -exponent)) for t in (low, high))
            exponent = exponent + (last - first >= self.bins).long()
        return exponent

    def _cover(self, low: Tensor, high: Tensor, coarsest: Tensor) -> None:
        """Join bins until the values from ``low`` to ``high`` fit too; neurons with ``low`` > ``high`` bring none."""
        own_low, own_high = self._edges()
        low, high = torch.minimum(low, own_low), torch.maximum(high, own_high)
        nothing = low > high
        low, high = (torch.where(nothing, torch.zeros_like(t), t) for t in (low, high))
        exponent = torch.maximum(self._fit(low, high), torch.maximum(self._exponent, coarsest))
        self._rebin(exponent, torch.floor(torch.ldexp(low, -exponent)).long())

    def _rebin(self, exponent: Tensor, first: Tensor) -> None:
        """Move the counts to coarser (or equal) bins that start at bin ``first`` of the grid."""
        assert self._counts is not None
        which = ((exponent != self._exponent) | (first != self._first)).nonzero()[:, 0]
        if len(which):
            steps = (exponent - self._exponent)[which].unsqueeze(1)
            places = torch.arange(self.bins, device=which.device) + self._first[which].unsqueeze(1)
            places = (places >> steps.clamp(max=62)) - first[which].unsqueeze(1)
            old = self._counts[which]  # the places outside hold nothing: they are clamped only to stay legal
            self._counts[which] = torch.zeros_like(old).scatter_add_(1, places.clamp(0, self.bins - 1), old)
        self._exponent, self._first = exponent, first

    def _edges(self) -> tuple[Tensor, Tensor]:
        """Return the left edges of the lowest and highest bin in use; +inf and -inf where none is.

        On the common grid an edge falls into the same coarser bin as the activations right of it.
        """
        assert self._counts is not None
        filled = (self._counts > 0).to(torch.int8)
        some = filled.any(1)
        low = torch.ldexp((self._first + filled.argmax(1)).double(), self._exponent)
        high = torch.ldexp((self._first + self.bins - 1 - filled.flip(1).argmax(1)).double(), self._exponent)
        return torch.where(some, low, torch.inf), torch.where(some, high, -torch.inf)
