"""Where the weights of a kind's blocks are in a layer's few tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from neuronwise.nn._products import Place
from neuronwise.nn.kind import Kind

__all__ = ["Group", "Layout"]


@dataclass(frozen=True)
class Group:
    """Blocks that read the same features, whose inner products are one matrix product.

    Args:
        bases: The base functions, indices in the kind's lift.
        blocks: Indices of the blocks, in the order of their rows.
        biased: Whether a number is added to each.
    """

    bases: tuple[int, ...]
    blocks: tuple[int, ...]
    biased: bool


@dataclass(frozen=True)
class Layout:
    """The order of everything in the tensors ``weight``, ``bias`` and ``factor`` of a layer.

    ``weight`` has rows of ``width`` weights for each input: block after block, and in a block neuron after neuron, so
    that each group is one contiguous matrix. Where groups have unlike numbers of base functions, ``width`` is 1 and
    each base function has rows of its own.

    Args:
        groups: The groups in the order of their rows.
        width: How many base functions side by side in a row.
        weights: Blocks that are weights used as such; their rows come last.
        offsets: Blocks whose number is in ``bias``, in order.
        factors: Blocks whose number is in ``factor``, in order.
        places: Where the combination finds each block: which of the tensors of all groups, the lone numbers of
            ``bias``, and ``factor``, and which index in it; None for an offset that the layer does without.
    """

    groups: tuple[Group, ...]
    width: int
    weights: tuple[int, ...]
    offsets: tuple[int, ...]
    factors: tuple[int, ...]
    places: tuple[Place | None, ...]

    @classmethod
    def of(cls, kind: Kind, *, bias: bool) -> Layout:
        """Lay out a kind.

        Args:
            kind: The kind.
            bias: Whether the layer has offsets.
        """
        members: dict[tuple[tuple[int, ...], bool], list[int]] = {}
        for index, block in enumerate(kind.blocks):
            if block.bases:
                members.setdefault((block.bases, block.role == "bias"), []).append(index)
        groups = tuple(Group(bases, tuple(found), biased) for (bases, biased), found in members.items())
        weights = tuple(i for i, block in enumerate(kind.blocks) if block.is_weights)
        lone = tuple(i for i, block in enumerate(kind.blocks) if block.is_number and block.role == "bias")
        factors = tuple(i for i, block in enumerate(kind.blocks) if block.role == "factor")
        widths = {len(group.bases) for group in groups} | ({1} if weights else set())
        offsets = (*(index for group in groups if group.biased for index in group.blocks), *lone)
        found: dict[int, Place | None] = {
            block: (number, at)
            for number, group in enumerate(groups)
            for at, block in enumerate(group.blocks)
        }
        found |= {block: (len(groups), at) if bias else None for at, block in enumerate(lone)}
        after = len(groups) + bool(lone and bias)
        found |= {block: (after, at) for at, block in enumerate(factors)}
        places = tuple(found.get(index) for index in range(len(kind.blocks)))
        width = widths.pop() if len(widths) == 1 else 1
        return cls(groups, width, weights, offsets, factors, places)

    @property
    def rows(self) -> int:
        """How many rows of ``weight`` each neuron has."""
        return sum(self.rows_of(group) for group in self.groups) + len(self.weights)

    def rows_of(self, group: Group) -> int:
        """Return how many rows of ``weight`` each neuron has in a group."""
        return len(group.blocks) * len(group.bases) // self.width

    def starts(self) -> Mapping[int, int]:
        """Return for each block with weights its first row."""
        found, row = {}, 0
        for group in self.groups:
            step = self.rows_of(group) // len(group.blocks)
            for block in group.blocks:
                found[block] = row
                row += step
        for block in self.weights:
            found[block] = row
            row += 1
        return found
