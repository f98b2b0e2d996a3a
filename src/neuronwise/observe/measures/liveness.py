"""Which units are dead or nearly so. Near-dead units rule any mean of phi, so every mean says how many there were."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.measures._arrays import by_units, matrix

__all__ = ["Liveness", "liveness"]


class Liveness(NamedTuple):
    """What lives, each ``(unit,)``.

    Args:
        moves: Share of the samples on which the unit is away from its median.
        variance: Its variance.
        dead: Whether it never moves.
        near_dead: Whether it hardly does: on too few samples, or too little.
    """

    moves: Tensor
    variance: Tensor
    dead: Tensor
    near_dead: Tensor

    @property
    def live(self) -> Tensor:
        """Whether it is neither dead nor nearly so."""
        return ~(self.dead | self.near_dead)


def liveness(
    activations: Any, *, moves: float = 0.02, variance: float = 1e-4, tolerance: float = 1e-3
) -> Liveness:
    """Return which units are alive.

    A unit *moves* on a sample where it is away from its own median by more than ``tolerance`` of the layer's root mean
    variance. One that never moves is dead. One that moves on less than ``moves`` of the samples, or whose variance is
    less than ``variance`` of the layer's mean variance, is nearly dead. By the median, also a unit that rests at a high
    value is recognised. Scaling the whole layer changes nothing; scaling one unit far down does.

    Args:
        activations: ``(n, unit)``.
        moves: Share of samples below which a unit is nearly dead.
        variance: Share of the layer's mean variance below which it is.
        tolerance: What counts as a move.

    Raises:
        InvalidArgumentError: If a share is not from 0 to 1.
    """
    for name, share in (("moves", moves), ("variance", variance), ("tolerance", tolerance)):
        if not 0 <= share <= 1:
            raise InvalidArgumentError(f"{name} must be a share from 0 to 1, not {share}.")
    tensor = matrix(activations)
    spread = by_units(lambda a: a.var(0, correction=0), tensor)
    usual = spread.mean()
    reach = tolerance * usual.sqrt()
    moved = by_units(lambda a: ((a - a.median(0).values).abs() > reach).double().mean(0), tensor)
    dead = moved == 0
    return Liveness(moved, spread, dead, ~dead & ((moved < moves) | (spread < variance * usual)))
