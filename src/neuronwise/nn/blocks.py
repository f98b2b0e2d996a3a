"""The blocks of a kind: inner products and numbers that each neuron has of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Block"]


@dataclass(frozen=True)
class Block:
    """``<w1, base1(x)> + <w2, base2(x)> + ... + b``, or one number of the neuron, or weights used as such.

    Args:
        bases: Indices of the base functions in the kind's lift; none for a number or for weights used as such.
        weights: The name of the weights of each base function.
        role: What number comes with it: ``"bias"`` is added to the neuron's output or to an inner product and goes with
            ``bias=False``; ``"factor"`` is any other number of the neuron; ``"weights"`` says that the block is
            weights, one for each input, used by themselves in an expression; None if there is no number.
        offset: The name of the number.
    """

    bases: tuple[int, ...] = ()
    weights: tuple[str, ...] = ()
    role: Literal["bias", "factor", "weights"] | None = None
    offset: str | None = None

    @property
    def is_weights(self) -> bool:
        """Whether it is weights used as such."""
        return self.role == "weights"

    @property
    def is_number(self) -> bool:
        """Whether it is one number of the neuron."""
        return not self.bases and not self.is_weights

    @property
    def rows(self) -> int:
        """How many weights it has for each input."""
        return 1 if self.is_weights else len(self.bases)
