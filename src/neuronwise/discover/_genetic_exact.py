"""The data themselves in place of the grid: what finalists, and all formulas of single inputs, are fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover._genetic_space import Linearised, Space
from neuronwise.discover._trees import Node
from neuronwise.formula import Function

__all__ = ["ExactSpace", "exact_space"]

Array = NDArray[np.float64]


@dataclass
class ExactSpace(Space):
    """A space whose grid is all inputs of all rows: nothing is interpolated.

    Args:
        inputs: Number of inputs ``d``; the points are ``n * d``.
    """

    inputs: int = 1

    def values(self, node: Node) -> Array | float:
        """Return the values of a tree on all inputs of all rows (a vector), on the rows (a scalar), or its number."""
        if node.op == "input":
            if node.key not in self._values:
                self._values[node.key] = np.ascontiguousarray(self.points[int(node.value) :: self.inputs])
            return self._values[node.key]
        return super().values(node)

    def summed(self, values: Array | float) -> Array:
        """Return the sum over the inputs of every row: ``(..., n * d)`` to ``(..., n)``."""
        whole = np.asarray(values)
        return np.asarray(whole.reshape(*whole.shape[:-1], -1, self.inputs).sum(axis=-1))

    def changes_sign(self, kind: str, values: Array | float) -> bool:
        """Whether values have both signs in the range of one input (of a vector), or on the rows (of a scalar)."""
        if kind != "vector":
            return super().changes_sign(kind, values)
        below = np.asarray(values).reshape(-1, self.inputs) < 0
        return bool((below.any(axis=0) & ~below.all(axis=0)).any())

    def projected(self, node: Node, values: Array) -> Array:
        """Return values as centred and weighted columns of the rows ``(..., n)``."""
        assert self.root is not None
        rows = (self.summed(values) if node.kind != "scalar" else values) * self.root
        one = self.root / np.linalg.norm(self.root)
        return np.asarray(rows - (rows @ one)[..., None] * one)

    def raw(self, node: Node) -> Array:
        """Return what a term adds to each row's predictor at coefficient 1 ``(n,)``."""
        values = np.asarray(self.values(node), dtype=np.float64)
        return self.summed(values) if node.kind != "scalar" else values


def exact_space(
    problem: Linearised, functions: Mapping[str, Function], rows: NDArray[np.int64] | None = None
) -> ExactSpace:
    """Return the exact space of a least-squares problem, of some rows where they are given."""
    if rows is not None:
        problem = Linearised(problem.X[rows], problem.response[rows], problem.weight[rows])
    root = np.sqrt(problem.weight)
    target = (problem.response * root[:, None]).T
    one = root / np.linalg.norm(root)
    return ExactSpace(
        problem.X.ravel(),
        functions,
        np.zeros((0, 0)),
        target - np.outer(target @ one, one),
        0.0,
        np.ones((1, 1)),
        target,
        root=root,
        inputs=problem.X.shape[1],
    )
