"""A module's forward pass as a graph, through torch.fx: nothing is computed and nothing in the model changes."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from neuronwise.sites._weights import RNNS, conv_shape, dense_shape

__all__ = ["Graph", "Run", "trace"]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a module within the forward pass: the module's path and how often it ran before."""

    path: str
    call: int


@dataclass(slots=True)
class Graph:
    """The graph of one module, and how values and modules meet in it. Paths are within that module.

    Args:
        nodes: The nodes in the order in which they run.
        modules: Modules of the graph by path.
        calls: How often each module runs.
        outputs: For each node, the runs of modules whose (first) output it is, innermost first.
        inputs: For each node, the runs of modules whose first input it is, outermost first.
        inside: For each node, the runs of modules that it is in, outermost first.
    """

    nodes: list[fx.Node] = field(default_factory=list)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    outputs: dict[fx.Node, list[Run]] = field(default_factory=dict)
    inputs: dict[fx.Node, list[Run]] = field(default_factory=dict)
    inside: dict[fx.Node, tuple[Run, ...]] = field(default_factory=dict)

    def module(self, node: object) -> nn.Module | None:
        """Return the module that a node calls, or None if it is no call of a module."""
        if isinstance(node, fx.Node) and node.op == "call_module":
            return self.modules[str(node.target)]
        return None

    def call(self, run: Run) -> int | None:
        """Return the call number of a run: None where the module runs once only."""
        return run.call if self.calls[run.path] > 1 else None


class _Tracer(fx.Tracer):
    """Traces through everything but layers, and notes the runs of modules while it does."""

    # Buffers as nodes, so that a forward pass that counts its calls in a buffer does not really do so here.
    proxy_buffer_attributes = True

    def __init__(self, opaque: frozenset[nn.Module]) -> None:
        super().__init__()
        self.opaque = opaque
        self.found = Graph()
        self.stack: list[Run] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.opaque or _is_layer(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        self.found.modules[path] = m
        run = Run(path, self.found.calls.get(path, 0))
        self.found.calls[path] = run.call + 1
        first = _first_node([*args, *kwargs.values()][:1])
        if first is not None:
            self.found.inputs.setdefault(first, []).append(run)
        self.stack.append(run)
        try:
            if self.is_leaf_module(m, path):
                result = self.create_proxy("call_module", path, args, kwargs)
            else:
                # Not through __call__, which would run the user's own hooks on values that are none.
                result = m.forward(*args, **kwargs)
        finally:
            self.stack.pop()
        last = _first_node(result)
        # A value that a module only passes on was not made there.
        if last is not None and run in self.found.inside[last]:
            self.found.outputs.setdefault(last, []).append(run)
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        self.found.inside[node] = tuple(self.stack)
        return node


def trace(module: nn.Module, *, opaque: frozenset[nn.Module] = frozenset()) -> Graph | None:
    """Return the graph of a module's forward pass, or None if it cannot be traced.

    Arguments with a default keep it, so that optional inputs are left out as in a plain call.

    Args:
        module: The module to trace.
        opaque: Modules inside it that are taken as one step each.
    """
    tracer = _Tracer(opaque)
    with _unchanged(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph = tracer.trace(module, concrete_args=_defaults(module))
        except Exception:
            # A forward pass is anybody's code and was never meant to run on stand-ins: any error is possible here
            # and only says that this module's parts have to be looked at one by one.
            return None
    # A graph holds its nodes only as long as it lives.
    tracer.found.nodes = list(graph.nodes)
    return tracer.found


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is one step of the graph although it is not one of torch's own."""
    if dense_shape(module) is not None or conv_shape(module) is not None or isinstance(module, RNNS):
        return True
    # Home-made norms: inside they take a mean, which would end the search.
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


def _defaults(module: nn.Module) -> dict[str, Any] | None:
    parameters = inspect.signature(type(module).forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    chosen = {p.name: p.default for p in parameters if p.kind in kinds and p.default is not p.empty}
    return chosen or None


def _first_node(value: Any) -> fx.Node | None:
    """Return the node of a value, or of the first element of a tuple or list."""
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return value.node if isinstance(value, fx.Proxy) else None


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Undo what a forward pass does to its modules besides computing: attributes it sets, random numbers it draws."""
    modules = list(module.modules())
    before = [(vars(part), _copied(vars(part))) for part in modules]
    python_state, cpu_state = random.getstate(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        torch.set_rng_state(cpu_state)
        for now, old in before:
            for value in old.values():
                # What can be changed in place is filled again, not replaced: others may hold it.
                if isinstance(value, _Copy):
                    _restore(value.original, value.items)
            _restore(now, {k: v.original if isinstance(v, _Copy) else v for k, v in old.items()})


@dataclass(frozen=True, slots=True)
class _Copy:
    """A dictionary or list that a module holds, and what was in it."""

    original: Any
    items: Any


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    return {k: _Copy(v, v.copy()) if isinstance(v, dict | list) else v for k, v in attributes.items()}


def _restore(now: Any, old: Any) -> None:
    """Fill a dictionary or list with what it had before, if that has changed."""
    if isinstance(now, list):
        if len(now) != len(old) or any(a is not b for a, b in zip(now, old, strict=True)):
            now[:] = old
    elif now.keys() != old.keys() or any(now[key] is not old[key] for key in old):
        now.clear()
        now.update(old)
