"""How the blocks of a neuron become its output."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from neuronwise.formula import FUNCTIONS, Function
from neuronwise.formula.nodes import (
    Add,
    Call,
    Constant,
    Div,
    Dot,
    Input,
    Inputs,
    Mul,
    Neg,
    Node,
    Number,
    Parameter,
    Pow,
    Reduce,
    Size,
    walk,
)
from neuronwise.nn._products import Place, sum_of_products

__all__ = ["BlockNode", "Blocks", "Combine", "Sum", "Term"]


@dataclass(frozen=True, slots=True, eq=False)
class BlockNode(Node):
    """In an expression: the value of a block.

    Args:
        index: Which block of the kind.
        weights: Whether it stands for the block's weights, one for each input, instead of their inner product.
    """

    index: int
    weights: bool = False

    @property
    def payload(self) -> object:
        """The index, and what of the block is meant."""
        return self.index, self.weights

    def _is_vector(self) -> bool:
        return self.weights


@dataclass(frozen=True)
class Blocks:
    """The values of all blocks of a layer in one forward pass.

    Args:
        tensors: Block values, stacked on dimension ``dim``: ``(..., blocks, neurons, ...)``. Blocks that are numbers of
            the neuron have ones for the axes of the batch.
        places: Which tensor and which index on its block dimension each block of the kind has; None for an offset
            that the layer was made without.
        dim: The dimension of the blocks, negative.
        batched: How many of the tensors have the axes of the batch; the others follow them.
        weights: Weights of those blocks that are used as such, ``(neurons, inputs)``, by block.
        inputs: The layer's inputs ``(..., 1, inputs)``, if the combination asks for them.
    """

    tensors: Sequence[Tensor]
    places: Sequence[Place | None]
    dim: int
    batched: int
    weights: Mapping[int, Tensor] = field(default_factory=dict)
    inputs: Tensor | None = None

    def __getitem__(self, block: int) -> Tensor:
        """Return the value of one block, ``(..., neurons, ...)``."""
        place = self.places[block]
        if place is None:
            return torch.zeros((), dtype=self.tensors[0].dtype, device=self.tensors[0].device)
        return self.tensors[place[0]].select(self.dim, place[1])


class Combine(ABC):
    """What a neuron does with its blocks: sum, product, any expression.

    A kind of neuron whose output is another function of inner products (a bump around two of them, a small network on
    them, branches that meet) is a subclass; it must be immutable, hashable and picklable, and made of operations that
    autograd and ``torch.compile`` know.
    """

    #: Whether it reads the inputs besides the blocks, which a convolution does not offer.
    needs_inputs: bool = False

    @abstractmethod
    def __call__(self, blocks: Blocks) -> Tensor:
        """Return the neurons' outputs ``(..., neurons, ...)``.

        Args:
            blocks: The values of the blocks.
        """

    @abstractmethod
    def operations(self) -> int:
        """Return how many multiplications and additions one neuron needs after its inner products."""


@dataclass(frozen=True)
class Term:
    """A product.

    Args:
        factors: Indices of blocks, and expressions.
        coefficient: A number in front.
    """

    factors: tuple[int | Node, ...]
    coefficient: float = 1.0

    @property
    def is_plain(self) -> bool:
        """Whether it is nothing but a product of blocks."""
        return self.coefficient == 1.0 and all(isinstance(factor, int) for factor in self.factors)

    def nodes(self) -> list[Node]:
        """Return all nodes of its expressions."""
        return [node for factor in self.factors if isinstance(factor, Node) for node in walk(factor)]


@dataclass(frozen=True)
class Sum(Combine):
    """A sum of products of blocks, of expressions in blocks and inputs, and of numbers.

    Args:
        terms: What is added.
        functions: The functions that expressions may call.
    """

    terms: tuple[Term, ...]
    functions: tuple[Function, ...] = ()

    @property
    def needs_inputs(self) -> bool:  # type: ignore[override]
        """Whether an expression reads inputs, or weights one by one."""
        kinds = (Input, Inputs, Size)
        return any(
            isinstance(node, kinds) or (isinstance(node, BlockNode) and node.weights)
            for term in self.terms
            for node in term.nodes()
        )

    def __call__(self, blocks: Blocks) -> Tensor:
        """Return the sum."""
        fused: list[tuple[Place, ...]] = []
        rest: list[Tensor] = []
        table = {**FUNCTIONS, **{function.name: function for function in self.functions}}
        for term in self.terms:
            places = [blocks.places[factor] for factor in term.factors if isinstance(factor, int)]
            if None in places:
                continue
            if term.is_plain and all(place[0] < blocks.batched for place in places if place):
                fused.append(tuple(place for place in places if place is not None))
            else:
                rest.append(_product(term, blocks, table))
        if fused:
            rest.insert(0, sum_of_products(blocks.tensors[: blocks.batched], tuple(fused), blocks.dim))
        total = rest[0]
        for value in rest[1:]:
            total = total + value
        return total

    def operations(self) -> int:
        """Return how many multiplications and additions one neuron needs after its inner products."""
        factors = sum(len(term.factors) - 1 + len(term.nodes()) for term in self.terms)
        return factors + len(self.terms) - 1


def _product(term: Term, blocks: Blocks, functions: Mapping[str, Function]) -> Tensor:
    factors = [
        blocks[factor] if isinstance(factor, int) else _value(factor, blocks, functions)
        for factor in term.factors
    ]
    value: Any = math.prod(factors[1:], start=factors[0])
    result: Tensor = value if term.coefficient == 1.0 else value * term.coefficient
    return result


def _value(node: Node, blocks: Blocks, functions: Mapping[str, Function]) -> Any:
    """Return the value of an expression: scalars ``(..., neurons)``, vectors ``(..., neurons, inputs)``."""

    def of(child: Node) -> Any:
        return _value(child, blocks, functions)

    def wide(child: Node) -> Any:
        """As a vector: a scalar stands for the vector that has it everywhere."""
        value = of(child)
        return value if child.vector or not isinstance(value, Tensor) else value.unsqueeze(-1)

    match node:
        case Number() | Constant():
            return node.value
        case BlockNode():
            return blocks.weights[node.index] if node.weights else blocks[node.index]
        case Inputs():
            return blocks.inputs
        case Input():
            assert blocks.inputs is not None
            return blocks.inputs[..., node.index]
        case Size():
            assert blocks.inputs is not None
            return blocks.inputs.shape[-1]
        case Parameter():
            raise AssertionError(f"{node.name} is no block of the kind")
        case Reduce():
            return _reduced(node.name, of(node.argument))
        case Dot():
            assert blocks.inputs is not None
            return (wide(node.left) * wide(node.right) + 0 * blocks.inputs).sum(-1)
        case Call():
            return functions[node.name].torch(_tensor(of(node.argument), blocks))
    values = [wide(child) if node.vector else of(child) for child in node.children]
    match node:
        case Neg():
            return -values[0]
        case Add():
            return sum(values[1:], start=values[0])
        case Mul():
            return math.prod(values[1:], start=values[0])
        case Div():
            return values[0] / values[1]
        case Pow():
            return values[0] ** values[1]
    raise AssertionError(f"{type(node).__name__} is no part of a formula")


def _tensor(value: Any, blocks: Blocks) -> Tensor:
    if isinstance(value, Tensor):
        return value
    like = blocks.tensors[0]
    return torch.full((), float(value), dtype=like.dtype, device=like.device)


def _reduced(name: str, value: Tensor) -> Tensor:
    if name in ("sum", "mean"):
        return value.sum(-1) if name == "sum" else value.mean(-1)
    if name == "norm":
        norm: Tensor = torch.linalg.vector_norm(value, dim=-1)
        return norm
    return value.amax(-1) if name == "max" else value.amin(-1)
