"""A fitted estimator as one torch module on raw inputs."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuronwise.discover.scaling import Scaling

__all__ = ["Whole"]


class Whole(nn.Module):
    """Scaling, network, and scaling back.

    Args:
        module: The network; copied.
        inputs: How inputs are scaled.
        targets: How outputs are brought back; None leaves them.
    """

    centre: Tensor
    scale: Tensor
    target_centre: Tensor
    target_scale: Tensor

    def __init__(self, module: nn.Sequential, inputs: Scaling, targets: Scaling | None) -> None:
        super().__init__()
        self.network = copy.deepcopy(module).cpu()
        self.clip = float("inf") if inputs.clip is None else inputs.clip
        ones = np.ones(1)
        for name, values in (
            ("centre", inputs.centre),
            ("scale", inputs.scale),
            ("target_centre", 0 * ones if targets is None else targets.centre),
            ("target_scale", ones if targets is None else targets.scale),
        ):
            self.register_buffer(name, _buffer(values))

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions (n, outputs) in the inputs' dtype, for raw inputs (n, d)."""
        # In double precision: a column far from 0 would lose its digits when its mean is taken off.
        scaled = ((x.double() - self.centre) / self.scale).clamp(-self.clip, self.clip)
        inner = next(self.network.parameters()).dtype
        out = self.network(scaled.to(inner)).double() * self.target_scale + self.target_centre
        found: Tensor = out.to(x.dtype)
        return found


def _buffer(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))
