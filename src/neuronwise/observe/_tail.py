"""The tail of the Monosemantic Scale, kept while a model trains: how much of phi is large, and how large."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["Exact", "Tail"]

_SAMPLED = 1 << 16  # entries of a batch that go into the histogram, at most (one sample at least)
_OCTAVES = 16  # the histogram reaches from 2^-16 to 2^16
_STEPS = 8  # bins an octave: a bin is at most 12.5 % wide
_BINS = 2 * _OCTAVES * _STEPS
_SHIFT = 20  # drops all but three of float32's 23 mantissa bits
_FIRST = (127 - _OCTAVES) * _STEPS  # float32's exponent is biased by 127


class Exact(nn.Module):
    """A module whose buffers keep their dtype, whatever the dtype of the model it is in is changed to."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Exact:
        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep, recurse)  # type: ignore[no-untyped-call]
        return self


class Tail(Exact):
    """Share of phi above a threshold and largest phi of every unit, and a histogram of phi over all units.

    Args:
        shape: Shape of a number for every unit, such as ``(1, 512, 1)``.
        threshold: What counts as large.
        dtype: Type of the numbers.
    """

    weight: Tensor
    above: Tensor
    peak: Tensor
    histogram: Tensor

    def __init__(self, shape: tuple[int, ...], *, threshold: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.threshold = threshold
        #: Number of samples behind :attr:`above` (those forgotten do not count).
        self.register_buffer("weight", torch.zeros(shape, dtype=dtype))
        #: Share of the samples with phi above the threshold.
        self.register_buffer("above", torch.zeros(shape, dtype=dtype))
        #: Largest phi.
        self.register_buffer("peak", torch.zeros(shape, dtype=dtype))
        #: Number of sampled entries by the logarithm of their phi.
        self.register_buffer("histogram", torch.zeros(_BINS, dtype=dtype))

    def reset(self) -> None:
        """Forget everything."""
        for buffer in self.buffers(recurse=False):
            buffer.zero_()

    def absorb(
        self, n: Tensor, above: Tensor, peak: Tensor, histogram: Tensor, ok: Tensor, keep: Tensor | float
    ) -> None:
        """Take in one batch.

        Args:
            n: Samples of every unit.
            above: How many of them were above the threshold.
            peak: The largest.
            histogram: Sampled entries by bin.
            ok: False leaves everything as it is, bool ``()``.
            keep: Weight of what was before, 1 unless it is to be forgotten.
        """
        old = keep * self.weight
        total = (old + n).clamp(min=1.0)
        self.weight.copy_(torch.where(ok, old + n, self.weight))
        self.above.copy_(torch.where(ok, (old * self.above + above) / total, self.above))
        self.peak.copy_(torch.where(ok, torch.maximum(self.peak, peak), self.peak))
        self.histogram.copy_(torch.where(ok, keep * self.histogram + histogram, self.histogram))

    def merge(self, other: Tail) -> None:
        """Take in what another has seen."""
        total = (self.weight + other.weight).clamp(min=1.0)
        self.above.copy_((self.weight * self.above + other.weight * other.above) / total)
        self.weight.add_(other.weight)
        self.peak.copy_(torch.maximum(self.peak, other.peak))
        self.histogram.add_(other.histogram)

    def share(self) -> Tensor:
        """Return the share of all entries above the threshold, ``()``; NaN before the first batch."""
        return (self.above * self.weight).sum() / self.weight.sum()

    def quantile(self, share: float) -> Tensor:
        """Return the phi that the given share of all entries does not exceed, ``()``, to the width of a bin."""
        edges = self.edges()
        cumulated = self.histogram.cumsum(0)
        wanted = share * cumulated[-1]
        place = torch.searchsorted(cumulated, wanted).clamp(max=_BINS - 1)
        inside = (wanted - (cumulated[place] - self.histogram[place])) / self.histogram[place].clamp(
            min=1e-30
        )
        value = edges[place] + inside.clamp(0.0, 1.0) * (edges[place + 1] - edges[place])
        return torch.where(cumulated[-1] > 0, value, torch.nan)

    def top_mean(self, share: float) -> Tensor:
        """Return the mean of the given share of the largest entries, ``()``, to the width of a bin."""
        edges = self.edges()
        middle = (edges[1:] + edges[:-1]) / 2
        above = self.histogram.flip(0).cumsum(0).flip(0) - self.histogram
        wanted = share * self.histogram.sum()
        taken = torch.minimum(self.histogram, (wanted - above).clamp(min=0.0))
        return (taken * middle).sum() / wanted

    def edges(self) -> Tensor:
        """Return the edges of the histogram's bins; the outermost bins hold what lies beyond them, too."""
        number = torch.arange(_BINS + 1, device=self.histogram.device)
        octave = torch.div(number, _STEPS, rounding_mode="floor") - _OCTAVES
        return (torch.exp2(octave.double()) * (1 + (number % _STEPS) / _STEPS)).to(self.histogram.dtype)

    def count(self, phi: Tensor, weight: Tensor) -> Tensor:
        """Return how much weight falls into each bin."""
        place = (phi.float().contiguous().view(torch.int32) >> _SHIFT) - _FIRST
        counts = torch.zeros_like(self.histogram)
        return counts.scatter_add_(0, place.clamp(0, _BINS - 1).long().reshape(-1), weight.reshape(-1))

    @staticmethod
    def sampled(length: int, each: int, turn: Tensor) -> Tensor:
        """Return which samples of a batch go into the histogram: evenly spaced, from another start every batch.

        Args:
            length: Samples in the batch.
            each: Entries of one sample.
            turn: Running number of the batch, ``()``.
        """
        wanted = max(1, min(length, _SAMPLED // max(1, each)))
        places = torch.arange(wanted, device=turn.device) * (length // wanted)
        return (places + turn * 7919) % length  # a prime step: no fixed positions of a sequence
