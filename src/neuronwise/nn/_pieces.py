"""Large tensors in pieces that stay in a processor's cache from one operation to the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["pieces"]

_ELEMENTS = 2**16
"""Numbers in a piece for each thread: a quarter of a mebibyte in single precision, against the cost of more calls."""


def pieces(tensor: Tensor, like: Tensor) -> Sequence[Tensor]:
    """Return a tensor cut along its first dimension, or whole where that would not help.

    Elementwise work on a piece finds in the cache what the step before has left there, and its temporary tensors are
    small. Accelerators have no use for it, and compilers fuse the steps.

    Args:
        tensor: What to cut.
        like: The tensor whose number of elements decides, of the same length.
    """
    if torch.compiler.is_compiling() or like.device.type != "cpu" or like.dim() < 2:
        return (tensor,)
    most = _ELEMENTS * torch.get_num_threads()
    if like.numel() <= most:
        return (tensor,)
    return torch.split_with_sizes(tensor, _sizes(like.shape[0], max(1, most * like.shape[0] // like.numel())))


def _sizes(length: int, step: int) -> list[int]:
    return [min(step, length - start) for start in range(0, length, step)]
