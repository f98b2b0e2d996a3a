"""The reducer: a statistic over a stream of activations whose memory does not grow with the stream."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import pandas as pd
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.activations import Activations

__all__ = ["Reducer"]


class Reducer(ABC):
    """Reduces the activations of one site to something of fixed size a neuron.

    A reducer that a user makes holds only settings; :meth:`fresh` makes an empty one for every site. The update and
    the merge must be such that any split of the stream gives the same result (to rounding, or exactly where stated),
    so that one process and a cluster run the same code.
    """

    #: Name under which it is known, also on the command line.
    name: ClassVar[str]

    def fresh(self) -> Self:
        """Return an empty reducer with the same settings."""
        if self.started:
            raise InvalidArgumentError(f"The reducer {self.name!r} has already been updated; pass a new one.")
        return copy.copy(self)

    def settings(self) -> dict[str, Any]:
        """Return the settings, for the record: what was passed when it was made."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    @property
    @abstractmethod
    def started(self) -> bool:
        """Whether it has seen any activations."""

    @abstractmethod
    def update(self, activations: Activations) -> None:
        """Take in one batch."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take in everything that ``other`` (same settings, same site) has seen. ``other`` is not to be used again."""

    @abstractmethod
    def result(self) -> Mapping[str, pd.DataFrame]:
        """Return tables by name. In ``"neurons"``: one row a neuron, in order; others have a column ``neuron``."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors, enough to go on from; empty before the first update."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
