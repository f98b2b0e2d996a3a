"""A loss on what of phi lies above a fixed bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuronwise.train._moments import OFFSET, beyond, live_moments, mean_log, moments, places, settled
from neuronwise.train._select import by_chance
from neuronwise.train.method import positive
from neuronwise.train.penalties import Guarded
from neuronwise.train.view import View

__all__ = ["ExcessPenalty"]


@dataclass(frozen=True, kw_only=True)
class ExcessPenalty(Guarded):
    r"""The mean over all entries of :math:`(\log \phi - \log b)_+`, with phi as in :class:`TailPenalty`.

    Where :class:`TailPenalty` always acts on the same share of the entries, and so goes on when there is no tail left,
    this one leaves alone what is below the bound: its pull fades as the tail does. It is blind to a unit's scale too.

    Args:
        strength: See :class:`Penalty`.
        selection: See :class:`Penalty`; at random as many entries as are above the bound.
        epsilon: See :class:`Guarded`.
        floor: See :class:`Guarded`.
        guard: See :class:`Guarded`.
        bound: b, what phi may be. A bound somewhat below the one that counts acts before it is passed.

    Source: ours. The mean logarithm above a bound is what Hill's estimator of a tail's weight is made of (Annals of
    Statistics 3, 1975).
    """

    name: ClassVar[str] = "excess"
    strength: float = 2.0
    guard: float = 0.2
    bound: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("bound", self.bound)

    def scored(self, view: View) -> tuple[Tensor, Tensor]:
        """Return the mean excess of the logarithm of phi, and the batch's variance with its gradient."""
        batch = moments(view)
        mean, variance = settled(view, batch.mean, batch.variance)
        chosen = beyond(view, self.bound * self.stable(variance), mean)
        entries = chosen.numel() if view.real is None else view.real.expand_as(chosen).sum()
        share = torch.count_nonzero(chosen).to(view.values.dtype) / entries
        if self.selection == "random":
            chosen = by_chance(view, share)
        place = places(chosen)
        mean, variance, picked = live_moments(view, batch, place)
        logarithm = mean_log(picked, mean, self.stable(variance), chosen, place, OFFSET)
        return share * (logarithm - math.log(self.bound)), variance
