"""Neurons of any kind in the place of ``torch.nn.Conv1d`` and ``torch.nn.Conv2d``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.nn._normalise import Normalise
from neuronwise.nn.kind import KindLike
from neuronwise.nn.layer import NeuronLayer

__all__ = ["NeuronConv1d", "NeuronConv2d"]

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class _NeuronConv(NeuronLayer):
    """What both convolutions share."""

    _plain: ClassVar[type[Any]]
    """The layer of torch that it stands for."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        kind: KindLike = "linear",
        normalise: Normalise = True,
        clip: float | None = None,
        momentum: float = 0.1,
    ) -> None:
        # A layer of torch, without memory of its own, checks the arguments and brings them into one form.
        sizes = (kernel_size, stride, padding, dilation)
        plain: nn.Conv1d | nn.Conv2d = self._plain(
            in_channels, out_channels, *sizes, groups, bias, padding_mode, "meta"
        )
        self.in_channels, self.out_channels = plain.in_channels, plain.out_channels
        self.kernel_size, self.stride, self.padding = plain.kernel_size, plain.stride, plain.padding
        self.dilation, self.groups, self.padding_mode = plain.dilation, plain.groups, plain.padding_mode
        self._around: list[int] = list(plain._reversed_padding_repeated_twice)
        super().__init__(
            kind,
            plain.out_channels,
            plain.in_channels,
            tuple(plain.kernel_size),
            bias=bias,
            groups=plain.groups,
            normalise=normalise,
            clip=clip,
            momentum=momentum,
            device=device,
            dtype=dtype,
        )
        if self._reads_inputs:
            raise InvalidArgumentError(
                f"{self.kind.name!r} reads inputs one by one, outside of inner products with weights, which has no "
                "meaning under a sliding window. Use NeuronLinear, or inner products such as '<w1, sin(x)>'."
            )
        # Around the picture the standardised base functions are at their average, 0. Bare ones are what they are at 0.
        features = [feature for feature in self._features if feature is not None]
        elsewhere = any(abs(feature.at_zero) > 0 for feature in features) and not self.normalise
        copies = self.padding_mode != "zeros"
        # Statistics of features are those of the picture without its copied rim, so these are padded themselves.
        self._pads_features = copies and bool(self._scaled)
        self._pads_first = not self._pads_features and (copies or (elsewhere and any(self._around)))

    def forward(self, input: Tensor) -> Tensor:
        """Return the neurons' outputs.

        Args:
            input: ``(batch, in_channels, ...)``, or one sample without the batch axis.

        Returns:
            ``(batch, out_channels, ...)``.
        """
        padded = self._padded(input) if self._pads_first else input
        if self._is_linear:
            return self._affine(padded, self.weight, self.bias)
        return self._run(self._stacks(input, training=self.training, padded=padded), None)

    def _padded(self, x: Tensor) -> Tensor:
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, self._around, mode=mode)

    def extra_repr(self) -> str:
        """Return what is shown between the brackets."""
        options = {
            "padding": (self.padding, (0,) * len(self.kernel_size)),
            "dilation": (self.dilation, (1,) * len(self.kernel_size)),
            "groups": (self.groups, 1),
            "padding_mode": (self.padding_mode, "zeros"),
            "bias": (self.bias is not None, True),
        }
        said = "".join(f", {name}={value!r}" for name, (value, usual) in options.items() if value != usual)
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}{said}, "
            f"kind={self.kind.name!r}"
        )

    def _affine(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self._pads_features:
            features = self._padded(features)
        padded = self._pads_first or self._pads_features
        padding = (0,) * len(self.kernel_size) if padded else self.padding
        return self._convolve(features, weight, bias, self.stride, padding, self.dilation, self.groups)

    @property
    @abstractmethod
    def _convolve(self) -> Callable[..., Tensor]:
        """The function of torch that does it."""


class NeuronConv1d(_NeuronConv):
    """``torch.nn.Conv1d`` with neurons of any kind; of kind ``"linear"`` it is bit for bit the same.

    See :class:`NeuronLinear` for kinds, running statistics (one mean and variance a channel) and bad inputs. Padded
    places count as average inputs of the base functions and as 0 of x; without ``normalise`` they are 0 for all.

    Args:
        in_channels: As in torch.
        out_channels: As in torch.
        kernel_size: As in torch.
        stride: As in torch.
        padding: As in torch.
        dilation: As in torch.
        groups: As in torch.
        bias: Whether neurons have offsets.
        padding_mode: As in torch.
        device: As in torch.
        dtype: As in torch.
        kind: What the neurons do, see :func:`kind`; inner products only, no single inputs or reductions.
        normalise: See :class:`NeuronLinear`.
        clip: See :class:`NeuronLinear`.
        momentum: See :class:`NeuronLinear`.

    Raises:
        InvalidArgumentError: If the kind reads inputs one by one.
    """

    _plain = nn.Conv1d

    @property
    def _convolve(self) -> Callable[..., Tensor]:
        return F.conv1d


class NeuronConv2d(_NeuronConv):
    """``torch.nn.Conv2d`` with neurons of any kind; of kind ``"linear"`` it is bit for bit the same.

    See :class:`NeuronConv1d` for everything.

    Args:
        in_channels: As in torch.
        out_channels: As in torch.
        kernel_size: As in torch.
        stride: As in torch.
        padding: As in torch.
        dilation: As in torch.
        groups: As in torch.
        bias: Whether neurons have offsets.
        padding_mode: As in torch.
        device: As in torch.
        dtype: As in torch.
        kind: What the neurons do, see :func:`kind`; inner products only, no single inputs or reductions.
        normalise: See :class:`NeuronLinear`.
        clip: See :class:`NeuronLinear`.
        momentum: See :class:`NeuronLinear`.

    Raises:
        InvalidArgumentError: If the kind reads inputs one by one.
    """

    _plain = nn.Conv2d

    @property
    def _convolve(self) -> Callable[..., Tensor]:
        return F.conv2d
