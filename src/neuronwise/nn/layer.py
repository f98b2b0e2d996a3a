"""What all layers of neurons of a kind share: their tensors, their start, their running statistics."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.nn._feature import Feature
from neuronwise.nn._layout import Group, Layout
from neuronwise.nn._lift import Lift, Normaliser
from neuronwise.nn._moments import scale_of, update
from neuronwise.nn._normalise import Normalise, normalisation
from neuronwise.nn.combine import Blocks
from neuronwise.nn.kind import Kind, KindLike
from neuronwise.nn.kind import kind as kind_of

__all__ = ["DEFAULT_CLIP", "NeuronLayer"]

DEFAULT_CLIP = 3.0
"""Bound of the arguments of base functions, in running standard deviations."""


class NeuronLayer(nn.Module):
    """A layer of neurons of any kind; see :class:`NeuronLinear` and :class:`NeuronConv2d`.

    Attributes:
        kind: The kind of its neurons.
        weight: All weights but the numbers, ``(rows * neurons, width * inputs, ...)``; see :meth:`named_weights`.
        bias: Offsets, ``(offsets * neurons,)``, or None.
        factor: Numbers of neurons that are no offsets, ``(factors * neurons,)``, or None.
        normalise: What is standardised: ``"inputs"``, ``"features"``, ``"all"``, or False.
        running_mean: Running mean of each input ``(inputs,)``, where there are base functions to standardise for. Where
            features are standardised that of each feature, ``(base functions, inputs)``; convolutions in groups have
            those of one group after the other, ``(groups * base functions, inputs / groups)``.
        running_var: Its running variance.
        num_batches_tracked: How many batches they have seen.
        kind_text: The formula as bytes, for the state dict to say what it is of; not for kind ``linear``.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    factor: nn.Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        kind: KindLike,
        neurons: int,
        inputs: int,
        tail: tuple[int, ...],
        *,
        bias: bool,
        groups: int,
        normalise: Normalise,
        clip: float | None,
        momentum: float,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        self.kind: Kind = kind_of(kind)
        self.normalise, self.momentum = normalisation(normalise), momentum
        of_inputs = self.normalise == "inputs"
        self.clip = (DEFAULT_CLIP if of_inputs else math.inf) if clip is None else float(clip)
        if not self.clip > 0:
            raise InvalidArgumentError(f"clip must be above 0, or math.inf for no bound, not {clip}.")
        if not 0 < momentum <= 1:
            raise InvalidArgumentError(f"momentum must be above 0 and at most 1, not {momentum}.")
        self._neurons, self._inputs, self._groups = neurons, inputs, groups
        self._layout = Layout.of(self.kind, bias=bias)
        self._reads_inputs, self._is_linear = self.kind.combine.needs_inputs, self.kind.is_linear
        self._is_sum = self.kind.is_sum
        self._features = tuple(
            None if base.text == "x" else Feature.of(base, standardise=of_inputs, clip=self.clip)
            for base in self.kind.lift
        )
        self._lifts = tuple(self._lift(group.bases) for group in self._layout.groups)
        # Base functions whose values are standardised by their own statistics, all lifted at once.
        self._scaled = tuple(
            index
            for index, feature in enumerate(self._features)
            if self.normalise == "all" or (self.normalise == "features" and feature is not None)
        )
        if self._is_linear:
            self._scaled = ()
        # The sizes of features: weights of large ones start small.
        self._sizes = tuple(
            1.0 if feature is None or index in self._scaled else feature.size
            for index, feature in enumerate(self._features)
        )
        factory = {"device": device, "dtype": dtype}
        rows, width = self._layout.rows, self._layout.width
        shape = (rows * neurons, width * (inputs // groups), *tail)
        self._fan_in = inputs // groups * math.prod(tail)
        self._axis = -1 - len(tail)
        # Kinds such as c1*x[0] have numbers only.
        self.register_parameter("weight", nn.Parameter(torch.empty(shape, **factory)) if rows else None)
        offsets, factors = len(self._layout.offsets), len(self._layout.factors)
        self.bias = nn.Parameter(torch.empty(offsets * neurons, **factory)) if bias and offsets else None
        self.register_parameter(
            "factor", nn.Parameter(torch.empty(factors * neurons, **factory)) if factors else None
        )
        self._add_buffers(factory)
        self.reset_parameters()

    def _lift(self, bases: tuple[int, ...]) -> Lift:
        return Lift(tuple(self._features[index] for index in bases), self.clip, self._groups)

    def _add_buffers(self, factory: Mapping[str, Any]) -> None:
        of_inputs = self.normalise == "inputs" and any(feature is not None for feature in self._features)
        tracks = of_inputs or bool(self._scaled)
        device = factory["device"]
        size: tuple[int, ...] = (self._inputs,)
        if self._scaled:
            size = (self._groups * len(self._scaled), self._inputs // self._groups)
        mean = torch.zeros(size, **factory) if tracks else None
        variance = torch.ones(size, **factory) if tracks else None
        count = torch.tensor(0, dtype=torch.long, device=device) if tracks else None
        self.register_buffer("running_mean", mean)
        self.register_buffer("running_var", variance)
        self.register_buffer("num_batches_tracked", count)
        text = torch.tensor(list(self.kind.text.encode()), dtype=torch.uint8, device=device)
        self.register_buffer("kind_text", None if self.kind.is_linear else text)

    @property
    def axis(self) -> int:
        """The axis of inputs and neurons, negative."""
        return self._axis

    def reset_parameters(self) -> None:
        """Draw new weights, from torch's global generator as its layers do, and forget the running statistics.

        Weights are uniform. Kind ``linear`` starts as torch's own layers do; of any other kind the outputs have the
        same variance under inputs of variance 1 (see :attr:`Kind.spread`).
        """
        if self.kind.is_linear:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        elif self._layout.rows:
            with torch.no_grad():
                self.weight.uniform_(-1.0, 1.0)
                for rows, bound in self._bounds():
                    rows.mul_(bound)
        if self.bias is not None:
            bound = 1 / math.sqrt(self._fan_in) if self._fan_in > 0 else 0
            nn.init.uniform_(self.bias, -bound, bound)
        if self.factor is not None:
            bound = math.sqrt(3.0) * self.kind.spread(self._inputs)
            nn.init.uniform_(self.factor, -bound, bound)
        self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Forget the running statistics: the next batch in training sets them."""
        if self.running_mean is not None:
            assert self.running_var is not None and self.num_batches_tracked is not None
            self.running_mean.zero_()
            self.running_var.fill_(1.0)
            self.num_batches_tracked.zero_()

    def _bounds(self) -> list[tuple[Tensor, float]]:
        """Return views of the weights with the bound of each."""
        parts, found = self._parts(), []
        spread = self.kind.spread(self._fan_in)
        for index, block in enumerate(self.kind.blocks):
            for at, base in enumerate(block.bases):
                deviation = spread / math.sqrt(max(self._fan_in, 1) * len(block.bases)) / self._sizes[base]
                found.append((parts[index][at], math.sqrt(3.0) * deviation))
            if block.is_weights:
                found.append((parts[index][0], math.sqrt(3.0) * spread))
        return found

    def _parts(self) -> dict[int, list[Tensor]]:
        """Return for each block with weights a view ``(neurons, inputs, ...)`` for each of its base functions."""
        if not self._layout.rows:
            return {}
        rows = torch.unflatten(self.weight, 0, (self._layout.rows, self._neurons))
        found = {}
        for index, start in self._layout.starts().items():
            count = self.kind.blocks[index].rows
            if self._layout.width == 1:
                found[index] = [rows[start + at] for at in range(count)]
            else:
                found[index] = list(torch.unflatten(rows[start], 1, (self._layout.width, -1)).unbind(1))
        return found

    def named_weights(self) -> dict[str, Tensor]:
        """Return the parameters by their names in the kind's formula, as views: ``(neurons, inputs, ...)`` each.

        Numbers are ``(neurons,)``. Change a view in place under ``torch.no_grad()`` to set them.
        """
        parts = self._parts()
        found: dict[str, Tensor] = {}
        for index, block in enumerate(self.kind.blocks):
            if index in parts:
                found.update(zip(block.weights, parts[index], strict=True))
        for tensor, blocks in ((self.bias, self._layout.offsets), (self.factor, self._layout.factors)):
            if tensor is not None:
                numbers = torch.unflatten(tensor, 0, (len(blocks), self._neurons)).unbind(0)
                for index, values in zip(blocks, numbers, strict=True):
                    found[str(self.kind.blocks[index].offset)] = values
        return found

    def _normaliser(self, x: Tensor, *, training: bool) -> Normaliser | None:
        """Return mean and reciprocal deviation of what is standardised.

        Args:
            x: A batch of it.
            training: Whether the batch counts, before anything else.
        """
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return None
        mean, variance = self.running_mean.view(-1), self.running_var.view(-1)
        if training:
            update(x, self.axis, mean, variance, self.num_batches_tracked, momentum=self.momentum)
        return scale_of(mean, variance)

    def _stacks(self, x: Tensor, *, training: bool, padded: Tensor | None = None) -> list[Tensor]:
        """Return what the weights of each group are multiplied with.

        Args:
            x: The inputs.
            training: Whether the batch counts in the running statistics.
            padded: The inputs with what is put around them before the base functions; None: the same.
        """
        if self._scaled:
            scaled = self._standardised(x, training=training)
            return [self._gathered(x, scaled, group.bases) for group in self._layout.groups]
        normaliser = self._normaliser(x, training=training)
        return [lift(x if padded is None else padded, self.axis, normaliser) for lift in self._lifts]

    def _standardised(self, x: Tensor, *, training: bool) -> Tensor:
        """Return the features that are standardised by their own statistics, stacked, in no less than single precision.

        An addition and a product after the stack, for which autograd keeps nothing but the statistics.
        """
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        stacked = self._lift(self._scaled)(wide, self.axis, None)
        normaliser = self._normaliser(stacked, training=training)
        assert normaliser is not None
        mean, scale = (part.view(-1, *[1] * (-self.axis - 1)) for part in normaliser)
        return (stacked - mean).mul_(scale).to(wide.dtype)

    def _gathered(self, x: Tensor, scaled: Tensor, bases: tuple[int, ...]) -> Tensor:
        """Return some base functions stacked, out of the inputs and the stack of those that are standardised."""
        if bases == self._scaled:
            return scaled.to(x.dtype)
        if all(index not in self._scaled for index in bases):
            return self._lift(bases)(x, self.axis, None)
        axis = self.axis
        parts = torch.unflatten(scaled, axis, (self._groups, len(self._scaled), -1)).unbind(axis - 1)
        raw = torch.unflatten(x, axis, (self._groups, -1))
        chosen = [
            parts[self._scaled.index(index)].to(x.dtype) if index in self._scaled else raw for index in bases
        ]
        return torch.stack(chosen, axis - 1).flatten(axis - 2, axis)

    def _run(self, stacks: Sequence[Tensor], inputs: Tensor | None) -> Tensor:
        """Return the layer's output.

        Args:
            stacks: The features of each group.
            inputs: The inputs for a combination that reads them.
        """
        layout, axis = self._layout, self.axis
        outputs = []
        for group, stack, weight, bias in zip(
            layout.groups, stacks, self._group_weights(), self._group_biases(), strict=True
        ):
            outputs.append(self._affine(stack, weight, bias))
            if self._is_sum:
                return outputs[0]
            blocks = (len(group.blocks), -1)
            shape = blocks if self._groups == 1 else (self._groups, *blocks)
            outputs[-1] = torch.unflatten(outputs[-1], axis, shape)
        batched = len(outputs)
        outputs += self._numbers()
        weights = {}
        if layout.weights:
            parts = self._parts()
            weights = {index: parts[index][0] for index in layout.weights}
        result = self.kind.combine(Blocks(outputs, layout.places, axis - 1, batched, weights, inputs))
        return result if self._groups == 1 else result.flatten(axis - 1, axis)

    @abstractmethod
    def _affine(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the inner products of features with weights, plus offsets."""

    def _group_weights(self) -> list[Tensor]:
        """Return the matrix of each group; views wherever the layout allows."""
        layout, neurons = self._layout, self._neurons
        if not layout.groups:
            return []
        parts: list[Tensor] = [self.weight]
        if len(layout.groups) + len(layout.weights) > 1:
            sizes = [layout.rows_of(group) * neurons for group in layout.groups]
            parts = list(self.weight.split_with_sizes([*sizes, *[neurons] * len(layout.weights)]))
        return [self._matrix(group, part) for group, part in zip(layout.groups, parts, strict=False)]

    def _matrix(self, group: Group, rows: Tensor) -> Tensor:
        blocks, bases = len(group.blocks), len(group.bases)
        if bases > self._layout.width:
            rows = (
                torch.unflatten(rows, 0, (blocks, bases, self._neurons))
                .movedim(1, 2)
                .flatten(2, 3)
                .flatten(0, 1)
            )
        return self._by_channel_group(rows, blocks)

    def _by_channel_group(self, rows: Tensor, blocks: int) -> Tensor:
        """Return rows ``(blocks, neurons)`` with each channel group's neurons together, as convolutions want them."""
        if self._groups == 1 or blocks == 1:
            return rows
        return torch.unflatten(rows, 0, (blocks, self._groups, -1)).movedim(0, 1).flatten(0, 2)

    def _group_biases(self) -> list[Tensor | None]:
        """Return the offsets of each group, or None."""
        found: list[Tensor | None] = []
        start = 0
        for group in self._layout.groups:
            if self.bias is None or not group.biased:
                found.append(None)
                continue
            count = len(group.blocks) * self._neurons
            whole = count == self.bias.shape[0]
            part = self.bias if whole else self.bias.narrow(0, start, count)
            found.append(self._by_channel_group(part, len(group.blocks)))
            start += count
        return found

    def _numbers(self) -> list[Tensor]:
        """Return the lone offsets and the factors, shaped as blocks without the axes of the batch."""
        layout, found = self._layout, []
        taken = sum(len(group.blocks) for group in layout.groups if group.biased)
        lone = len(layout.offsets) - taken
        if self.bias is not None and lone:
            found.append(self.bias.narrow(0, taken * self._neurons, lone * self._neurons))
        if self.factor is not None:
            found.append(self.factor)
        spatial = [1] * (-self.axis - 1)
        shaped = []
        for numbers in found:
            count = numbers.shape[0] // self._neurons
            rows = self._by_channel_group(numbers, count)
            cut = (count, -1) if self._groups == 1 else (self._groups, count, -1)
            shaped.append(rows.view(*cut, *spatial))
        return shaped

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load, after a look at whether the state is of the same kind: other weights may fit and mean nothing."""
        text = state_dict.get(f"{prefix}kind_text")
        found = None if text is None else bytes(text.tolist()).decode(errors="replace")
        wanted = None if self.kind.is_linear else self.kind.text
        if found != wanted and f"{prefix}weight" in state_dict:
            error_msgs.append(
                f"{prefix.removesuffix('.') or 'The layer'} has neurons of kind {self.kind.text!r}, and the state dict "
                f"is of {'kind ' + repr(found) if found else 'a plain linear layer'}. Make the layer of that kind "
                "first (its formula is the kind), or convert() a model with the plain layer after loading."
            )
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
