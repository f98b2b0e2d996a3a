"""Neurons of any kind in the place of ``torch.nn.Linear``."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.nn._normalise import Normalise
from neuronwise.nn.kind import KindLike
from neuronwise.nn.layer import NeuronLayer

__all__ = ["NeuronLinear"]


class NeuronLinear(NeuronLayer):
    """``torch.nn.Linear`` with neurons of any kind; of kind ``"linear"`` it is bit for bit the same.

    The base function x gets the inputs as they are. Others get arguments that are standardised by running mean and
    variance and bounded, and their values are centred and scaled by what they are under a standard normal argument;
    so no power or exponential explodes, and how fast a network learns does not hang on the base function. The running
    statistics are those of batch normalisation, except that a batch is standardised by the statistics including it,
    in training as in evaluation, and nothing is differentiated through them.

    What a bad input does: NaN and infinity in a row go through to that row's outputs, as in ``torch.nn.Linear``
    (infinity is bounded in all base functions but x), and an input with a NaN in the batch leaves the statistics of
    that input as they are. A huge value is bounded in all base functions but x, and counts as five deviations in the
    statistics, except in the very first batch, whose moments are taken as they are. No rows and one row are fine.

    Args:
        in_features: Number of inputs.
        out_features: Number of neurons.
        bias: Whether neurons have offsets: those added to the output or to an inner product. With ``False`` a product
            of two is without a linear part.
        device: As in torch.
        dtype: As in torch.
        kind: What the neurons do, see :func:`kind`.
        normalise: What is standardised. ``"inputs"`` (True): the arguments of base functions, as said above.
            ``"features"``: the values of base functions, each by its own running mean and variance; their arguments are
            the inputs as they are, so that ``sin(2*x)`` has the period it says, and x stays as it is, too. ``"all"``:
            the same, x included; such a layer cannot start as the linear one that it replaces. False: nothing, the
            layer computes the bare formula. Kind ``"linear"`` is torch's layer whatever is said here.
        clip: Bound of the arguments: in running standard deviations with ``"inputs"``, else in units of the inputs.
            None: 3 with ``"inputs"``, else no bound; ``math.inf`` for no bound. With ``"features"`` and ``"all"`` give
            one where inputs may be so large that powers and exponentials of them are not finite.
        momentum: Smallest share of a batch in the running statistics.

    Raises:
        InvalidArgumentError: If an argument is outside what it may be, or the kind has no layer.
        FormulaError: If the kind is a formula that cannot be read.

    Example:
        >>> import torch
        >>> layer = NeuronLinear(2, 1, kind="6*x**2 + 2*x - 3", normalise=False)
        >>> with torch.no_grad():
        ...     weights = layer.named_weights()
        ...     for name, value in {"w1": 6.0, "w2": 2.0, "b1": -3.0}.items():
        ...         _ = weights[name].fill_(value)
        >>> layer(torch.tensor([[1.0, 2.0]]))
        tensor([[33.]], grad_fn=<AddmmBackward0>)
        >>> sum(parameter.numel() for parameter in layer.parameters())
        5
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        kind: KindLike = "linear",
        normalise: Normalise = True,
        clip: float | None = None,
        momentum: float = 0.1,
    ) -> None:
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidArgumentError(f"{name} must be a whole number from 0, not {value!r}.")
        self.in_features, self.out_features = in_features, out_features
        super().__init__(
            kind,
            out_features,
            in_features,
            (),
            bias=bias,
            groups=1,
            normalise=normalise,
            clip=clip,
            momentum=momentum,
            device=device,
            dtype=dtype,
        )

    def forward(self, input: Tensor) -> Tensor:
        """Return the neurons' outputs.

        Args:
            input: ``(..., in_features)``.

        Returns:
            ``(..., out_features)``.
        """
        if self._is_linear:
            return F.linear(input, self.weight, self.bias)
        inputs = input.unsqueeze(-2) if self._reads_inputs else None
        return self._run(self._stacks(input, training=self.training), inputs)

    def features(self, input: Tensor) -> Tensor:
        """Return the base functions of the inputs as the weights meet them: standardised, bounded, stacked.

        The running statistics are taken as they are, in training too; before the first batch they are means of 0 and
        variances of 1. For a kind that is a sum of base functions, the output is the inner product of these features
        with ``weight``, plus ``bias``.

        Args:
            input: ``(..., in_features)``.

        Returns:
            ``(..., base functions * in_features)``: base function k of ``kind.lift`` of input i at
            ``k * in_features + i``.

        Example:
            >>> import torch
            >>> layer = NeuronLinear(2, 1, kind="x + x**2", normalise=False)
            >>> layer.features(torch.tensor([[1.0, 3.0]]))
            tensor([[1., 3., 1., 9.]])
        """
        every = tuple(range(len(self.kind.lift)))
        if not every:
            return input[..., :0]
        if self._scaled:
            return self._gathered(input, self._standardised(input, training=False), every)
        return self._lift(every)(input, self.axis, self._normaliser(input, training=False))

    def extra_repr(self) -> str:
        """Return what is shown between the brackets."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"kind={self.kind.name!r}"
        )

    def _affine(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(features, weight, bias)
