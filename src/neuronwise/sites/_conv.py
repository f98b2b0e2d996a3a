"""Neurons of convolutions in a traced graph: the channels after normalisation, residual sum and activation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from neuronwise.sites._ops import Op, data_inputs, first_input, op_of
from neuronwise.sites._trace import Graph
from neuronwise.sites._weights import conv_shape, dense_shape

__all__ = ["Settled", "next_layer", "settle"]

_PASSING = (Op.KEEP, Op.POOL, Op.FLATTEN)


@dataclass(frozen=True, slots=True)
class Settled:
    """Where the channels of a convolution end up.

    Args:
        value: The value after norm, residual sum and activation.
        plain: The last value that a layer of its own gives, the convolution or its norm.
        active: Whether there is an activation.
    """

    value: fx.Node
    plain: fx.Node
    active: bool


def settle(conv: fx.Node, graph: Graph) -> Settled:
    """Follow the channels of a convolution to their activation; without one, to the norm or the convolution."""
    value = plain = conv
    while True:
        here = _step(value, graph)
        if here is None:
            return Settled(plain, plain, active=False)
        op = op_of(here, graph)
        if op is Op.ACTIVATION:
            return Settled(_whole_activation(value, here, graph), plain, active=True)
        if op is Op.NORM and graph.module(here) is not None and plain is value:
            plain = here
        value = here


def _step(value: fx.Node, graph: Graph) -> fx.Node | None:
    """Return the step that a value goes to next on its way to the activation, or None if there is no one way."""
    users = list(value.users)
    onward = [u for u in users if op_of(u, graph) in (Op.NORM, Op.ACTIVATION) and first_input(u) is value]
    rest = [u for u in users if u not in onward]
    # A residual stream goes past the norm and activation of the next block; x * sigmoid(x) past its own sigmoid.
    if len(onward) == 1 and all(op_of(u, graph) in (Op.ADD, Op.MUL) for u in rest):
        return onward[0]
    if len(users) == 1 and op_of(users[0], graph) in (Op.KEEP, Op.ADD):
        return users[0]
    return None


def _whole_activation(value: fx.Node, activation: fx.Node, graph: Graph) -> fx.Node:
    """Return the product in ``x * sigmoid(x)``, or the activation itself."""
    for user in activation.users:
        if op_of(user, graph) is Op.MUL and set(data_inputs(user)) == {value, activation}:
            return user
    return activation


def next_layer(value: fx.Node, width: int, graph: Graph) -> str | None:
    """Return the path of the one layer whose inputs are these neurons, or None if there is not exactly one.

    Pooling, dropout and flattening may be on the way, as long as each neuron stays one input of the layer.
    """
    while len(value.users) == 1:
        user = next(iter(value.users))
        op, module = op_of(user, graph), graph.module(user)
        if op in (Op.CONV, Op.DENSE) and module is not None:
            shape = conv_shape(module) if op is Op.CONV else dense_shape(module)
            return str(user.target) if shape is not None and shape[0] == width else None
        if op not in _PASSING:
            return None
        value = user
    return None
