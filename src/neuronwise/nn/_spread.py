"""The size of weights at the start, for a neuron's output to vary as that of a linear one whatever its kind."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from neuronwise.nn.blocks import Block
from neuronwise.nn.combine import Blocks, Combine

__all__ = ["LINEAR_VARIANCE", "measured_spread"]

LINEAR_VARIANCE = 1.0 / 3.0
"""Variance of the outputs of ``torch.nn.Linear`` at the start, under independent inputs of variance 1."""

_ROWS, _NEURONS = 512, 64
_MOST = 2**17
"""How many numbers a measurement with inputs one by one may have."""


def measured_spread(blocks: Sequence[Block], combine: Combine, inputs: int) -> float:
    """Return the standard deviation of blocks with which the output has the variance of a linear neuron.

    Inner products of many inputs with independent weights are nearly normal and uncorrelated, so they are drawn so.
    Numbers of the neuron that are no offsets, and weights used as such, get the same deviation. Where none gives that
    variance, the nearest is taken.

    Args:
        blocks: The blocks of the kind.
        combine: How they become the output.
        inputs: Number of inputs.
    """
    draw = _Draw(blocks, inputs)
    steps = torch.logspace(-3, 1, 81, dtype=torch.float64).tolist()
    found = [math.log(max(_variance(combine, draw.blocks(step)), 1e-30) / LINEAR_VARIANCE) for step in steps]
    for number in range(1, len(steps)):
        low, high = found[number - 1], found[number]
        if math.isfinite(high) and low <= 0.0 <= high and high > low:
            share = -low / (high - low)
            return math.exp((1 - share) * math.log(steps[number - 1]) + share * math.log(steps[number]))
    usable = [(abs(gap), step) for gap, step in zip(found, steps, strict=True) if math.isfinite(gap)]
    return min(usable, default=(0.0, 1.0))[1]


def _variance(combine: Combine, blocks: Blocks) -> float:
    with torch.no_grad():
        output = combine(blocks)
    return float(torch.nan_to_num(output, nan=torch.inf).var(correction=0))


class _Draw:
    """Standard normal blocks, drawn once, that are scaled as asked."""

    def __init__(self, blocks: Sequence[Block], inputs: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64)

        rows = max(16, min(_ROWS, _MOST // (_NEURONS * max(inputs, 1)) // 2 * 2))
        # Pairs of opposite sign: an odd moment of the sample would otherwise pass for one of the neuron.
        half = normal(rows // 2, len(blocks), _NEURONS)
        self.products = torch.cat([half, -half])
        half = normal(rows // 2, 1, inputs)
        self.inputs = torch.cat([half, -half])
        # Of one neuron each: few enough for their mean square to matter.
        numbers = normal(len(blocks), _NEURONS)
        self.numbers = numbers / numbers.square().mean(1, keepdim=True).sqrt()
        self.weights = {i: normal(_NEURONS, inputs) for i, block in enumerate(blocks) if block.is_weights}
        self.kinds = list(blocks)

    def blocks(self, spread: float) -> Blocks:
        values = self.products * spread
        for index, block in enumerate(self.kinds):
            if block.is_number:
                values[:, index] = self.numbers[index] * spread if block.role == "factor" else 0.0
        places = [(0, index) for index in range(len(self.kinds))]
        weights = {index: values * spread for index, values in self.weights.items()}
        return Blocks([values], places, -2, 1, weights, self.inputs)
