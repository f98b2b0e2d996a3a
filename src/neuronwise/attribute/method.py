"""What an attribution method is, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from neuronwise.attribute.problem import Problem
from neuronwise.attribute.reference import Reference, reference_of
from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import Site

__all__ = ["Method", "Scores"]


@dataclass(frozen=True)
class Scores:
    """Signed scores of every neuron, and how well they add up.

    Args:
        values: ``{site: (example, position, neuron)}``; 0 at positions an example does not have.
        paths: The sites whose scores together have one sum: each by itself, or all.
        start: The target at the reference, ``(path, example)``; NaN where the method has none.
        gap: Sum of the scores less the change of the target that they explain, ``(path, example)``; NaN where the
            method has no such sum.
        nodes: Nodes of the integral, ``(path, example)``; 0 where there is no integral.
        converged: Whether the gap is within the tolerance, ``(path, example)``; True where there is nothing to meet.
    """

    values: Mapping[Site, Tensor]
    paths: list[tuple[Site, ...]] = field(default_factory=list)
    start: Tensor = field(default_factory=lambda: torch.empty(0))
    gap: Tensor = field(default_factory=lambda: torch.empty(0))
    nodes: Tensor = field(default_factory=lambda: torch.empty(0))
    converged: Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def plain(cls, values: Mapping[Site, Tensor], *, nodes: int = 0) -> Scores:
        """Return scores of a method without a sum that they must add up to.

        Args:
            values: The scores.
            nodes: Nodes of the integral, if there is one.
        """
        count = len(next(iter(values.values())))
        shape = (len(values), count)
        nothing = torch.full(shape, torch.nan, dtype=torch.float64)
        return cls(
            values,
            paths=[(site,) for site in values],
            start=nothing,
            gap=nothing.clone(),
            nodes=torch.full(shape, nodes),
            converged=torch.ones(shape, dtype=torch.bool),
        )


class Method(ABC):
    """A way to give neurons credit for a target; a new one is a subclass in its own file, and a line in METHODS."""

    name: ClassVar[str]
    #: Whether it compares the neurons with a reference that can be chosen.
    takes_reference: ClassVar[bool] = True

    def solve(self, problem: Problem, reference: Reference) -> Scores:
        """Return the scores of every neuron, compared with the reference asked for.

        Raises:
            InvalidArgumentError: If the reference does not fit the problem, or the method takes none.
        """
        if reference is not None and not self.takes_reference:
            raise InvalidArgumentError(
                f"{type(self).__name__} compares with a start input, not with a reference for the neurons: leave "
                "reference= out, and give the method start=."
            )
        return self.scores(problem, reference_of(problem, reference))

    @abstractmethod
    def scores(self, problem: Problem, reference: Mapping[Site, Tensor]) -> Scores:
        """Return the scores of every neuron.

        Args:
            problem: The model on a batch, with the target.
            reference: What the neurons are compared with, ``{site: (example, position, neuron)}``.
        """
