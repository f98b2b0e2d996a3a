"""A loss on what of phi lies above a fixed bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neuronwise.train._moments import selected_log
from neuronwise.train._select import uniform
from neuronwise.train.method import positive
from neuronwise.train.penalties import Guarded
from neuronwise.train.view import View

__all__ = ["ExcessPenalty"]

_OFFSET = 1e-4  # of the logarithms, where chance chooses an entry without a deviation


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

    def score(self, view: View, variance: Tensor, away: Tensor) -> Tensor:
        """Return the mean excess of the logarithm of phi."""
        scale = self.stable(variance)
        chosen = away.detach().square().div_(scale.detach()) > self.bound
        if view.real is not None:
            chosen = chosen & view.real
        entries = chosen.numel() if view.real is None else view.real.expand_as(chosen).sum()
        share = chosen.sum() / entries
        if self.selection == "random":
            chosen = uniform(view.values, view.seed) < share
            chosen = chosen if view.real is None else chosen & view.real
        return share * (selected_log(away, scale, chosen, _OFFSET) - math.log(self.bound))
