"""How large and how costly layers of a kind are, and which width makes a comparison fair."""

from __future__ import annotations

from typing import Literal

from neuronwise.errors import InvalidArgumentError
from neuronwise.nn.kind import KindLike
from neuronwise.nn.kind import kind as kind_of

__all__ = ["count_operations", "count_parameters", "matched_width"]


def count_parameters(kind: KindLike, in_features: int, out_features: int, *, bias: bool = True) -> int:
    """Return how many parameters a :class:`NeuronLinear` has.

    For K base functions, each with weights of its own, m (K d + 1): arXiv 2405.02369, section 3.

    Args:
        kind: The kind of neuron.
        in_features: Number of inputs d.
        out_features: Number of neurons m.
        bias: Whether neurons have offsets.
    """
    found = kind_of(kind)
    roles = [block.role for block in found.blocks]
    return out_features * (found.products * in_features + bias * roles.count("bias") + roles.count("factor"))


def count_operations(kind: KindLike, in_features: int, out_features: int) -> int:
    """Return the multiplications and additions of one sample's forward pass through a :class:`NeuronLinear`.

    Two for each weight, what the neurons do with their inner products, and the base functions of the inputs by their
    complexity (:attr:`Base.complexity`).

    Args:
        kind: The kind of neuron.
        in_features: Number of inputs.
        out_features: Number of neurons.
    """
    found = kind_of(kind)
    features = sum(base.complexity for base in found.lift if base.text != "x")
    neuron = 2 * found.products * in_features + found.combine.operations()
    return features * in_features + out_features * neuron


def matched_width(
    kind: KindLike,
    in_features: int,
    width: int,
    *,
    by: Literal["parameters", "operations"] = "parameters",
    out: int = 0,
) -> int:
    """Return how many neurons of a kind cost what a layer of linear neurons does, for a fair comparison.

    The largest width that does not cost more, but at least 1.

    Args:
        kind: The kind of neuron.
        in_features: Number of inputs.
        width: Width of the linear layer.
        by: What to keep the same: parameters, or multiplications and additions of a forward pass.
        out: Width of the linear layer after it, which is the narrower the fewer neurons feed it; 0 leaves it out.

    Raises:
        InvalidArgumentError: If a size is not a positive whole number, or ``by`` is neither.

    Example:
        >>> matched_width("x + sin(x)", 10, 50)
        26
        >>> matched_width("linear", 10, 50, out=3)
        50
    """
    for name, value, least in (("in_features", in_features, 1), ("width", width, 1), ("out", out, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidArgumentError(f"{name} must be a whole number from {least}, not {value!r}.")
    if by not in ("parameters", "operations"):
        raise InvalidArgumentError(f"by is 'parameters' or 'operations', not {by!r}.")
    found = kind_of(kind)

    def cost(of: KindLike, neurons: int) -> int:
        if by == "parameters":
            return count_parameters(of, in_features, neurons) + out * neurons
        return count_operations(of, in_features, neurons) + 2 * out * neurons

    fixed = cost(found, 0)
    return max(1, (cost("linear", width) - fixed) // (cost(found, 1) - fixed))
