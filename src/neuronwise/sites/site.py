"""A site: the address of one tensor, with one axis that counts neurons, in an ordinary module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError, SiteNotFoundError, closest

__all__ = ["Site", "WeightSlice"]

TensorName = Literal["input", "output"]


@dataclass(frozen=True, slots=True)
class WeightSlice:
    """Where a site's neurons lie in a weight of the model.

    Args:
        parameter: Full name of the parameter, such as ``"h.0.mlp.c_fc.weight"``.
        axis: The axis of the parameter that counts neurons: 0 or 1.
        start: First neuron's position on that axis; more than 0 in fused projections.
        stop: One past the last neuron's position on that axis.
        role: ``"in"``, ``"gate"``, ``"up"`` for weights read; ``"out"`` for the weight written through.
    """

    parameter: str
    axis: int
    start: int
    stop: int
    role: str = "in"

    def view(self, model: nn.Module) -> Tensor:
        """Return the slice as a view ``(neuron, ...)`` on the model's own parameter, without copying."""
        try:
            weight = model.get_parameter(self.parameter)
        except AttributeError as error:
            names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
            raise SiteNotFoundError(
                f"The model has no parameter {self.parameter!r}. {closest(self.parameter, names)}"
            ) from error
        return weight.narrow(self.axis, self.start, self.stop - self.start).movedim(self.axis, 0)


@dataclass(frozen=True, slots=True)
class Site:
    """The neurons of one tensor on the model's path.

    A site is only an address: it holds no reference to the model, can be hashed, compared, pickled and
    written to a table. Its :attr:`name` is unique within a model.

    Args:
        path: Path of the module, as in ``model.get_submodule(path)``; ``""`` is the model itself.
        tensor: Which tensor: the module's first tensor ``"input"`` or first tensor ``"output"``.
        width: Number of neurons.
        axis: The axis that counts neurons: -1 for ``(batch, position, neuron)``, 1 for
            ``(batch, channel, ...)``.
        layer: Number of the layer within its stack, from 0, or None.
        stack: Path of the list of layers it belongs to, such as ``"encoder.block"``; ``""`` if there is none.
        kind: ``"ffn"``, ``"hidden"``, ``"conv"``, ``"rnn"`` or ``"module"`` (named by hand).
        call: Which call of a module that runs several times in one forward pass, from 0; None for every call.
        reads: The weights that read into the neurons.
        writes: The weight that the neurons write through; its slices are the neurons' value vectors.
    """

    path: str
    tensor: TensorName
    width: int
    axis: int = -1
    layer: int | None = None
    stack: str = ""
    kind: str = "module"
    call: int | None = None
    reads: tuple[WeightSlice, ...] = field(default=(), compare=False)
    writes: WeightSlice | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.tensor not in ("input", "output"):
            raise InvalidArgumentError(f"tensor must be 'input' or 'output', not {self.tensor!r}.")
        if self.width < 1:
            raise InvalidArgumentError(f"width must be at least 1, not {self.width}.")

    @property
    def name(self) -> str:
        """The address as text, ``path:tensor``, with ``#call`` where a module runs several times.

        Example:
            >>> Site("mlp.down", "input", width=8).name
            'mlp.down:input'
            >>> Site("block.ffn", "input", width=8, call=3).name
            'block.ffn:input#3'
        """
        suffix = "" if self.call is None else f"#{self.call}"
        return f"{self.path}:{self.tensor}{suffix}"

    def __str__(self) -> str:
        return self.name

    def module(self, model: nn.Module) -> nn.Module:
        """Return the module that the site is on.

        Raises:
            SiteNotFoundError: If the model has no module of that path.
        """
        try:
            return model.get_submodule(self.path)
        except AttributeError as error:
            names = [name for name, _ in model.named_modules(remove_duplicate=False)]
            raise SiteNotFoundError(
                f"The model has no module {self.path!r}. {closest(self.path, names)}"
            ) from error

    def value_vectors(self, model: nn.Module) -> Tensor:
        """Return the weight that the neurons write through, ``(neuron, ...)``, as a view on the parameter.

        Raises:
            SiteNotFoundError: If it is not known which weight that is.
        """
        if self.writes is None:
            raise SiteNotFoundError(
                f"It is not known which weight the neurons of {self.name} write through. "
                "Sites found by the table of architectures or by structure know it."
            )
        return self.writes.view(model)

    def read_vectors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the weights that read into the neurons, by role, each ``(neuron, ...)``, as views."""
        return {piece.role: piece.view(model) for piece in self.reads}

    def biases(self, model: nn.Module) -> Tensor | None:
        """Return the bias of the first weight that reads into the neurons, ``(neuron,)``, or None without."""
        if not self.reads:
            return None
        piece = self.reads[0]
        name = piece.parameter.removesuffix("weight") + "bias"
        parameters = dict(model.named_parameters(remove_duplicate=False))
        bias = parameters.get(name)
        return None if bias is None else torch.narrow(bias, 0, piece.start, piece.stop - piece.start)
