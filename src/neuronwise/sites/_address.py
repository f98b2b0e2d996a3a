"""Where a value of a traced graph can be caught: at which input or output of which module."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from neuronwise.sites._trace import Graph, Run
from neuronwise.sites.site import TensorName

__all__ = ["Address", "address_of", "call_of"]


@dataclass(frozen=True, slots=True)
class Address:
    """A module, one of its tensors, and which call if it runs several times."""

    path: str
    tensor: TensorName
    call: int | None


def address_of(value: fx.Node, graph: Graph) -> Address | None:
    """Return the best address of a value, or None if no module takes or gives it.

    The output of a module is best; then the input of the innermost module in which everything happens that uses the
    value; then the input of the first module that takes it, which other users of the value do not see.
    """
    given = graph.outputs.get(value)
    if given:
        return _address(given[0], "output", graph)
    taken = graph.inputs.get(value, [])
    whole = [run for run in taken if all(run in graph.inside.get(user, ()) for user in value.users)]
    if whole:
        return _address(whole[-1], "input", graph)
    return _address(taken[0], "input", graph) if taken else None


def call_of(node: fx.Node, graph: Graph) -> int | None:
    """Return which call of its module a node is, or None if the module runs once only."""
    return graph.call(graph.inside[node][-1])


def _address(run: Run, tensor: TensorName, graph: Graph) -> Address:
    return Address(run.path, tensor, graph.call(run))
