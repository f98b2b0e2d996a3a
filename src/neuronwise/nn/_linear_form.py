"""How a kind of neuron is made to compute a weighted sum at first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from neuronwise.formula import Base
from neuronwise.nn.blocks import Block
from neuronwise.nn.combine import BlockNode, Blocks, Combine, Sum, Term

__all__ = ["LinearForm", "linear_form"]

Setting = Literal["carry", "zero", "one"]


@dataclass(frozen=True)
class LinearForm:
    """What each block is set to, for the neuron to be a weighted sum.

    Args:
        carrier: The block that gets the weights of the sum, those of its other base functions being 0.
        settings: For other blocks: ``"zero"`` everything is 0; ``"one"`` weights are 0 and the number is 1. Blocks
            without a setting keep their random start, and are multiplied by 0.
        offset: The block with the number that is the sum's offset; None where there is none.
    """

    carrier: int
    settings: dict[int, Setting] = field(default_factory=dict, hash=False)
    offset: int | None = None


def linear_form(lift: Sequence[Base], blocks: Sequence[Block], combine: Combine) -> LinearForm | None:
    """Return how a kind becomes a weighted sum from which every weight can learn, or None.

    One term of the sum carries the weights: an inner product with x in it, whose other factors can be made 1. Every
    other term is made 0 through one factor only, so that the gradient reaches that factor through the others.

    Args:
        lift: Base functions of the kind.
        blocks: Its blocks.
        combine: How they become the output; only sums of products are understood.
    """
    if not isinstance(combine, Sum):
        return None
    carriers = [
        (term, factor)
        for term in combine.terms
        for factor in term.factors
        if isinstance(factor, int) and any(lift[index].text == "x" for index in blocks[factor].bases)
    ]
    # A term that is nothing but the inner product leaves most to be set free.
    for term, carrier in sorted(carriers, key=lambda pair: len(pair[0].factors)):
        found = _settings(term, carrier, blocks, combine)
        if found is not None:
            return found
    return None


def _settings(term: Term, carrier: int, blocks: Sequence[Block], combine: Sum) -> LinearForm | None:
    if term.coefficient != 1.0 or term.factors.count(carrier) != 1:
        return None
    settings: dict[int, Setting] = {carrier: "carry"}
    for factor in term.factors:
        if factor == carrier:
            continue
        if not isinstance(factor, int) or blocks[factor].role not in ("bias", "factor"):
            return None
        settings[factor] = "one"
    offset = carrier if blocks[carrier].role == "bias" else None
    for other in combine.terms:
        if other is term:
            continue
        if other.is_plain and len(other.factors) == 1 and offset is None:
            number = other.factors[0]
            if isinstance(number, int) and blocks[number].role == "bias":
                offset = number
        if not _is_zero(other, blocks, combine, settings):
            return None
    return LinearForm(carrier, settings, offset)


def _is_zero(term: Term, blocks: Sequence[Block], combine: Sum, settings: dict[int, Setting]) -> bool:
    """Set one block so that a term is 0 and can leave it; say whether that was possible."""
    if any(isinstance(factor, int) and settings.get(factor) == "zero" for factor in term.factors):
        return True
    for factor in term.factors:
        if isinstance(factor, int) and factor not in settings and term.factors.count(factor) == 1:
            settings[factor] = "zero"
            return True
    inner = {node.index for node in term.nodes() if isinstance(node, BlockNode) and not node.weights}
    alone = [index for index in inner if index not in settings and index not in term.factors]
    for index in alone:
        if _vanishes(term, index, blocks, combine):
            settings[index] = "zero"
            return True
    return False


def _vanishes(term: Term, index: int, blocks: Sequence[Block], combine: Sum) -> bool:
    """Whether a term is 0, with a slope, where one of its blocks is 0 and the others are anything."""
    if Sum((term,), combine.functions).needs_inputs:
        return False
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(len(blocks), 8, generator=generator, dtype=torch.float64) + 0.5
    values[index] = 0.0
    values.requires_grad_()
    places = [(0, number) for number in range(len(blocks))]
    output = Sum((term,), combine.functions)(Blocks([values.unsqueeze(0)], places, -2, 1))
    if not bool((output == 0).all()):
        return False
    (slope,) = torch.autograd.grad(output.sum(), values)
    return all(math.isfinite(s) and s != 0.0 for s in slope[index].tolist())
