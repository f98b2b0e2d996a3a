"""SoLU: an activation function that favours one neuron at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.train.method import Method
from neuronwise.train.view import View

__all__ = ["SoLU"]


@dataclass(frozen=True, kw_only=True)
class SoLU(Method):
    """Softmax Linear Unit in the place of a model's activation function: ``LayerNorm(x * softmax(x))``.

    It encourages, and it is no regulariser: the model is another one, in evaluation too, and must be trained and used
    with it attached. Sites must be outputs of activation modules (``find_sites(model, "*.act", width=...)``), which are
    then given ``x``. The layer normalisation has no weights of its own; the layer that follows can take on their part.

    Args:
        normalise: Layer normalisation after it. Without it large models were found to train worse.

    Source: Elhage et al., "Softmax Linear Units", Transformer Circuits Thread (2022).
    """

    name: ClassVar[str] = "solu"
    always: ClassVar[bool] = True
    normalise: bool = True

    def replace(self, view: View) -> Tensor:
        """Return SoLU of what the activation function was given.

        Raises:
            InvalidArgumentError: If the site is not the output of an elementwise module, or that works in place.
        """
        given, tensor = view.given, view.tensor
        if given is None or given.shape != tensor.shape:
            raise InvalidArgumentError(
                f"{view.site.name}: SoLU takes the place of an activation function, so its site must be the output of "
                "one (a module such as nn.GELU whose output has its input's shape). Name it: find_sites(model, "
                "'*.act', width=...)."
            )
        if given is tensor:
            raise InvalidArgumentError(
                f"{view.site.name}: the activation function overwrites its input, which SoLU needs. Set inplace=False."
            )
        axis = view.site.axis
        values = given * torch.softmax(given, axis)
        if not self.normalise:
            return values
        moved = values.movedim(axis, -1)
        return torch.nn.functional.layer_norm(moved, moved.shape[-1:]).movedim(-1, axis).to(tensor.dtype)
