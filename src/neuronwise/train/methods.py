"""The methods by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.train.decorrelation import Decorrelation
from neuronwise.train.excess import ExcessPenalty
from neuronwise.train.method import Method
from neuronwise.train.monoscore import MonoScoreReward
from neuronwise.train.penalties import L2E, KurtosisPenalty, TailPenalty
from neuronwise.train.replacement import (
    GatedReversal,
    MEmeL,
    MEmeLTune,
    NaiveDeactivation,
    ReversedDeactivation,
)
from neuronwise.train.selectivity import ClassSelectivity
from neuronwise.train.solu import SoLU

__all__ = ["METHODS", "method_of"]

METHODS: Mapping[str, type[Method]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            ClassSelectivity,
            Decorrelation,
            ExcessPenalty,
            GatedReversal,
            KurtosisPenalty,
            L2E,
            MEmeL,
            MEmeLTune,
            MonoScoreReward,
            NaiveDeactivation,
            ReversedDeactivation,
            SoLU,
            TailPenalty,
        )
    }
)
"""The methods by name; each can be made without arguments."""


def method_of(method: str | Method | None) -> Method | None:
    """Return a method, given it, its name, or None for watching only.

    Raises:
        InvalidArgumentError: If there is no method of that name, or it is none.
    """
    if method is None or isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise InvalidArgumentError(f"method must be a Method, a name or None, not {type(method).__name__}.")
    if method not in METHODS:
        raise InvalidArgumentError(f"There is no method {method!r}. {closest(method, METHODS)}")
    return METHODS[method]()
