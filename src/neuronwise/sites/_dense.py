"""Neurons of linear layers in a traced graph: what comes out of one linear layer and goes into the next."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from neuronwise.sites._ops import Op, data_inputs, first_input, op_name, op_of
from neuronwise.sites._trace import Graph
from neuronwise.sites._weights import dense_shape

__all__ = ["Source", "dense_sources", "is_feed_forward"]


@dataclass(frozen=True, slots=True)
class Source:
    """Some outputs of a linear layer that neurons are made of; ``activated`` if a nonlinearity follows at once."""

    node: fx.Node
    start: int
    stop: int
    activated: bool = False


@dataclass(frozen=True, slots=True)
class _Branch:
    """The linear layers that a value is made of elementwise, and whether there is any nonlinearity on the way."""

    sources: tuple[Source, ...]
    nonlinear: bool


def dense_sources(node: fx.Node, graph: Graph) -> tuple[Source, ...]:
    """Return the linear layers whose outputs are, elementwise, the input of the linear layer ``node``.

    Empty if anything else takes part in that input: the model's input, attention, a residual stream.
    """
    value, module = first_input(node), graph.module(node)
    shape = None if module is None else dense_shape(module)
    if value is None or shape is None:
        return ()
    branch = _Search(graph).walk(value, lit=False)
    if branch is None or any(source.stop - source.start != shape[0] for source in branch.sources):
        return ()
    # Two linear layers in a row are neurons only if nothing else uses what is between them: the values that the
    # query, key and value projections share are no neurons.
    if not branch.nonlinear and not _only_path(value, graph):
        return ()
    return branch.sources


def is_feed_forward(sources: tuple[Source, ...], node: fx.Node, graph: Graph) -> bool:
    """Whether these are the up and down projections of a transformer block: wide inside, the same width outside."""
    up, down = graph.module(sources[0].node), graph.module(node)
    outer = None if up is None else dense_shape(up)
    inner = None if down is None else dense_shape(down)
    return outer is not None and inner is not None and outer[0] == inner[1] and inner[0] > inner[1]


def _only_path(value: fx.Node, graph: Graph) -> bool:
    here: fx.Node | None = value
    while here is not None and len(here.users) == 1:
        if op_of(here, graph) is Op.DENSE:
            return True
        here = first_input(here)
    return False


class _Search:
    """Walks back from a value to the linear layers that it is made of."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.known: dict[tuple[fx.Node, bool], _Branch | None] = {}

    def walk(self, node: fx.Node, *, lit: bool) -> _Branch | None:
        """Return the branch that ends in ``node``; ``lit`` if a nonlinearity follows before the next product."""
        key = (node, lit)
        if key not in self.known:
            self.known[key] = None
            self.known[key] = self._walk(node, lit)
        return self.known[key]

    def _walk(self, node: fx.Node, lit: bool) -> _Branch | None:
        op = op_of(node, self.graph)
        module = self.graph.module(node)
        if op is Op.DENSE and module is not None:
            shape = dense_shape(module)
            return None if shape is None else _Branch((Source(node, 0, shape[1], lit),), lit)
        if op is Op.CUT:
            return self._cut(node, lit)
        if op in (Op.ADD, Op.MUL):
            return self._combine(node, op, lit)
        before = first_input(node)
        if before is None:
            return None
        if op is Op.ACTIVATION:
            branch = self.walk(before, lit=True)
            return None if branch is None else _Branch(branch.sources, True)
        if op is Op.GLU:
            return self._glu(before)
        return self.walk(before, lit=lit) if op in (Op.KEEP, Op.NORM) else None

    def _combine(self, node: fx.Node, op: Op, lit: bool) -> _Branch | None:
        data = data_inputs(node)
        if len(data) == 1 and _node_arguments(node).count(data[0]) == 1:
            return self.walk(data[0], lit=lit)
        if not data:
            return None
        branches = [self.walk(value, lit=lit and op is Op.ADD) for value in data]
        first, second = branches[0], branches[-1]
        if first is None or second is None:
            return None
        merged = _merge(first.sources, second.sources)
        if op is Op.MUL:
            return _Branch(merged, True)
        # Different layers may be added before their activation, as in a recurrent cell; a sum after it is a
        # residual stream. The parts of an activation written out as a formula are all of the same layer.
        same = len(merged) == len(first.sources) == len(second.sources)
        if same:
            return _Branch(merged, first.nonlinear or second.nonlinear)
        plain = all(self._is_plain(value) for value in data)
        return _Branch(merged, True) if lit and plain else None

    def _is_plain(self, node: fx.Node) -> bool:
        """Whether there is no nonlinearity between a value and its linear layers."""
        branch = self.walk(node, lit=False)
        return branch is not None and not branch.nonlinear

    def _glu(self, before: fx.Node) -> _Branch | None:
        whole = self.walk(before, lit=False)
        if whole is None or len(whole.sources) != 1:
            return None
        source = whole.sources[0]
        middle = (source.start + source.stop) // 2
        return _Branch((replace(source, stop=middle), replace(source, start=middle, activated=True)), True)

    def _cut(self, node: fx.Node, lit: bool) -> _Branch | None:
        """Follow a part of a fused projection: ``x.chunk(2, -1)[0]``, ``x.split(n, -1)[1]``, ``x[..., :n]``."""
        if node.target is not operator.getitem:
            return None
        cut, index = node.args[0], node.args[1]
        if not isinstance(cut, fx.Node):
            return None
        parts = isinstance(index, int) and op_of(cut, self.graph) is Op.CUT and op_name(cut) != "getitem"
        before = first_input(cut) if parts else cut
        whole = None if before is None else self.walk(before, lit=lit)
        if whole is None or len(whole.sources) != 1:
            return None
        source = whole.sources[0]
        size = source.stop - source.start
        bounds = (
            _part_bounds(cut, index, size) if parts and isinstance(index, int) else _slice_bounds(index, size)
        )
        if bounds is None:
            return None
        cut_out = replace(source, start=source.start + bounds[0], stop=source.start + bounds[1])
        return _Branch((cut_out,), whole.nonlinear)


def _node_arguments(node: fx.Node) -> list[fx.Node]:
    return [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, fx.Node)]


def _merge(first: tuple[Source, ...], second: tuple[Source, ...]) -> tuple[Source, ...]:
    merged: dict[tuple[fx.Node, int, int], Source] = {}
    for source in (*first, *second):
        key = (source.node, source.start, source.stop)
        old = merged.get(key)
        merged[key] = source if old is None else replace(source, activated=source.activated or old.activated)
    return tuple(merged.values())


def _part_bounds(cut: fx.Node, index: int, size: int) -> tuple[int, int] | None:
    """Bounds of one part of a chunk or split; its axis is not asked for, since only the last one gives the widths."""
    wanted = cut.args[1] if len(cut.args) > 1 else next(iter(cut.kwargs.values()), None)
    if isinstance(wanted, list | tuple) and all(isinstance(n, int) for n in wanted):
        sizes = [int(n) for n in wanted if isinstance(n, int)]
    elif not isinstance(wanted, int) or wanted < 1:
        return None
    elif op_name(cut) == "split":
        sizes = [wanted] * (size // wanted)
    else:
        sizes = [size // wanted] * wanted
    if sum(sizes) != size or (op_name(cut) == "tensor_split" and not isinstance(wanted, int)):
        return None
    index = index % len(sizes)
    return sum(sizes[:index]), sum(sizes[: index + 1])


def _slice_bounds(index: Any, size: int) -> tuple[int, int] | None:
    """Bounds of ``x[..., a:b]``."""
    if not isinstance(index, tuple) or not index or not isinstance(index[-1], slice):
        return None
    if any(part is not Ellipsis and part != slice(None) for part in index[:-1]):
        return None
    last = index[-1]
    if any(not isinstance(n, int | None) for n in (last.start, last.stop)) or last.step not in (None, 1):
        return None
    start, stop, _ = last.indices(size)
    return start, stop
